"""One small demo graph for all tests of the library, whatever a test changes it builds anew; and a
disk without room.
"""

import resource
import signal

import pandas as pd
import pytest
import torch

from hgt.config import RunConfig
from hgt.graph.demo_graph import demo_rows
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import split_facts
from hgt.reading.edge_table import read_edge_table
from hgt.training.trainee import build_trainee

torch.set_num_threads(1)

_SMALL = {
    "embedding_dim": 16,
    "hidden_dim": 16,
    "num_heads": 4,
    "dropout": 0.0,
    "input_dropout": 0.0,
    "edge_dropout": 0.0,
    "device": "cpu",
    "edge_sample_size": 40,
    "min_batches_per_epoch": 3,
    "num_negatives": 20,
    "accumulation_steps": 2,
    "contrastive_weight": 0.5,
    "directed_relations": ["bioprocess_bioprocess"],
}


@pytest.fixture(scope="session")
def make_config():
    """`make_config(accumulation_steps=8)`: the small configuration with other values."""
    return lambda **values: RunConfig.from_flat(_SMALL | values)


@pytest.fixture(scope="session")
def config(make_config):
    return make_config()


@pytest.fixture(scope="session")
def kg_csv(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "kg.csv"
    demo_rows(300, 1200, num_communities=4, seed=5).to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def graph(kg_csv, config):
    """About 300 nodes of ten types, 15 edge types: symmetric, between two types, and one directed
    within a type.
    """
    return KnowledgeGraph.from_edge_table(read_edge_table(kg_csv), config.graph)


@pytest.fixture(scope="session")
def split(graph, config):
    return split_facts(graph, config.split)


@pytest.fixture
def trainee(graph, split, config):
    return build_trainee(config, graph, split, torch.device("cpu"))


@pytest.fixture(scope="session")
def make_graph(tmp_path_factory):
    """`make_graph([("drug", "a", "treats", "disease", "b"), ...])`: a graph from rows written by
    hand.
    """

    def make(rows, **config):
        path = tmp_path_factory.mktemp("rows") / "kg.csv"
        pd.DataFrame(rows, columns=["x_type", "x_id", "relation", "y_type", "y_id"]).to_csv(
            path, index=False
        )
        return KnowledgeGraph.from_edge_table(
            read_edge_table(path), RunConfig.from_flat(config).graph
        )

    return make


@pytest.fixture
def room():
    """`room(100)`: no file of this process grows beyond that many bytes, as on a full disk; None:
    as before.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(num_bytes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if num_bytes is None else num_bytes, hard))

    yield limit
    limit(None)


@pytest.fixture
def keeping_signals():
    """A program takes SIGINT and SIGTERM for itself; the tests get theirs back."""
    kept = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for n, handler in kept.items():
        signal.signal(n, handler)
