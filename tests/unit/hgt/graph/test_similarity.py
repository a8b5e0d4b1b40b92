"""Jaccard similarities equal brute force over Python sets."""

import numpy as np
import pytest
import scipy.sparse

from hgt.graph import similarity
from hgt.graph.similarity import jaccard, neighbour_sets, similar_pairs
from hgt.graph.split import TRAIN, split_facts


def python_sets(graph, split, node_type):
    span = graph.type_range(node_type)
    sets = [set() for _ in range(graph.num_nodes[node_type])]
    for h, _, t in split.of(TRAIN).T.tolist():
        for own, other in ((h, t), (t, h)):
            if span.start <= own < span.stop:
                sets[own - span.start].add(other)
    return sets


def brute_force(sets):
    n = len(sets)
    return np.array(
        [
            [len(sets[i] & sets[j]) / max(len(sets[i] | sets[j]), 1) for j in range(n)]
            for i in range(n)
        ]
    )


@pytest.mark.parametrize("node_type", ["disease", "gene/protein", "exposure"])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.34])
def test_similar_pairs_equal_brute_force(graph, split, node_type, threshold, monkeypatch):
    monkeypatch.setattr(similarity, "_ROWS", 7)  # several blocks
    sets = neighbour_sets(graph, split, node_type)
    expected = brute_force(python_sets(graph, split, node_type))
    everyone = np.arange(len(expected))
    np.testing.assert_allclose(jaccard(sets, everyone, everyone[::3]), expected[:, ::3], atol=1e-12)
    np.fill_diagonal(expected, 0)
    expected[expected < threshold] = 0
    np.testing.assert_allclose(
        similar_pairs(sets, threshold, max_per_node=len(expected)).toarray(), expected, atol=1e-12
    )


def test_neighbours_over_several_relations_count_once(make_graph, config):
    rows = [
        ("drug", "a", "treats", "disease", "x"),
        ("drug", "a", "harms", "disease", "x"),
        ("drug", "b", "treats", "disease", "x"),
    ]
    graph = make_graph(rows)
    sets = neighbour_sets(graph, split_facts(graph, config.split), "drug")
    assert sets.sum(axis=1).tolist() == [1, 1]
    assert similar_pairs(sets, 0.1)[0, 1] == 1.0


def test_held_out_facts_are_no_neighbours(graph, split):
    total = neighbour_sets(graph, split, "disease").sum()
    assert 0 < total == sum(map(len, python_sets(graph, split, "disease")))
    span = graph.type_range("disease")
    all_sets = {
        (own, other)
        for h, _, t in split.facts.T.tolist()
        for own, other in ((h, t), (t, h))
        if span.start <= own < span.stop
    }
    assert total < len(all_sets)


def test_each_row_keeps_its_most_similar_ones():
    sets = scipy.sparse.csr_array(
        np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=np.int32)
    )
    best = similar_pairs(sets, 0.0, max_per_node=2).toarray()
    assert best[0].tolist() == [0, 0.75, 0.5, 0]
    assert best[3].tolist() == [0, 1 / 3, 0.5, 0]
