"""Thresholds of the geometry, and the names and figures in the checks."""

from dataclasses import replace

import pytest

from hgt.config import REQUIRED_CHECKS
from hgt.evaluation.validation import Measured, validate
from tests.unit.hgt.evaluation.judged import CONFIG, NOWHERE, check_of, failed, judged, ranks
from tests.unit.hgt.evaluation.test_validation import dead_type, shuffled


def test_the_dead_type_is_named(good, world):
    assert "anatomy" in check_of(judged(dead_type(good), world), "type_spread").meaning


def test_a_large_row_is_told(good, world):
    spoilt = good.clone()
    spoilt[5] *= 101
    assert check_of(judged(spoilt, world), "norm_ratio").verdict == "advice"
    assert check_of(judged(good, world), "norm_ratio").verdict == "pass"


def test_types_over_one_another_have_no_silhouette(good, world):
    assert check_of(judged(good, world), "silhouette").verdict == "pass"
    assert check_of(judged(shuffled(good), world), "silhouette").verdict == "advice"


@pytest.mark.parametrize(("key", "field", "at", "beyond"), [
    ("finite", "num_not_finite", 0, 1),
    ("mean_cosine", "mean_cosine", 0.4999, 0.5),
    ("components_90", "components_90", 15, 14),
    ("effective_rank", "effective_rank", 10.0, 9.99),
    ("distinct_rows", "distinct_share", 0.99, 0.9899),
    ("dead_dimensions", "dead_dimensions", 0.05, 0.0501),
    ("type_spread", "spread_by_type", {"a": 1.9, "b": 0.05}, {"a": 1.9, "b": 0.0499}),
    ("tiny_norms", "tiny_norms", 0.01, 0.0101),
    ("norm_ratio", "norm_ratio", 100.0, 100.1),
    ("type_accuracy", "type_accuracy", 0.7, 0.6999),
    ("plane_accuracy", "plane_type_accuracy", 0.75, 0.7499),
    ("silhouette", "silhouette", 0.0, -0.0001),
    ("disease_cosine", "mean_cosine_by_type", {"disease": 0.5}, {"disease": 0.4999}),
    ("disease_cosine", "mean_cosine_by_type", {"disease": 0.8}, {"disease": 0.8001}),
])  # fmt: skip
def test_thresholds_of_the_geometry(good, world, key, field, at, beyond):
    geometry = judged(good, world).geometry
    for value, passed in ((at, True), (beyond, False)):
        report = validate(
            Measured(replace(geometry, **{field: value}), NOWHERE, ranks(0.5), None), CONFIG
        )
        assert check_of(report, key).passed == passed
        assert failed(report) == ({key} & set(REQUIRED_CHECKS) if not passed else set())
