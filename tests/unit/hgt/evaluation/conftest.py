"""Embeddings without a defect, and the small graph that they describe."""

import pytest

from hgt.config import RunConfig
from hgt.graph.split import split_facts
from tests.unit.hgt.evaluation.judged import DIM, NUM, TYPES, noise, placed


@pytest.fixture(scope="module")
def world(make_graph):
    """Node i of each type goes with node i of others: a graph that can be known perfectly."""
    pairs = (
        ("disease", "treated_by", "drug"),
        ("disease", "linked_to", "gene"),
        ("drug", "targets", "gene"),
        ("anatomy", "shows", "gene"),
    )
    graph = make_graph(
        [(h, f"{h}{i:02}", r, t, f"{t}{i:02}") for h, r, t in pairs for i in range(NUM)]
    )
    assert graph.node_types == list(TYPES)
    return graph, split_facts(graph, RunConfig().split)


@pytest.fixture(scope="module")
def good():
    """Nodes that go together share their own part."""
    return placed(noise(NUM, DIM - 4, 0).repeat(4, 1))
