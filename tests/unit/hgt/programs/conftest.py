"""Embeddings that know a little of the session's graph, and their file."""

import pytest
import torch

from hgt.embeddings.table import Embeddings
from hgt.run.identity import Identity


@pytest.fixture(scope="module")
def embeddings(graph, split, config):
    """A table that knows the graph a little: both ends of a fact share a part of their vectors."""
    torch.manual_seed(0)
    edges = torch.cat([graph.global_facts(e) for e in graph.edge_types], dim=1)
    x = torch.randn(graph.total_nodes, 16)
    x = x + 0.3 * torch.zeros_like(x).index_add(0, edges[0], x[edges[1]]).index_add(
        0, edges[1], x[edges[0]]
    )
    made_of = Identity.of(graph, split, config).as_dict()
    origin = {**made_of, "decoder": "distmult", "parameters": config.to_flat()}
    return Embeddings(
        graph.node_table().astype(str),
        x,
        tuple(graph.edge_types),
        torch.rand(len(graph.edge_types), 16),
        origin,
    )


@pytest.fixture
def table(embeddings, tmp_path):
    (tmp_path / "alone").mkdir()
    embeddings.save(tmp_path / "run")
    embeddings.save_csv(tmp_path / "alone" / "out.csv")
    return tmp_path / "run" / "embeddings.parquet"
