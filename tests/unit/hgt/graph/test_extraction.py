"""What the rows say of a relation's direction, and what is said of nodes that are left out."""

import pytest

from hgt.config import GraphConfig, SplitConfig
from hgt.errors import InputError
from hgt.graph.extraction import refuse_early
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.leakage import audit_split
from hgt.graph.split import split_facts
from hgt.reading.edge_table import read_edge_table


@pytest.fixture
def graph_of(tmp_path):
    def make(rows, **config):
        (tmp_path / "kg.csv").write_text(
            "x_type,x_id,relation,y_type,y_id\n"
            + "".join(",".join(map(str, row)) + "\n" for row in rows)
        )
        return KnowledgeGraph.from_edge_table(
            read_edge_table(tmp_path / "kg.csv"), GraphConfig(**config)
        )

    return make


AFFECTS = [
    ("chemical", i, "affects", "disease", i * j % 31) for i in range(60) for j in (1, 2, 3, 4, 5)
]
AFFECTED = [
    ("disease", i * 7 % 31, "affects", "chemical", (i + j) % 60)
    for i in range(60)
    for j in range(5)
]
FORWARD, BACKWARD = ("chemical", "affects", "disease"), ("disease", "affects", "chemical")


def turned(row):
    return (row[3], row[4], row[2], row[0], row[1])


def test_a_relation_in_both_orientations_is_two_edge_types(graph_of):
    rows, back = list(dict.fromkeys(AFFECTS)), list(dict.fromkeys(AFFECTED))
    graph = graph_of([*rows, *back])
    assert graph.num_facts == {FORWARD: len(rows), BACKWARD: len(back)}
    assert graph.dropped.mirror == 0
    assert graph.symmetric == frozenset()
    config = SplitConfig(val_fraction=0.1, test_fraction=0.1)
    assert "none is on two sides" in str(audit_split(graph, split_facts(graph, config)))


@pytest.mark.parametrize("first", [0, 1])
def test_min_mirrored_share_decides_between_two_types_as_within_one(graph_of, first):
    rows = list(dict.fromkeys(AFFECTS))
    # two thirds of all rows have their mirror
    mirrors = [turned(row) for row in rows[: len(rows) // 2]]
    both = [*rows, *mirrors] if first == 0 else [*mirrors, *rows]
    edge_type = (FORWARD, BACKWARD)[first]
    assert graph_of(both).num_facts == {FORWARD: len(rows), BACKWARD: len(mirrors)}
    merged = graph_of(both, min_mirrored_share=0.6)
    assert merged.num_facts == {edge_type: len(rows)}
    assert merged.dropped.mirror == len(mirrors)
    assert graph_of(both, symmetric_relations=("affects",)).hash == merged.hash
    assert graph_of([*rows, *map(turned, rows)]).num_facts == {FORWARD: len(rows)}
    assert graph_of([*rows, *map(turned, rows)], directed_relations=("affects",)).num_facts == {
        FORWARD: len(rows),
        BACKWARD: len(rows),
    }


def test_nodes_that_have_nothing_but_self_loops_are_named(graph_of):
    rows = [
        ("gene", 1, "ppi", "gene", 2),
        ("gene", 1, "ppi", "gene", 1),
        ("gene", 3, "ppi", "gene", 3),
        ("gene", 3, "binds", "gene", 3),
    ]
    assert graph_of(rows).notes == (
        (
            "1 node(s) are left out, because their rows connect them with nothing but themselves:"
            " (gene, 3)"
        ),
    )
    rows += [("drug", i, "like", "drug", i) for i in range(9)]
    (note,) = graph_of(rows).notes
    assert note.startswith("10 node(s) are left out")
    assert note.endswith("(drug, 0), (drug, 1), (drug, 2), (drug, 3), ...") or "(gene, 3)" in note
    assert graph_of(rows[:2]).notes == ()


def test_a_sample_that_is_smaller_than_asked_says_why(graph_of):
    pairs = [("drug", i, "treats", "disease", i // 3) for i in range(300)]  # parts of 4 nodes
    chain = [("drug", f"d{i}", "treats", "disease", f"s{i // 3}") for i in range(9)] + [
        ("disease", f"s{i}", "is", "disease", f"s{i + 1}") for i in (0, 1)
    ]
    graph = graph_of([*pairs, *chain], limit_nodes=200)
    assert graph.total_nodes == 12
    assert graph.notes == (
        (
            "limit_nodes 200 gives 12 nodes: a sample is connected, and the largest connected part"
            " with more than one node type has 12 of the 412 nodes. Leave limit_nodes out to train"
            " on all parts."
        ),
    )
    assert graph_of(chain, limit_nodes=200).notes == graph_of(chain, limit_nodes=5).notes == ()


def test_of_many_edge_types_the_table_lists_the_largest(graph_of):
    rows = [("a", i, f"r{j}", "b", i) for j in range(50) for i in range(j + 1)]
    graph = graph_of(rows)
    short = graph.table(most=40).splitlines()
    assert (
        next(line.split("  (")[0].strip() for line in short if " - r4" in line) == "50  a - r49 - b"
    )
    assert "           55  facts of 10 more edge types" in short
    assert len(short) == len(graph.table().splitlines()) - 9
    assert "more" not in graph.table()


def test_a_line_break_in_a_name_stays_within_its_line(graph_of):
    shown = graph_of([('"a\nb"', i, "is\tof", "c", i) for i in range(3)]).table()
    assert [line.strip() for line in shown.splitlines() if "\\n" in line] == [
        "3  a\\nb",
        "3  a\\nb - is\\tof - c  (directed)",
    ]
    assert shown.splitlines()[3] == "3 facts of 1 edge type"


def test_what_a_small_file_would_be_refused_for_is_told_early(tmp_path, monkeypatch):
    kg = tmp_path / "kg.csv"
    kg.write_text(
        "x_type,x_id,relation,y_type,y_id\ndrug,1,interacts,drug,1\ndrug,2,interacts,drug,2\n"
    )
    with pytest.raises(InputError, match="2 connect a node with itself"):
        refuse_early(kg, GraphConfig())
    kg.write_text("x_type,x_id,relation,y_type,y_id\ndrug,1,interacts,drug,2\n")
    with pytest.raises(InputError, match=r"Unknown node type.* gene"):
        refuse_early(kg, GraphConfig(include_node_types=("gene",)))
    refuse_early(kg, GraphConfig())
    monkeypatch.setattr("hgt.reading.edge_table._FIRST_LOOK_BYTES", 1)
    # of a large file the beginning alone is looked at
    refuse_early(kg, GraphConfig(include_node_types=("gene",)))
