"""MLflow on a real SQLite store: how runs end, and that nothing is logged twice."""

import _thread
import contextlib
import sqlite3
import threading
import time

import pytest

from hgt.config import RunConfig
from hgt.errors import HgtError, InputError
from hgt.run_folder import RunFolder
from tasks import tracking
from tasks.home import own_store
from tasks.tracking import Tracker, tracked

EPOCH = {
    "epoch": 1,
    "time": 1.0e9,
    "loss": 1.0,
    "link_loss": 1.0,
    "contrastive_loss": 1.0,
    "isotropy_loss": 0.1,
    "learning_rate": 0.1,
    "grad_norm": 1.0,
}
EPOCH |= {"val_mrr": None, "val_hits_at_10": None, "peak_memory_bytes": 1, "step_seconds": 1.0}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HGT_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture
def folder(home, tmp_path):
    return RunFolder(tmp_path)


def run_of(tracker):
    return tracker.call("get_run", tracker.run_id)


def test_a_run_ends_as_its_flow_does(folder):
    with tracked(folder) as tracker:
        assert run_of(tracker).info.status == "RUNNING"
    assert run_of(tracker).info.status == "FINISHED"
    with pytest.raises(ValueError, match="broken"), tracked(folder) as tracker:
        raise ValueError("broken")
    assert run_of(tracker).info.status == "FAILED"
    assert "broken" in run_of(tracker).data.tags["error"]


def test_a_finished_run_stays_so_when_its_resume_is_refused(folder):
    with tracked(folder) as tracker:
        tracker.remember()
    with pytest.raises(InputError, match="too little"), tracked(folder):
        raise InputError("too little memory")
    assert run_of(tracker).info.status == "FINISHED"
    assert "error" not in run_of(tracker).data.tags
    with pytest.raises(HgtError), tracked(folder):
        raise HgtError("broken")
    assert run_of(tracker).info.status == "FAILED"
    with pytest.raises(InputError), tracked(folder):
        raise InputError("too little memory")
    assert run_of(tracker).info.status == "FAILED"


def test_a_resumed_run_goes_on_in_the_same_run_and_logs_nothing_twice(folder):
    with pytest.raises(KeyboardInterrupt), tracked(folder) as first:
        first.remember()
        first.configuration(RunConfig(), None)
        first.epoch(EPOCH)
        raise KeyboardInterrupt
    assert run_of(first).info.status == "KILLED"
    with tracked(folder) as second:
        second.configuration(RunConfig.from_flat({"num_epochs": 7}), None)  # a parameter cannot be rewritten
        second.epoch(EPOCH)
        second.epoch(EPOCH | {"epoch": 2})
    assert second.run_id == first.run_id
    assert [m.step for m in second.call("get_metric_history", second.run_id, "loss")] == [1, 2]
    assert run_of(second).info.status == "FINISHED"
    assert "ended_by" not in run_of(second).data.tags


def test_what_was_deleted_in_mlflow_does_not_stop_a_run(folder, monkeypatch):
    said = []
    monkeypatch.setattr(tracking, "say", said.append)
    with tracked(folder) as first:
        first.remember()
    first.call("delete_run", first.run_id)
    with tracked(folder) as second:
        pass
    assert second.run_id != first.run_id
    assert run_of(second).info.status == "FINISHED"
    first.call("delete_experiment", run_of(second).info.experiment_id)
    with tracked(RunFolder(folder.path / "another")) as third:
        pass
    assert run_of(third).info.experiment_id == run_of(second).info.experiment_id
    assert ["(any more)" in said[0], "it is restored" in said[1], len(said)] == [True, True, 2]


def test_a_store_that_cannot_be_written_does_not_hide_what_ended_the_run(folder, monkeypatch):
    said = []
    monkeypatch.setattr(tracking, "say", said.append)  # which needs a flow
    with contextlib.closing(sqlite3.connect(own_store().removeprefix("sqlite:///"))) as store:
        with pytest.raises(ValueError, match="broken"), tracked(folder):
            store.execute("alter table tags rename to gone")
            raise ValueError("broken")
        store.execute("alter table gone rename to tags")
    (warning,) = said
    assert "could not be ended as FAILED" in warning
    assert "no such table: tags" in warning


@pytest.mark.parametrize("after_seconds", [0.1, 0.23, 0.37])
def test_an_interrupted_write_does_not_lock_the_store(folder, after_seconds):
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), tracked(folder) as tracker:
        threading.Timer(after_seconds, _thread.interrupt_main).start()
        for step in range(100_000):
            tracker.metrics({"figure": step}, step)
    assert time.monotonic() - started < 15
    assert run_of(tracker).info.status == "KILLED"
    assert isinstance(Tracker(folder), Tracker)  # and the store takes the next one
