"""Known answers: each defect fails the checks that are meant for it and no other; noise passes the
geometry and fails the ranking.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from hgt.config import CHECKS, REQUIRED_CHECKS
from hgt.evaluation.validation import Measured, validate
from tests.unit.hgt.evaluation.judged import (
    CONFIG,
    DIM,
    NOWHERE,
    NUM,
    TYPES,
    check_of,
    failed,
    judged,
    noise,
    placed,
)

COLLAPSE = {"mean_cosine", "components_90", "effective_rank", "dead_dimensions", "type_spread"}


def test_good_embeddings_are_accepted(good, world):
    report = judged(good, world)
    assert failed(report) == set()
    assert report.accepted
    assert report.table().endswith("ACCEPTED")
    assert {c.key for c in report.checks if c.required} == set(REQUIRED_CHECKS)


# --- Defects: from the good table, one thing made wrong -------------------------------------------


def rows_not_a_number(good, value=float("nan"), every=20):
    spoilt = good.clone()
    spoilt[::every, 3] = value
    return spoilt


def one_direction(good):
    """A common vector far larger than what tells the nodes apart, in a dimension of the types'."""
    return good + 40 * torch.eye(DIM)[DIM - 1]


def rank_four(good):
    """Types on a line, nodes on a sphere: a table that tells everything, in four of its
    directions.
    """
    own = torch.nn.functional.normalize(noise(NUM, 3, 1), dim=1).repeat(4, 1)
    line = torch.linspace(-18, 18, 4).repeat_interleave(NUM)[:, None]
    return torch.cat([own, line], dim=1) @ torch.linalg.qr(noise(DIM, 4, 2))[0].T


def one_strong_direction(good):
    """Of full rank, but nearly all of the variance is in the line along which types lie."""
    line = torch.tensor([-1.5, -0.5, 0.5, 1.5]).repeat_interleave(NUM)[:, None]
    return torch.cat([good[:, : DIM - 4], 80 * line, torch.zeros(4 * NUM, 1)], dim=1)


def dead_dimensions(good):
    spoilt = good.clone()
    spoilt[:, :20] = 0.7
    return spoilt


def dead_type(good):
    """All anatomies have the first one's vector."""
    spoilt = good.clone()
    spoilt[:NUM] = good[0]
    return spoilt


def nearly_dead_type(good):
    return torch.cat([good[:1] + 0.05 * noise(NUM, DIM, 3), good[NUM:]])


