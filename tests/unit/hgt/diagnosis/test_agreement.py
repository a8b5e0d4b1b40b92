"""Two trainings beside each other: which figures differ by more than the band, what each took, and
what cannot be compared.
"""

import json

import pytest

from hgt.diagnosis.agreement import FigureOfTwo, compare_runs
from hgt.errors import InputError
from hgt.run.events import EventWriter
from hgt.run.folder import RunFolder

DEVICES = ("cpu", "mps")


@pytest.mark.parametrize(
    ("first", "second", "difference", "is_within"),
    [
        (0.40, 0.45, 0.05, True),
        (0.40, 0.46, 0.06, False),
        (-0.02, 0.02, 0.04, True),
        (10.0, 10.5, 0.5 / 10.5, True),
        (10.0, 11.0, 1 / 11, False),
        (8, 9, 1 / 9, True),  # a count may differ by one
        (8, 10, 2 / 10, False),
        (100, 104, 4 / 104, True),
        (None, None, None, True),
        (0.4, None, None, False),
        (float("nan"), 0.4, None, False),
    ],
)
def test_what_is_within_the_band(first, second, difference, is_within):
    figure = FigureOfTwo("figure", first, second)
    assert figure.is_within is is_within
    if difference is not None:
        assert figure.difference == pytest.approx(difference)


CHECKS = {"effective rank": 30.0, "silhouette of the types": None}


@pytest.fixture
def trained(graph, make_config, tmp_path):
    """`trained("a", seconds=2.0, mrr=0.4)`: a run of two epochs of three steps, evaluated."""

    def make(name, seconds=1.0, mrr=0.40, loss=2.0, **values):
        folder = RunFolder(tmp_path / name)
        folder.report.mkdir(parents=True)
        make_config(**values).save(folder.config)
        graph.save(folder.graph)
        on_event = EventWriter(folder.events)
        on_event("start", num_batches=3)
        of_loss = {
            "loss": loss,
            "link_loss": loss,
            "contrastive_loss": 0.5,
            "isotropy_loss": 0.1,
            "val_mrr": 0.3,
        }
        for epoch, peak in ((1, 2_000_000_000), (2, 1_000_000_000)):
            on_event(
                "epoch",
                epoch=epoch,
                step_seconds=seconds,
                val_seconds=0.5,
                peak_memory_bytes=peak,
                **of_loss,
            )
        metrics = {
            "mrr": mrr,
            "hits": {"1": 0.1, "3": 0.3, "10": 0.5},
            "chance_mrr": 0.01,
            "num_ranks": 100,
        }
        of_check = {"key": "x", "threshold": "", "passed": True, "required": False, "meaning": ""}
        scopes = ("typed", "typed_macro", "all_nodes", "all_nodes_macro")
        report = {
            "checks": [
                {"name": name, "value": value, **of_check} for name, value in CHECKS.items()
            ],
            "ranking": dict.fromkeys(scopes, metrics) | {"by_edge_type": []},
            "classification": {mean: {"auroc": 0.9, "auprc": 0.8} for mean in ("micro", "macro")},
            "mean_cosine_by_type": {"disease": 0.6},
        }
        (folder.report / "validation.json").write_text(json.dumps(report))
        return folder

    return make


def test_two_runs_that_agree(trained):
    found = compare_runs(trained("a"), trained("b", seconds=0.5, mrr=0.44, device="mps"), DEVICES)
    assert found.outside == ()
    assert [cost.seconds for cost in found.costs] == [3.5, 2.0]
    assert [cost.peak_bytes for cost in found.costs] == [2_000_000_000] * 2
    names = {f.name for f in found.figures}
    assert names >= {
        *(
            "loss, last epoch",
            "validation MRR, last epoch",
            "effective rank",
            "silhouette of the types",
            "MRR, typed",
        ),
        *(
            "Hits@10, all nodes, mean over edge types",
            "AUROC",
            "AUPRC, mean over edge types",
            "mean cosine within disease",
        ),
    }
    table = found.table()
    assert table.splitlines()[1].split() == ["seconds", "per", "epoch", "3.50", "2.00", "0.57", "x"]
    assert table.endswith("SAME: every figure within 0.05")


def test_every_figure_outside_the_band_is_named(trained):
    found = compare_runs(trained("a"), trained("b", mrr=0.46, loss=2.5), DEVICES)
    assert set(found.outside) == {
        *(
            "loss, last epoch",
            "link loss, last epoch",
            "MRR, typed",
            "MRR, typed, mean over edge types",
        ),
        *("MRR, all nodes", "MRR, all nodes, mean over edge types"),
    }
    assert "DIFFERENT: loss, last epoch; link loss" in found.table()


def test_a_figure_that_only_one_run_has_is_outside(trained):
    first, second = trained("a"), trained("b")
    report = json.loads((second.report / "validation.json").read_text())
    (second.report / "validation.json").write_text(json.dumps(report | {"classification": None}))
    assert set(compare_runs(first, second, DEVICES).outside) == {
        *("AUROC", "AUPRC", "AUROC, mean over edge types", "AUPRC, mean over edge types"),
    }  # fmt: skip


def test_other_parameters_and_missing_reports_are_refused(trained):
    with pytest.raises(InputError, match="different graphs or parameters"):
        compare_runs(trained("a"), trained("b", learning_rate=0.5), DEVICES)
    unfinished = trained("c")
    (unfinished.report / "validation.json").unlink()
    with pytest.raises(InputError, match=r"no such file\. Evaluate the run anew"):
        compare_runs(trained("d"), unfinished, DEVICES)
