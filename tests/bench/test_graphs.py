"""Every node occurs in a fact, sizes and proportions are met; the file that a benchmark loads holds
the graph that it was written from.
"""

import pytest
import torch

from hgt.config import GraphConfig
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.reading.edge_table import read_edge_table
from tests.bench.graphs import (
    PRIMEKG_FACTS,
    PRIMEKG_NODES,
    PRIMEKG_SIZE,
    _node_counts,
    primekg_like,
    write_csv,
)


def test_what_is_written_is_read(tmp_path):
    graph = primekg_like(400, 3000)
    write_csv(graph, tmp_path / "kg.csv")
    rows = read_edge_table(tmp_path / "kg.csv")
    again = KnowledgeGraph.from_edge_table(rows, GraphConfig())
    assert rows.num_rows == 2 * graph.total_facts
    assert again.num_facts == {e: graph.num_facts[e] for e in again.num_facts}
    assert set(again.num_facts) == set(graph.num_facts)
    assert again.symmetric == graph.symmetric
    assert again.num_nodes == graph.num_nodes


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    "size", [(3_000, 20_000), (66_903, 200_000), (20_000, 30_000), (20_000, 400_000)], ids=str
)
def test_every_node_occurs_and_sizes_are_met(size, symmetric):
    graph = primekg_like(*size, symmetric)
    occurs = torch.zeros(graph.total_nodes, dtype=torch.bool)
    for edge_type, index in graph.edge_index.items():
        occurs[graph.global_facts(edge_type).flatten()] = True
        if edge_type[0] == edge_type[2]:
            assert (index[0] != index[1]).all()
            assert edge_type not in graph.symmetric or (index[0] < index[1]).all()
        assert len(index.unique(dim=1).T) == index.shape[1]
    assert occurs.all()
    assert graph.total_nodes == pytest.approx(size[0], rel=0.005)
    assert graph.total_facts == pytest.approx(size[1], rel=0.005)


def test_at_its_own_size_primekg_has_the_published_node_counts():
    assert _node_counts(PRIMEKG_SIZE[0], PRIMEKG_FACTS) == PRIMEKG_NODES


def test_types_with_few_facts_give_nodes_to_those_with_many():
    facts = {e: n // 20 for e, n in PRIMEKG_FACTS.items()}
    counts = _node_counts(66_903, facts)
    for node_type, n in counts.items():
        assert (
            n <= sum(f * ((e[0] == node_type) + (e[2] == node_type)) for e, f in facts.items()) / 2
        )
    assert (
        counts["biological_process"]
        < PRIMEKG_NODES["biological_process"] / 2
        < counts["gene/protein"]
    )
    assert sum(counts.values()) == pytest.approx(66_903, abs=10)
