"""Baselines rank the same facts by what they know: nothing, degrees, or vectors that no message
reached.
"""

import itertools
import json
import math
from types import SimpleNamespace

import pytest
import torch

from hgt.embeddings.table import Embeddings
from hgt.errors import InputError
from hgt.graph.split import TRAIN, EdgeSplit
from hgt.programs import shallow_training
from hgt.programs.baseline_table import Baseline, Comparison
from hgt.programs.baselines import compare_run
from hgt.programs.evaluation import evaluate_run
from hgt.programs.shallow_training import shallow_trainee
from hgt.run.events import EventWriter
from hgt.run.folder import RunFolder
from hgt.run.identity import Identity

CPU = torch.device("cpu")


@pytest.fixture
def evaluated_run(graph, split, make_config, tmp_path):
    """A run of 3 epochs of 10 s a step, whose embeddings are random."""

    def make(of_split=split, **values):
        folder = RunFolder(tmp_path)
        config = make_config(**values)
        config.save(folder.config)
        graph.save(folder.graph)
        of_split.save(folder.split, graph)
        torch.manual_seed(1)
        vectors, relations = (
            torch.randn(graph.total_nodes, 16),
            torch.ones(len(graph.edge_types), 16),
        )
        made_of = Identity.of(graph, of_split, config).as_dict()
        origin = {**made_of, "decoder": "distmult", "parameters": config.to_flat()}
        Embeddings(
            graph.node_table().astype(str), vectors, tuple(graph.edge_types), relations, origin
        ).save(folder.embeddings)
        on_event = EventWriter(folder.events)
        for epoch in (1, 2, 3):
            on_event(
                "epoch",
                epoch=epoch,
                loss=1.0,
                link_loss=1.0,
                contrastive_loss=1.0,
                isotropy_loss=0.1,
                val_mrr=0.1,
                step_seconds=10.0,
            )
        evaluate_run(folder, on_event)
        return folder, on_event

    return make


def test_a_run_gets_its_comparison(evaluated_run, graph):
    folder, on_event = evaluated_run(
        baselines=["random", "degree", "distmult", "complex"], learning_rate=0.01, num_epochs=6
    )
    compare_run(folder, on_event)
    told = json.loads((folder.report / "baselines.json").read_text())
    ranking = json.loads((folder.report / "validation.json").read_text())["ranking"]
    assert told["hgt"]["typed"] == ranking["typed"]["mrr"]
    assert told["training_seconds"] == 3 * 10.0 * shallow_trainee_batches(folder, graph)
    by_name = {b["name"]: b for b in told["baselines"]}
    assert list(by_name) == ["random", "degree", "distmult", "complex"]
    for b in told["baselines"]:
        assert (
            set(b["mrr"])
            == set(told["hgt"])
            == {
                "typed",
                "all nodes",
                *(" - ".join(m["edge_type"]) for m in ranking["by_edge_type"]),
            }
        )
        assert b["ratio"] == {
            scope: pytest.approx(told["hgt"][scope] / mrr) for scope, mrr in b["mrr"].items()
        }
    for name in ("distmult", "complex"):
        assert by_name[name]["mrr"]["typed"] > 1.5 * by_name["random"]["mrr"]["typed"], (
            "it has learned"
        )
        assert by_name[name]["num_steps"] > 0
    text = (folder.report / "baselines.txt").read_text()
    assert f"{told['hgt']['typed']:.4f}" in text
    assert "(not ahead)" in text.splitlines()[-1], "its vectors are random"
    last = json.loads(folder.events.read_text().splitlines()[-1])
    assert (last["event"], last["message"]) == ("compared", text.splitlines()[-1])


def shallow_trainee_batches(folder, graph):
    return shallow_trainee(
        "distmult",
        folder.load_config(),
        graph,
        folder.load_split(graph, folder.load_config().split),
        CPU,
    ).batches.num_batches


def test_a_shallow_baseline_stops_when_its_time_is_up(evaluated_run, monkeypatch):
    clock = itertools.count(0.0, 5.0)
    # other threads keep theirs
    monkeypatch.setattr(shallow_training, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    folder, on_event = evaluated_run(
        baselines=["distmult"], baseline_time=0.25, num_epochs=50, patience=50
    )
    compare_run(folder, on_event)
    (told,) = json.loads((folder.report / "baselines.json").read_text())["baselines"]
    limit = 0.25 * 3 * 10.0 * shallow_trainee_batches(folder, folder.load_graph())
    assert limit <= told["seconds"] <= limit + 10
    assert "its time was up after epoch" in told["ended"]


def test_a_shallow_baseline_trains_all_epochs_and_the_best_counts(evaluated_run, monkeypatch):
    values = iter([0.1, 0.3, 0.2, 0.1, 0.1, 0.1, 0.4, 0.2])
    monkeypatch.setattr(
        shallow_training, "evaluate_val", lambda *a: SimpleNamespace(mrr=next(values))
    )
    folder, on_event = evaluated_run(
        baselines=["distmult"], num_epochs=8, patience=3, baseline_time=10.0
    )
    compare_run(folder, on_event)
    (told,) = json.loads((folder.report / "baselines.json").read_text())["baselines"]
    assert told["ended"] == "ended after epoch 8, the best is 7"


def test_without_held_out_facts_there_is_no_comparison(evaluated_run, split, graph):
    nothing = EdgeSplit(split.facts, torch.full_like(split.part, TRAIN), tuple(graph.edge_types))
    folder, on_event = evaluated_run(nothing)
    compare_run(folder, on_event)
    assert not (folder.report / "baselines.json").exists()
    assert (
        "nothing was held out" in json.loads(folder.events.read_text().splitlines()[-1])["message"]
    )


def test_a_run_that_was_not_evaluated_is_refused(evaluated_run):
    folder, on_event = evaluated_run()
    (folder.report / "validation.json").unlink()
    with pytest.raises(InputError, match="Evaluate the run anew"):
        compare_run(folder, on_event)


def test_the_verdict_names_the_best_baseline_of_each_scope():
    hgt = {"all nodes": 0.2, "typed": 0.4, "a": 0.1, "b": 0.7}
    weak, strong = (
        {"all nodes": 0.3, "typed": 0.1, "a": 0.4, "b": 0.4},
        {"all nodes": 0.1, "typed": 0.2, "a": 0.2, "b": 0.35},
    )
    comparison = Comparison(
        hgt,
        100.0,
        (
            Baseline("weak", weak),
            Baseline("strong", strong, 30, 20.0, "ended after epoch 3, the best is 2"),
        ),
    )
    assert (
        comparison.verdict()
        == "against the best baseline: HGT has 2.00 x the MRR of strong among nodes of the right"
        " type (ahead), 0.67 x the MRR of weak among all nodes (not ahead), and is ahead on 1 of"
        " 2 edge types"
    )
    lines = comparison.table().splitlines()
    assert lines[1].endswith("0.67 x")
    assert lines[2].endswith("2.00 x")
    assert lines[5] == "strong: 30 steps in 20 s (HGT: 100 s), ended after epoch 3, the best is 2"
    ratios = comparison.as_dict()["baselines"][0]["ratio"]
    assert math.isclose(ratios["typed"], 4)
