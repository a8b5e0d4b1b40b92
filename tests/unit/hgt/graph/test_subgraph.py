"""`limit_nodes`: a connected sample with balanced node types."""

import numpy as np
import pytest

from hgt.errors import InputError
from tests.unit.hgt.graph.rows import TREATS, graph_of, told


def num_components(graph):
    parent = {(t, i): (t, i) for t, ids in graph.node_ids.items() for i in ids}

    def root(node):
        while parent[node] != node:
            node = parent[node]
        return node

    for x, a, _, y, b in told(graph):
        parent[root((x, a))] = root((y, b))
    return len({root(n) for n in parent})


def mixed_rows(seed, num=600):
    """Genes are many and joined most among themselves, so that a careless sample would be genes
    only.
    """
    rng = np.random.default_rng(seed)
    genes = [("gene", int(a), "ppi", "gene", int(b)) for a, b in rng.integers(200, size=(num, 2))]
    others = [
        ("drug", int(a), "targets", "gene", int(b))
        for a, b in zip(rng.integers(30, size=80), rng.integers(200, size=80), strict=True)
    ]
    ills = [
        ("disease", int(a), "linked", "gene", int(b))
        for a, b in zip(rng.integers(30, size=80), rng.integers(200, size=80), strict=True)
    ]
    return [*genes, *others, *ills]


@pytest.mark.parametrize("limit", [2, 10, 60, 150])
@pytest.mark.parametrize("seed", range(3))
def test_limit_nodes_takes_a_connected_sample_of_balanced_types(seed, limit):
    graph = graph_of(mixed_rows(seed), limit_nodes=limit)
    assert graph.total_nodes == limit
    assert num_components(graph) == 1
    assert len(graph.node_types) == (3 if limit >= 10 else 2)
    if 10 <= limit <= 60:
        # all genes' share of the nodes is 0.77
        assert max(graph.num_nodes.values()) <= 0.65 * limit
    assert graph.dropped.outside_sample > 0
    assert graph.hash == graph_of(mixed_rows(seed), limit_nodes=limit).hash


def test_limit_nodes_never_gives_one_type_only_though_the_hub_knows_its_own_type_only():
    star = [("gene", 0, "ppi", "gene", i) for i in range(1, 30)]
    rows = [
        *star,
        ("gene", 29, "ppi", "gene", 30),
        ("gene", 30, "ppi", "gene", 31),
        ("drug", 1, "targets", "gene", 31),
    ]
    for limit in range(2, 12):
        assert graph_of(rows, limit_nodes=limit).node_types == ["drug", "gene"]


def test_a_limit_that_is_too_small_and_one_that_is_none():
    with pytest.raises(InputError, match="Nothing is left with limit_nodes 1"):
        graph_of(TREATS, limit_nodes=1)
    connected = [("drug", 0, "treats", "disease", i) for i in range(4)]
    assert graph_of(connected, limit_nodes=1000).hash == graph_of(connected).hash
