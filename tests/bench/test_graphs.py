"""The file that a benchmark loads holds the graph that it was written from."""

from hgt.config import GraphConfig
from hgt.edge_table import read_edge_table
from hgt.graph import KnowledgeGraph
from tests.bench.graphs import primekg_like, write_csv


def test_what_is_written_is_read(tmp_path):
    graph = primekg_like(400, 3000)
    write_csv(graph, tmp_path / "kg.csv")
    rows = read_edge_table(tmp_path / "kg.csv")
    again = KnowledgeGraph.from_edge_table(rows, GraphConfig())
    assert rows.num_rows == 2 * graph.total_facts
    assert again.num_facts == {e: graph.num_facts[e] for e in again.num_facts}
    assert set(again.num_facts) == set(graph.num_facts)
    assert again.symmetric == graph.symmetric
