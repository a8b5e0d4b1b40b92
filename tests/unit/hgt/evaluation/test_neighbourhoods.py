"""Nodes without training facts are counted; the rank correlation equals its definition, and tells
knowledge from noise.
"""

import numpy as np
import pytest
import scipy.stats
import torch

from hgt.evaluation.neighbourhoods import measure_neighbourhoods, sample_pairs
from hgt.graph.similarity import jaccard, neighbour_sets
from hgt.graph.split import TRAIN
from hgt.seeds import Stream, generator


def normal(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def knowing(graph, split, node_type):
    """Each node of the type is the sum of its neighbours' random vectors."""
    vectors = normal(graph.total_nodes, 32)
    sets = torch.from_numpy(neighbour_sets(graph, split, node_type).toarray()).float()
    vectors[graph.type_range(node_type)] = sets @ vectors + 0.01 * normal(len(sets), 32, seed=1)
    return vectors


def test_nodes_without_training_facts_are_counted(graph, split):
    ends = set(split.of(TRAIN)[[0, 2]].flatten().tolist())
    found = measure_neighbourhoods(normal(graph.total_nodes, 4), graph, split, "disease", seed=0)
    assert found.num_untrained == graph.total_nodes - len(ends) > 0
    assert found.num_nodes == graph.total_nodes


def test_the_correlation_equals_its_definition(graph, split):
    vectors, node_type = knowing(graph, split, "gene/protein"), "gene/protein"
    sets = neighbour_sets(graph, split, node_type)
    pairs = sample_pairs(sets, generator(7, Stream.SIMILAR_PAIRS))
    own = vectors[graph.type_range(node_type)].double().numpy()
    cosine = [own[i] @ own[j] / np.linalg.norm(own[i]) / np.linalg.norm(own[j]) for i, j in pairs.T]
    similarity = [jaccard(sets, np.array([i]), np.array([j]))[0, 0] for i, j in pairs.T]
    found = measure_neighbourhoods(vectors, graph, split, node_type, seed=7)
    assert found.correlation == pytest.approx(scipy.stats.spearmanr(similarity, cosine).statistic)
    assert found.correlation > 0.4


def test_pairs_are_seeded_different_nodes_half_of_which_share_a_neighbour(graph, split):
    sets = neighbour_sets(graph, split, "gene/protein")
    first, again, other = (sample_pairs(sets, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (first[0] != first[1]).all()
    alike = np.array([jaccard(sets, np.array([i]), np.array([j]))[0, 0] for i, j in first.T]) > 0
    assert alike[:1_000].all()
    assert 0.4 < alike.mean() < 0.95


def test_noise_and_shuffled_vectors_do_not_agree_with_the_graph(graph, split):
    vectors, own = knowing(graph, split, "gene/protein"), graph.type_range("gene/protein")
    shuffled = vectors.clone()
    shuffled[own] = vectors[own][
        torch.randperm(graph.num_nodes["gene/protein"], generator=torch.Generator().manual_seed(0))
    ]
    for wrong in (normal(graph.total_nodes, 32, seed=2), shuffled):
        assert (
            abs(measure_neighbourhoods(wrong, graph, split, "gene/protein", seed=0).correlation)
            < 0.1
        )


def test_rows_that_are_not_finite_are_left_out(graph, split):
    vectors = knowing(graph, split, "gene/protein")
    vectors[graph.type_range("gene/protein").start] = float("nan")
    assert measure_neighbourhoods(vectors, graph, split, "gene/protein", seed=0).correlation > 0.4


def test_where_nothing_can_be_correlated_there_is_no_figure(graph, split):
    for vectors, node_type in (
        (normal(graph.total_nodes, 4), "unicorn"),
        (torch.ones(graph.total_nodes, 4), "disease"),
        (torch.full((graph.total_nodes, 4), float("nan")), "disease"),
    ):
        assert measure_neighbourhoods(vectors, graph, split, node_type, seed=0).correlation is None
