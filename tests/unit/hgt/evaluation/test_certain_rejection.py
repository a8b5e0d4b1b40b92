"""Rejection is foretold where it is certain and nowhere else: the real validation is held against
it on tiny graphs.
"""

import sys

import numpy as np
import pytest
import torch

from flows.cli import main
from hgt.config import RunConfig, most_components_90
from hgt.embeddings.table import Embeddings
from hgt.errors import InputError
from hgt.evaluation.certain_rejection import (
    certain_rejection,
    num_untrained,
    refuse_certain_rejection,
)
from hgt.evaluation.geometry import components_for, effective_rank
from hgt.graph.split import split_facts
from hgt.programs.embedding_report import report_on

NO_BASELINE = {"baselines": ["none"], "decoder": "distmult"}


def ring(num, node_type="a", relation="next"):
    return [(node_type, str(i), relation, node_type, str((i + 1) % num)) for i in range(num)]


def pairs(num):
    return [("drug", str(i), "treats", "disease", str(i)) for i in range(num)]


def star(num):
    return [("drug", "0", "treats", "disease", str(i)) for i in range(num)]


SHAPES = {
    "two nodes": pairs(1),
    "ten nodes of one type": ring(10),
    "fifteen of one type": ring(15),
    "sixteen of one type": ring(16),
    "seventeen of one type": ring(17),
    "forty of one type": ring(40),
    "two types": pairs(9),
    "a star": star(30),
    "many small edge types": [row for i in range(8) for row in ring(5, relation=f"r{i}")],
}


def best_report(graph, config):
    """What validation says of vectors that are as far apart as so many can be."""
    num, dim = graph.total_nodes, config.model.embedding_dim
    vectors = torch.eye(max(num, dim))[:num, :dim] + 1e-4 * torch.randn(
        num, dim, generator=torch.Generator().manual_seed(0)
    )
    table = Embeddings(graph.node_table(), vectors, (), torch.zeros(0, dim), {})
    return report_on(table, graph, split_facts(graph, config.split), config, torch.device("cpu"))


@pytest.mark.parametrize("dim", [16, 64])
@pytest.mark.parametrize("name", SHAPES)
def test_what_is_foretold_comes_true(make_graph, name, dim):
    config = RunConfig.from_flat({"embedding_dim": dim, "required_checks": _ALL, **NO_BASELINE})
    graph = make_graph(SHAPES[name])
    foretold = certain_rejection(graph, split_facts(graph, config.split), config)
    report = best_report(graph, config)
    failed = {c.key for c in report.checks if c.required and not c.passed}
    assert set(foretold) <= failed
    assert ("components_90" in foretold) == (graph.total_nodes - 1 < 16)
    assert ("effective_rank" in foretold) == (graph.total_nodes - 1 < 10)
    if foretold:
        assert not report.accepted
        with pytest.raises(InputError) as refused:
            refuse_certain_rejection(graph, split_facts(graph, config.split), config)
        assert all(check in str(refused.value) for check in foretold)
        assert "--required-checks" in str(refused.value)


_ALL = ["components_90", "effective_rank", "mrr", "type_accuracy", "untrained_nodes", "finite"]


def test_the_bounds_are_reached():
    """So nothing is foretold that might not come."""
    for directions in range(1, 70):
        alike = np.full(directions, 1 / directions)
        assert components_for(alike, 0.9) == most_components_90(directions)
        assert effective_rank(alike) == pytest.approx(directions)


def test_nothing_to_rank_is_foretold_and_said_with_figures(make_graph):
    config = RunConfig.from_flat(NO_BASELINE)
    graph = make_graph(SHAPES["ten nodes of one type"])
    why = certain_rejection(graph, split_facts(graph, config.split), config)["mrr"]
    assert "the largest edge type has 10 facts, test_fraction is 0.05" in why
    larger = make_graph(SHAPES["forty of one type"])
    assert "mrr" not in certain_rejection(larger, split_facts(larger, config.split), config)


def test_checks_that_are_not_required_foretell_nothing(make_graph):
    config = RunConfig.from_flat({"required_checks": ["finite"], **NO_BASELINE})
    graph = make_graph(SHAPES["two nodes"])
    refuse_certain_rejection(graph, split_facts(graph, config.split), config)
    assert best_report(graph, config).accepted


def test_nodes_without_training_facts_are_counted_as_validation_counts_them(make_graph):
    config = RunConfig.from_flat({"val_fraction": 0.4, "test_fraction": 0.4, **NO_BASELINE})
    graph = make_graph(SHAPES["a star"])
    split = split_facts(graph, config.split)
    (check,) = [c for c in best_report(graph, config).checks if c.key == "untrained_nodes"]
    assert num_untrained(graph, split) == check.value > 0


def test_a_graph_of_one_node_type_is_judged_by_what_can_be_judged(make_graph):
    config = RunConfig.from_flat({"embedding_dim": 64, **NO_BASELINE})
    graph = make_graph(SHAPES["forty of one type"])
    report = best_report(graph, config)
    by_key = {c.key: c for c in report.checks}
    for key in ("type_accuracy", "plane_accuracy", "silhouette"):
        assert (by_key[key].value, by_key[key].required, by_key[key].verdict) == (
            None,
            False,
            "advice",
        )
        assert by_key[key].meaning == "there are too few types, or nodes of them"
    assert by_key["components_90"].passed
    assert by_key["mrr"].value is not None


def test_dimensions_bound_the_components_too():
    with pytest.raises(InputError, match="min_components_90 15 cannot be reached in 15 dimensions"):
        RunConfig.from_flat({"embedding_dim": 15, **NO_BASELINE})
    RunConfig.from_flat({"embedding_dim": 16, **NO_BASELINE})


def test_plan_says_it_too(monkeypatch, capfd, tmp_path):
    rows = ["x_type,x_id,relation,y_type,y_id", *(",".join(row) for row in SHAPES["two types"])]
    (tmp_path / "kg.csv").write_text("\n".join(rows) + "\n")
    arguments = ["hgt", "plan", "--kg", str(tmp_path / "kg.csv"), "--device", "cpu"]
    for extra, code in ((), 2), (("--required-checks", "finite"), 0):
        monkeypatch.setattr(sys, "argv", [*arguments, *extra])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
    said = capfd.readouterr().err
    assert len(said.splitlines()) == 1
    assert said.startswith(
        "hgt: Validation would reject this run, whatever it learns: no fact is held out for the"
        " test"
    )
