"""Embeddings judged: what the tests of checks share."""

import torch

from hgt.config import ValidationConfig
from hgt.evaluation.edge_classification import classify_facts
from hgt.evaluation.fact_index import FactIndex
from hgt.evaluation.geometry import measure_geometry
from hgt.evaluation.neighbourhoods import Neighbourhoods, measure_neighbourhoods
from hgt.evaluation.ranking import RankingMetrics, RankingReport, rank_facts
from hgt.evaluation.validation import Measured, validate
from hgt.model.decoders import DistMult

CONFIG = ValidationConfig()
TYPES = ("anatomy", "disease", "drug", "gene")
NUM, DIM = 60, 128  # nodes per type; four dimensions are the types' own
NOWHERE = Neighbourhoods(0, 240, "disease", None)


def noise(n, dim, seed):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def placed(own):
    """Each type at a place of its own, in dimensions that the nodes' own parts leave free."""
    places = 12 * torch.eye(4).repeat_interleave(NUM, 0)
    return torch.cat([own, places], dim=1)


def judged(vectors, world, config=CONFIG):
    graph, split = world
    decoder = DistMult(len(graph.edge_types), vectors.shape[1])
    decoder.relation.data = torch.ones_like(decoder.relation)
    index = FactIndex(graph)
    measured = Measured(
        measure_geometry(vectors, graph.node_table()["node_type"].to_numpy(dtype=str), seed=0),
        measure_neighbourhoods(vectors, graph, split, "disease", seed=0),
        rank_facts(vectors, decoder, split.facts, index),
        classify_facts(vectors, decoder, split.facts, index, seed=0),
    )
    return validate(measured, config)


def failed(report):
    return {c.key for c in report.checks if c.required and not c.passed}


def check_of(report, key):
    (check,) = [c for c in report.checks if c.key == key]
    return check


def metrics(mrr, chance):
    return RankingMetrics(mrr, {1: mrr, 3: mrr, 10: mrr}, chance, 2)


def ranks(typed):
    return RankingReport(metrics(0.9, 0.1), metrics(typed, 0.1), {}, {})