def half_duplicates(good):
    """Every second node has the vector of the one before."""
    return good[torch.arange(4 * NUM) // 2 * 2]


def rows_of(factor, good):
    spoilt = good.clone()
    spoilt[::20] *= factor
    return spoilt


def shuffled_within_types(good):
    rng = np.random.default_rng(0)
    return good[
        torch.from_numpy(
            np.concatenate([start + rng.permutation(NUM) for start in range(0, 4 * NUM, NUM)])
        )
    ]


def shuffled(good):
    return good[torch.from_numpy(np.random.default_rng(0).permutation(4 * NUM))]


def random_in_places(good):
    return placed(noise(4 * NUM, DIM - 4, 4))


def isotropic(good):
    return noise(4 * NUM, DIM, 5)


def noise_of_rank_four(good):
    return noise(4 * NUM, 4, 6) @ noise(4, DIM, 7)


def constant(good):
    return good[:1].expand(4 * NUM, DIM).clone()


DEFECTS = [
    (rows_not_a_number, {"finite"}),
    (lambda good: rows_not_a_number(good, float("inf")), {"finite"}),
    (lambda good: rows_not_a_number(good, every=1_000), {"finite"}),
    (one_direction, {"mean_cosine"}),
    (rank_four, {"components_90", "effective_rank"}),
    (one_strong_direction, {"components_90", "effective_rank"}),
    (dead_dimensions, {"dead_dimensions"}),
    (dead_type, {"type_spread"}),
    (nearly_dead_type, {"type_spread"}),
    (half_duplicates, {"distinct_rows"}),
    (lambda good: rows_of(0.0, good), {"tiny_norms"}),
    (lambda good: rows_of(1e-5, good), {"tiny_norms"}),
    (shuffled_within_types, {"mrr"}),
    (random_in_places, {"mrr"}),
    (shuffled, {"type_accuracy", "mrr"}),
    # types are no part of it, and it is not called collapsed
    (isotropic, {"type_accuracy", "mrr"}),
    (noise_of_rank_four, {"components_90", "effective_rank", "type_accuracy", "mrr"}),
    (constant, COLLAPSE | {"distinct_rows", "type_accuracy", "mrr"}),
]


@pytest.mark.parametrize(
    ("defect", "expected"), DEFECTS, ids=lambda v: getattr(v, "__name__", None)
)
def test_a_defect_fails_the_checks_that_are_meant_for_it_and_no_other(
    good, world, defect, expected
):
    report = judged(defect(good), world)
    assert failed(report) == expected
    assert not report.accepted
    last = report.table().splitlines()[-1]
    assert last == "REJECTED: " + "; ".join(c.name for c in report.checks if c.key in expected)


def test_every_required_check_has_a_defect_of_its_own():
    assert set().union(*(expected for _, expected in DEFECTS)) == set(REQUIRED_CHECKS)


# --- Configuration --------------------------------------------------------------------------------


def test_every_check_has_a_key_and_can_be_required(good, world):
    report = judged(good, world, replace(CONFIG, required_checks=CHECKS))
    assert [c.key for c in report.checks if c.key not in CHECKS] == []
    assert {c.key for c in report.checks} == set(CHECKS)
    assert len(report.checks) == len(CHECKS)
    told = {c.key for c in report.checks if c.value is not None}
    assert {c.key for c in report.checks if c.required} == told
    assert set(CHECKS) - told == {"similarity_correlation"}, (
        "each disease has neighbours of its own here"
    )


def test_required_checks_decide(good, world):
    duplicates = half_duplicates(good)
    assert not judged(duplicates, world).accepted
    report = judged(duplicates, world, replace(CONFIG, required_checks=("mrr", "finite")))
    assert report.accepted
    assert check_of(report, "distinct_rows").verdict == "advice"
    strict = judged(
        good,
        world,
        replace(CONFIG, required_checks=("mrr", "disease_cosine"), min_disease_cosine=0.7),
    )
    assert failed(strict) == {"disease_cosine"}


def test_what_cannot_be_measured_decides_nothing_even_if_required(good, world):
    every = replace(
        CONFIG, required_checks=tuple(c for c in CHECKS if c != "mrr"), min_disease_cosine=0.0
    )
    geometry = replace(
        judged(good, world).geometry, silhouette=None, spread_by_type={}, mean_cosine_by_type={}
    )
    report = validate(Measured(geometry, NOWHERE, None, None), every)
    assert report.accepted
    assert {c.key for c in report.checks if c.value is None} == {
        "silhouette",
        "type_spread",
        "similarity_correlation",
        "mrr",
    }
    assert "disease_cosine" not in {c.key for c in report.checks}


def test_the_report_as_json_and_as_text(good, world):
    report = judged(good, world)
    told = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert told["accepted"] is True
    assert [(c["key"], c["name"]) for c in told["checks"]] == [
        (c.key, c.name) for c in report.checks
    ]
    ranking, pairs = report.ranking, report.measured.classification
    assert told["ranking"]["typed"]["mrr"] == ranking.typed.mrr
    assert told["ranking"]["typed_macro"]["mrr"] == ranking.typed_macro.mrr
    assert told["ranking"]["all_nodes_macro"]["hits"]["3"] == ranking.all_nodes_macro.hits[3]
    first = told["ranking"]["by_edge_type"][0]
    assert first["edge_type"] == ["anatomy", "shows", "gene"]
    assert (
        first["all_nodes"]["mrr"] == ranking.by_edge_type_all_nodes["anatomy", "shows", "gene"].mrr
    )
    assert told["classification"]["micro"]["auroc"] == pairs.micro.auroc
    assert (
        told["classification"]["by_edge_type"][0]["auprc"]
        == pairs.by_edge_type["anatomy", "shows", "gene"].auprc
    )
    assert told["spread_by_type"].keys() == told["mean_cosine_by_type"].keys() == set(TYPES)
    text = report.table()
    for c in report.checks:
        assert c.name in text
        assert c.meaning in text
    assert max(map(len, text.splitlines())) <= 170
    (line,) = [line for line in text.splitlines() if "disease - treated_by - drug" in line]
    m, p = (r.by_edge_type["disease", "treated_by", "drug"] for r in (ranking, pairs))
    assert line.split()[-3:-1] == [f"{p.auroc:.4f}", f"{p.auprc:.4f}"]
    assert f"{m.mrr:.4f}" in line
