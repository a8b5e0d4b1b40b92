"""One check: its threshold is included, and a figure that cannot be measured decides nothing."""

import pytest

from hgt.config import ValidationConfig
from hgt.evaluation.check import at_least, at_most

CONFIG = ValidationConfig(required_checks=("effective_rank",))


@pytest.mark.parametrize(("value", "verdict"), [(3.0, "pass"), (4.0, "pass"), (2.9, "FAIL")])
def test_a_lower_threshold_is_included(value, verdict):
    check = at_least(CONFIG, "effective_rank", "effective rank", value, 3, "low", unit=" x")
    assert (check.verdict, check.threshold, check.value) == (verdict, ">= 3 x", value)


@pytest.mark.parametrize(("value", "verdict"), [(3.0, "pass"), (2.0, "pass"), (3.1, "FAIL")])
def test_an_upper_threshold_is_included(value, verdict):
    check = at_most(CONFIG, "effective_rank", "effective rank", value, 3.0, "high")
    assert (check.verdict, check.threshold) == (verdict, "<= 3")


def test_a_failed_check_that_is_not_required_is_advice():
    assert at_most(CONFIG, "norm_ratio", "norms", 9.0, 3.0, "high").verdict == "advice"


def test_a_figure_that_cannot_be_measured_fails_without_deciding():
    check = at_least(CONFIG, "effective_rank", "effective rank", None, 3, "low")
    assert (check.passed, check.required, check.verdict) == (False, False, "advice")
