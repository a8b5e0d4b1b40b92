"""Thresholds of neighbourhoods and ranks."""

from dataclasses import replace

import pytest

from hgt.evaluation.validation import Measured, validate
from tests.unit.hgt.evaluation.judged import CONFIG, NOWHERE, check_of, failed, judged, ranks


@pytest.mark.parametrize(
    ("key", "at", "beyond"),
    [
        ("untrained_nodes", replace(NOWHERE, num_untrained=12), replace(NOWHERE, num_untrained=13)),
        (
            "similarity_correlation",
            replace(NOWHERE, correlation=0.1),
            replace(NOWHERE, correlation=0.0999),
        ),
    ],
)
def test_thresholds_of_the_neighbourhoods_advise(good, world, key, at, beyond):
    geometry = judged(good, world).geometry
    for value, verdict in ((at, "pass"), (beyond, "advice")):
        assert (
            check_of(validate(Measured(geometry, value, ranks(0.5), None), CONFIG), key).verdict
            == verdict
        )


def test_ranking_threshold_is_on_typed_ranks(good, world):
    geometry = judged(good, world).geometry
    for typed, rejected in ((0.31, False), (0.29, True)):
        assert (
            "mrr" in failed(validate(Measured(geometry, NOWHERE, ranks(typed), None), CONFIG))
        ) == rejected


@pytest.mark.parametrize(("chance", "typed", "passed"), [
    (0.4, 0.71, True), (0.4, 0.69, False),  # 3 x would be more than the best there is
    (0.1, 0.31, True), (0.1, 0.29, False),
    (1.0, 1.0, True),  # one candidate: nothing can be told, and nothing is asked
])  # fmt: skip
def test_of_few_candidates_no_more_is_asked_than_half_way_from_chance_to_all(
    good, world, chance, typed, passed
):
    ranking = ranks(typed)
    ranking = replace(ranking, typed=replace(ranking.typed, chance_mrr=chance))
    assert (
        check_of(
            validate(Measured(judged(good, world).geometry, NOWHERE, ranking, None), CONFIG), "mrr"
        ).passed
        == passed
    )


def test_few_ranks_are_told(good, world):
    geometry, ranking = judged(good, world).geometry, ranks(0.5)
    for num_ranks, told in ((99, True), (100, False)):
        few = replace(ranking, typed=replace(ranking.typed, num_ranks=num_ranks))
        assert (
            f"of {num_ranks} ranks alone"
            in check_of(validate(Measured(geometry, NOWHERE, few, None), CONFIG), "mrr").meaning
        ) == told


# --- What cannot be measured, and the report ------------------------------------------------------


def test_without_held_out_facts_nothing_is_ranked_and_nothing_breaks(good, world):
    """But nothing says that the vectors know the graph, either."""
    measured = Measured(judged(good, world).geometry, NOWHERE, None, None)
    report = validate(measured, CONFIG)
    assert failed(report) == {"mrr"}
    check = check_of(report, "mrr")
    assert (check.value, check.required, check.verdict) == (None, True, "FAIL")
    assert validate(
        measured,
        replace(CONFIG, required_checks=tuple(c for c in CONFIG.required_checks if c != "mrr")),
    ).accepted
    assert report.as_dict()["ranking"] is report.as_dict()["classification"] is None
    assert "nothing could be ranked" in report.table()
