"""The table of a graph's size: its sums, its order, and the rows that it leaves out."""

from hgt.graph.facts import DroppedRows
from hgt.graph.graph_table import graph_table

NODES = {"drug": 3, "gene": 1_200, "disease": 40}
FACTS = {("drug", "treats", "disease"): 7, ("gene", "ppi", "gene"): 9_000}
SYMMETRIC = frozenset([("gene", "ppi", "gene")])


def test_all_types_come_largest_first_with_their_sums():
    table = graph_table(NODES, FACTS, SYMMETRIC, DroppedRows(mirror=5)).splitlines()
    assert table[0] == "1,243 nodes of 3 types"
    assert [line.split() for line in table[1:4]] == [
        ["1,200", "gene"],
        ["40", "disease"],
        ["3", "drug"],
    ]
    assert table[4] == "9,007 facts of 2 edge types"
    assert table[5].split(maxsplit=1) == ["9,000", "gene - ppi - gene  (symmetric)"]
    assert table[6].split(maxsplit=1) == ["7", "drug - treats - disease  (directed)"]
    assert table[8].split() == ["5", "mirror"]


def test_the_smaller_types_are_one_line_with_their_sum():
    table = graph_table(NODES, FACTS, SYMMETRIC, DroppedRows(), most=1).splitlines()
    assert [line.strip() for line in table[1:3]] == ["1,200  gene", "43  nodes of 2 more types"]
    assert table[5].strip() == "7  facts of 1 more edge types"
