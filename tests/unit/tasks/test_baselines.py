"""A comparison that no memory is to be had for costs the run nothing but itself."""

import json

import pytest

from hgt.config import RunConfig
from hgt.errors import HgtError, OutOfMemory
from hgt.run.folder import RunFolder
from tasks import baselines as task
from tasks.led_run import LedRun

FIGURES = {
    "name": "degree",
    "mrr": {"typed": 0.2, "all nodes": 0.1, "a - b - c": 0.3},
    "ratio": {"typed": 2.0, "all nodes": 0.5},
}


class Tracker:
    def __init__(self):
        self.figures, self.files = {}, []

    def metrics(self, values):
        self.figures |= values

    def artifacts(self, path, into):
        self.files.append((path.name, into))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`run(program, **parameters)`: the task with this in place of the child; returns (tracker,
    what was said, the report's files).
    """

    def make(program, **values):
        folder = RunFolder(tmp_path)
        run = LedRun(folder, RunConfig.from_flat(values))
        run.planner = None
        folder.report.mkdir(exist_ok=True)
        (folder.report / "baselines.txt").write_text("of an earlier evaluation")
        said, tracker = [], Tracker()
        monkeypatch.setattr(task, "say", said.append)
        monkeypatch.setattr(
            task, "run_or_move_to_cpu", lambda name, folder, planner, on_event: program(folder)
        )
        task.baselines.fn(run, tracker)
        return tracker, said, sorted(f.name for f in folder.report.iterdir())

    return make


def test_the_figures_are_logged(run):
    def program(folder):
        (folder.report / "baselines.json").write_text(json.dumps({"baselines": [FIGURES]}))
        (folder.report / "baselines.txt").write_text("table")

    tracker, said, files = run(program)
    assert tracker.figures == {
        "baseline/degree/typed_mrr": 0.2, "baseline/degree/all_nodes_mrr": 0.1,
        "baseline/degree/hgt_over_typed_mrr": 2.0, "baseline/degree/hgt_over_all_nodes_mrr": 0.5,
    }  # fmt: skip
    assert (
        tracker.files
        == [(name, "report") for name in files]
        == [("baselines.json", "report"), ("baselines.txt", "report")]
    )
    assert not said


def test_out_of_memory_ends_the_comparison_alone(run):
    def program(folder):
        raise OutOfMemory("cuda ran out of memory")

    tracker, said, files = run(program)
    assert said == [
        "WARNING: no comparison with random, degree, complex, because memory ran out: cuda ran"
        " out of memory"
    ]
    assert not tracker.figures
    assert not files, "an earlier comparison would pass for this one"


def test_any_other_failure_fails_the_run(run):
    def program(folder):
        raise HgtError("a defect")

    with pytest.raises(HgtError, match="a defect"):
        run(program)


def test_none_runs_nothing(run):
    tracker, said, files = run(pytest.fail, baselines=["none"])
    assert (tracker.figures, said, files) == ({}, [], [])
