"""Known answers: each defect fails the checks that are meant for it and no other; noise passes the
geometry and fails the ranking.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from hgt.config import CHECKS, REQUIRED_CHECKS, RunConfig, ValidationConfig
from hgt.evaluation.edge_classification import classify_facts
from hgt.evaluation.fact_index import FactIndex
from hgt.evaluation.geometry import measure_geometry
from hgt.evaluation.neighbourhoods import Neighbourhoods, measure_neighbourhoods
from hgt.evaluation.ranking import RankingMetrics, RankingReport, rank_facts
from hgt.evaluation.ranking_table import shortened
from hgt.evaluation.validation import Measured, validate
from hgt.graph.split import split_facts
from hgt.model.decoders import DistMult

CONFIG = ValidationConfig()
TYPES = ("anatomy", "disease", "drug", "gene")
NUM, DIM = 60, 128  # nodes per type; four dimensions are the types' own
NOWHERE = Neighbourhoods(0, 240, "disease", None)
COLLAPSE = {"mean_cosine", "components_90", "effective_rank", "dead_dimensions", "type_spread"}


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


def noise(n, dim, seed):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def placed(own):
    """Each type at a place of its own, in dimensions that the nodes' own parts leave free."""
    places = 12 * torch.eye(4).repeat_interleave(NUM, 0)
    return torch.cat([own, places], dim=1)


@pytest.fixture(scope="module")
def good():
    """Nodes that go together share their own part."""
    return placed(noise(NUM, DIM - 4, 0).repeat(4, 1))


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


def metrics(mrr, chance):
    return RankingMetrics(mrr, {1: mrr, 3: mrr, 10: mrr}, chance, 2)


def ranks(typed):
    return RankingReport(metrics(0.9, 0.1), metrics(typed, 0.1), {}, {})


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


def test_a_table_of_thousands_of_edge_types_shows_the_largest_and_the_worst():
    rows = [f"row {i}" for i in range(9_174)]
    assert shortened(rows[:40], "edge types", "with most ranks", rows[:5]) == rows[:40]
    shown = shortened(rows, "edge types", "with most ranks", ["row 3", *rows[:8_999:-1]])
    assert shown[:34] == rows[:34]
    assert (
        shown[34].strip()
        == "the 34 with most ranks of 9,174 edge types, and below the 5 worst of the others;"
        " report/validation.json has all"
    )
    assert shown[35:] == ["row 9173", "row 9172", "row 9171", "row 9170", "row 9169"]
    assert len(shortened(rows, "node types", "highest")) == 40
