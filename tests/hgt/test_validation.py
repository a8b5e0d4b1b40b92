"""Every required check fails on an input meant for it; noise passes the geometry and fails the ranking."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from hgt.config import RunConfig, ValidationConfig
from hgt.geometry import measure_geometry
from hgt.model import Decoder
from hgt.ranking import FactIndex, RankingMetrics, RankingReport, rank_facts
from hgt.split import split_facts
from hgt.validation import validate

CONFIG = ValidationConfig()
GEOMETRY = ("rows not finite", "mean pairwise cosine", "components for 90 % of variance", "type accuracy in PCA space")
RANKING = "typed MRR over chance"
NUM = 60  # nodes per type


@pytest.fixture(scope="module")
def pairs(make_graph):
    """Disease i goes with drug i: a graph that can be known perfectly."""
    graph = make_graph([("disease", f"a{i:02}", "treated_by", "drug", f"b{i:02}") for i in range(NUM)])
    return graph, split_facts(graph, RunConfig().split)


@pytest.fixture(scope="module")
def good():
    """Each pair a direction of its own, each type a place of its own."""
    torch.manual_seed(0)
    own = torch.randn(NUM, 64)
    place = torch.zeros(2, 64)
    place[0, 0], place[1, 0] = 12.0, -12.0
    return torch.cat([place[0] + own, place[1] + own])


def judged(vectors, pairs, shuffle_types=False):
    graph, split = pairs
    types = graph.node_table()["node_type"].to_numpy(dtype=str)
    if shuffle_types:
        types = np.random.default_rng(0).permutation(types)
    decoder = Decoder(1, vectors.shape[1], "distmult")
    decoder.relation.data = torch.ones(1, vectors.shape[1])
    ranking = rank_facts(vectors, decoder, split.facts, FactIndex(graph))
    return validate(measure_geometry(vectors, types, seed=0), ranking, CONFIG)


def failed(report):
    return {c.name for c in report.checks if c.required and not c.passed}


def test_good_embeddings_are_accepted(good, pairs):
    report = judged(good, pairs)
    assert failed(report) == set()
    assert report.accepted
    assert report.table().endswith("ACCEPTED")
    assert {c.name for c in report.checks if c.required} == {*GEOMETRY, RANKING}


def test_nan_is_rejected(good, pairs):
    spoilt = good.clone()
    spoilt[7, 3] = float("nan")
    report = judged(spoilt, pairs)
    assert failed(report) == {"rows not finite"}
    assert not report.accepted


def test_one_direction_is_rejected(good, pairs):
    """A common vector far larger than what tells the nodes apart: only the cosine sees it."""
    shifted = good.clone()
    shifted[:, 1] += 40
    assert "mean pairwise cosine" in failed(judged(shifted, pairs))
    assert failed(judged(shifted, pairs)) <= {"mean pairwise cosine", RANKING}


def test_few_dimensions_are_rejected(pairs):
    torch.manual_seed(1)
    own = torch.randn(NUM, 6) @ torch.randn(6, 64)
    place = torch.zeros(64)
    place[0] = 12.0
    assert failed(judged(torch.cat([own + place, own - place]), pairs)) == {"components for 90 % of variance"}


def test_mixed_types_are_rejected(good, pairs):
    assert failed(judged(good, pairs, shuffle_types=True)) == {"type accuracy in PCA space"}


def test_noise_passes_the_geometry_and_fails_the_ranking(good, pairs):
    """The vectors of a good table dealt out anew within each type: no geometry can tell, the graph can."""
    torch.manual_seed(2)
    noise = torch.cat([part[torch.randperm(NUM)] for part in good.split(NUM)])
    report = judged(noise, pairs)
    assert failed(report) == {RANKING}
    assert report.table().endswith(f"REJECTED: {RANKING}")
    random = torch.randn(2 * NUM, 64) + torch.tensor([4.0, -4.0]).repeat_interleave(NUM)[:, None] * torch.eye(64)[0]
    assert failed(judged(random, pairs)) == {RANKING}


def test_collapsed_embeddings_are_rejected(pairs):
    assert failed(judged(torch.ones(2 * NUM, 64), pairs)) == {*GEOMETRY[1:], RANKING}


def metrics(mrr, chance):
    return RankingMetrics(mrr, {1: mrr, 3: mrr, 10: mrr}, chance, 2)


@pytest.mark.parametrize(("field", "at", "beyond", "name"), [
    ("mean_cosine", 0.4999, 0.5, GEOMETRY[1]),
    ("components_90", 15, 14, GEOMETRY[2]),
    ("type_accuracy", 0.7, 0.6999, GEOMETRY[3]),
    ("num_not_finite", 0, 1, GEOMETRY[0]),
])  # fmt: skip
def test_thresholds(good, pairs, field, at, beyond, name):
    geometry = judged(good, pairs).geometry
    ranking = RankingReport(metrics(0.5, 0.1), metrics(0.5, 0.1), {})
    assert name not in failed(validate(replace(geometry, **{field: at}), ranking, CONFIG))
    assert failed(validate(replace(geometry, **{field: beyond}), ranking, CONFIG)) == {name}


def test_ranking_threshold_is_on_typed_ranks(good, pairs):
    geometry = judged(good, pairs).geometry
    for typed, rejected in ((0.31, False), (0.29, True)):
        ranking = RankingReport(metrics(0.9, 0.1), metrics(typed, 0.1), {})
        assert (RANKING in failed(validate(geometry, ranking, CONFIG))) == rejected


def test_without_held_out_facts_nothing_is_ranked_and_nothing_breaks(good, pairs):
    report = validate(judged(good, pairs).geometry, None, CONFIG)
    assert report.accepted
    (check,) = [c for c in report.checks if c.name == RANKING]
    assert (check.value, check.required, check.verdict) == (None, False, "advice")
    assert report.as_dict()["ranking"] is None
    assert "nothing could be ranked" in report.table()


def test_the_disease_band_advises(good, pairs):
    geometry = judged(good, pairs).geometry
    for value, verdict in ((0.6, "pass"), (0.1, "advice"), (0.9, "advice")):
        report = validate(replace(geometry, mean_cosine_by_type={"disease": value}), None, CONFIG)
        assert [c.verdict for c in report.checks if c.name == "mean cosine among diseases"] == [verdict]
        assert report.accepted
    assert not [c for c in validate(replace(geometry, mean_cosine_by_type={}), None, CONFIG).checks if "disease" in c.name]


def test_the_report_as_json_and_as_text(good, pairs):
    report = judged(good, pairs)
    told = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert told["accepted"] is True
    assert [c["name"] for c in told["checks"]] == [c.name for c in report.checks]
    assert told["ranking"]["typed"]["mrr"] == report.ranking.typed.mrr
    assert told["ranking"]["by_edge_type"][0]["edge_type"] == ["disease", "treated_by", "drug"]
    assert told["ranking"]["typed"]["hits"]["10"] == report.ranking.typed.hits[10]
    text = report.table()
    for c in report.checks:
        assert c.name in text
        assert c.meaning in text
    assert "disease - treated_by - drug" in text
