"""MLflow on a real SQLite store: how runs end, that nothing is logged twice, and that no store
stops a run.
"""

import _thread
import contextlib
import json
import os
import sqlite3
import threading
import time

import mlflow
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from hgt.config import RunConfig
from hgt.errors import HgtError, InputError
from hgt.run.events import EventWriter
from hgt.run.folder import RunFolder
from tasks.home import own_store
from tasks.tracking import tracker as tracking
from tasks.tracking.delivery import Patience
from tasks.tracking.tracker import catch_up, tracked

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
def home(own_home):
    mlflow.MlflowClient(own_store()).search_experiments()  # makes it, which takes seconds


@pytest.fixture
def folder(home, tmp_path):
    """A run folder as `load` leaves it."""
    RunConfig().save(tmp_path / "config.json")
    return RunFolder(tmp_path)


@pytest.fixture
def said(monkeypatch):
    """What is said, which takes a flow."""
    told = []
    monkeypatch.setattr(tracking, "say", told.append)
    return told


@pytest.fixture
def impatient(monkeypatch):
    for name in ("_NOTICE", "_START", "_END", "_CANCELLED_END"):
        monkeypatch.setattr(tracking, name, Patience(0.5, 5.0, for_files=True))


@pytest.fixture
def brief_locks():
    """MLflow waits 20 s for a locked SQLite file; 0.1 s here."""

    def shorten(connection, cursor, statement, parameters, context, executemany):
        return statement.replace("busy_timeout = 20000", "busy_timeout = 100"), parameters

    event.listen(Engine, "before_cursor_execute", shorten, retval=True)
    yield
    event.remove(Engine, "before_cursor_execute", shorten)


@contextlib.contextmanager
def locked():
    """Another program that writes."""
    with contextlib.closing(sqlite3.connect(own_store().removeprefix("sqlite:///"))) as other:
        other.execute("begin immediate")
        yield
        other.rollback()


def run_of(folder):
    return mlflow.MlflowClient(own_store()).get_run(
        (folder.path / "mlflow_run_id").read_text().strip()
    )


def steps(folder, metric="loss"):
    return [
        m.step
        for m in mlflow.MlflowClient(own_store()).get_metric_history(
            run_of(folder).info.run_id, metric
        )
    ]


def test_a_run_ends_as_its_flow_does(folder):
    with tracked(folder):
        assert run_of(folder).info.status == "RUNNING"
    assert run_of(folder).info.status == "FINISHED"
    with pytest.raises(ValueError, match="broken"), tracked(folder):
        raise ValueError("broken")
    assert run_of(folder).info.status == "FAILED"
    assert "broken" in run_of(folder).data.tags["error"]
    assert not (folder.path / "tracking.jsonl").exists(), "nothing is left to deliver"


def test_a_finished_run_stays_so_when_its_resume_is_refused(folder):
    with tracked(folder):
        pass
    with pytest.raises(InputError, match="too little"), tracked(folder):
        raise InputError("too little memory")
    assert run_of(folder).info.status == "FINISHED"
    assert "error" not in run_of(folder).data.tags
    with pytest.raises(HgtError), tracked(folder):
        raise HgtError("broken")
    assert run_of(folder).info.status == "FAILED"
    with pytest.raises(InputError), tracked(folder):
        raise InputError("too little memory")
    assert run_of(folder).info.status == "FAILED"
    with tracked(folder):
        pass
    with pytest.raises(InputError), tracked(folder) as tracker:
        tracker.has_changed = True
        raise InputError("damaged")
    assert run_of(folder).info.status == "FAILED"


def test_a_resumed_run_goes_on_in_the_same_run_and_logs_nothing_twice(folder):
    with pytest.raises(KeyboardInterrupt), tracked(folder) as tracker:
        tracker.configuration(RunConfig(), None)
        tracker.epoch(EPOCH)
        raise KeyboardInterrupt
    first = run_of(folder)
    assert (first.info.status, first.data.tags["ended_by"]) == ("KILLED", "KeyboardInterrupt")
    with tracked(folder) as tracker:
        # a parameter cannot be rewritten
        tracker.configuration(RunConfig.from_flat({"num_epochs": 7}), None)
        tracker.epoch(EPOCH)
        tracker.epoch(EPOCH | {"epoch": 2})
    assert run_of(folder).info.run_id == first.info.run_id
    assert steps(folder) == [1, 2]
    assert run_of(folder).info.status == "FINISHED"
    assert "ended_by" not in run_of(folder).data.tags


def test_figures_that_a_resume_measures_again_get_another_point_only_where_they_changed(folder):
    for mrr in (0.5, 0.5, 0.6):
        with tracked(folder) as tracker:
            tracker.metrics({"test/typed/mrr": mrr, "validation/cosine": float("nan"), "dim": 7})
    assert [
        len(steps(folder, metric)) for metric in ("test/typed/mrr", "validation/cosine", "dim")
    ] == [2, 1, 1]


def test_what_was_deleted_in_mlflow_does_not_stop_a_run(folder, said):
    with tracked(folder):
        pass
    first = run_of(folder).info
    client = mlflow.MlflowClient(own_store())
    client.delete_run(first.run_id)
    with tracked(folder):
        pass
    second = run_of(folder).info
    assert second.run_id != first.run_id
    assert second.status == "FINISHED"
    client.delete_experiment(second.experiment_id)
    (folder.path / "mlflow_run_id").unlink()
    with tracked(folder):
        pass
    assert run_of(folder).info.experiment_id == second.experiment_id
    assert ["(any more)" in said[0], "It is restored" in said[1], len(said)] == [True, True, 2]


def test_a_pipe_where_the_id_should_be_is_not_waited_for(home, folder):
    os.mkfifo(folder.path / "mlflow_run_id")
    with (
        pytest.raises(InputError, match=r"mlflow_run_id: is a pipe or device\. Remove it"),
        tracked(folder),
    ):
        pass


def test_a_new_run_that_is_refused_leaves_nothing_in_its_folder(home, tmp_path):
    with pytest.raises(InputError), tracked(RunFolder(tmp_path / "new")) as tracker:
        tracker.tags({"a": "b"})
        raise InputError("no such file")
    assert not (tmp_path / "new").exists()
    assert mlflow.MlflowClient(own_store()).get_run(tracker.run_id).info.status == "FAILED"


def test_a_locked_store_stops_nothing_and_gets_everything_once(folder, said, brief_locks):
    """With the product's own patience at the end: a loaded machine takes its time to answer."""
    with tracked(folder) as tracker:
        tracker.epoch(EPOCH)
        wait_for_delivery(tracker)
        with locked():
            tracker.epoch(EPOCH | {"epoch": 2})
            tracker.metrics({"test/typed/mrr": 0.5})
            tracker.tags({"accepted": "true"})
            time.sleep(0.3)
            tracker.epoch(EPOCH | {"epoch": 3})
        tracker.text("x", "graph.txt")
    assert "does not answer (database is locked). The run continues" in said[0]
    assert said[1:] == ["MLflow answers again"]
    assert (steps(folder), steps(folder, "test/typed/mrr")) == ([1, 2, 3], [0])
    assert run_of(folder).info.status == "FINISHED"


def wait_for_delivery(tracker):
    assert tracker._delivery.wait(Patience(10, 10))


@pytest.mark.parametrize("later", ["track", "resume"])
def test_what_a_locked_store_has_not_got_is_delivered_later(
    folder, said, impatient, brief_locks, later
):
    with tracked(folder) as tracker:
        tracker.epoch(EPOCH)
        wait_for_delivery(tracker)
        lock = contextlib.ExitStack()
        lock.enter_context(locked())
        tracker.epoch(EPOCH | {"epoch": 2})
        tracker.metrics({"test/typed/mrr": 0.5})
    with lock:
        assert run_of(folder).info.status == "RUNNING"
        assert "(epoch, figures, its end)" in said[-1]
        assert "database is locked" in said[-1]
        assert f"`hgt track {folder.path.name}` or the next resume delivers it" in said[-1]
        kept = (folder.path / "tracking.jsonl").read_text().splitlines()
        assert all(json.loads(line) for line in kept)
        _, left = catch_up(folder)
        assert "database is locked" in left
    with (folder.path / "tracking.jsonl").open("a") as file:
        file.write('{"number": 99, "ki')  # of a process that was killed
    if later == "track":
        assert catch_up(folder) == ([], "")
    else:
        with tracked(folder) as tracker:
            tracker.epoch(EPOCH | {"epoch": 2})
    assert (steps(folder), steps(folder, "test/typed/mrr")) == ([1, 2], [0])
    assert run_of(folder).info.status == "FINISHED"
    assert not (folder.path / "tracking.jsonl").exists()


def test_what_was_delivered_without_an_answer_is_not_delivered_twice(
    folder, said, impatient, monkeypatch
):
    """As where a server dies between its write and its answer."""
    log, lost = mlflow.MlflowClient.log_batch, []

    def without_answer(self, run_id, metrics=(), **others):
        log(self, run_id, metrics=metrics, **others)
        if not lost:
            lost.append(metrics)
            raise ConnectionError("the answer was lost")

    with tracked(folder) as tracker:
        monkeypatch.setattr(mlflow.MlflowClient, "log_batch", without_answer)
        tracker.epoch(EPOCH)
        wait_for_delivery(tracker)
        lost.clear()
        tracker.metrics({"test/typed/mrr": 0.5})
    assert (steps(folder), steps(folder, "test/typed/mrr")) == ([1], [0])


def test_a_run_whose_making_was_not_answered_is_made_once(folder, said, impatient, monkeypatch):
    create, made = mlflow.MlflowClient.create_run, []

    def without_answer(self, *arguments, **others):
        made.append(create(self, *arguments, **others).info.run_id)
        if len(made) == 1:
            raise ConnectionError("the answer was lost")
        return create(self, *arguments, **others)

    monkeypatch.setattr(mlflow.MlflowClient, "create_run", without_answer)
    with tracked(folder) as tracker:
        tracker.epoch(EPOCH)
    assert [run_of(folder).info.run_id] == made
    assert steps(folder) == [1]


def test_what_a_store_refuses_holds_nothing_else_up(folder, said, impatient):
    with tracked(folder) as tracker:
        tracker._add("metrics", values={"a": "no number"}, milliseconds=1)
        tracker.epoch(EPOCH)
    assert steps(folder) == [1]
    assert run_of(folder).info.status == "FINISHED"
    assert "(figures)" in said[-1]


def test_a_killed_flow_is_caught_up_with(folder):
    """Its epochs are in events.jsonl, and its run counts as running."""
    with tracked(folder) as tracker:
        tracker.epoch(EPOCH)
    mlflow.MlflowClient(own_store()).update_run(run_of(folder).info.run_id, "RUNNING")
    with contextlib.closing(EventWriter(folder.events)) as write:
        for number in (1, 2):
            write(
                "epoch",
                **{name: value for name, value in EPOCH.items() if name != "time"}
                | {"epoch": number},
            )
    assert catch_up(folder) == ([], "")
    assert steps(folder) == [1, 2]
    assert run_of(folder).info.status == "KILLED"


def test_a_store_that_cannot_be_written_does_not_hide_what_ended_the_run(folder, said, impatient):
    with contextlib.closing(sqlite3.connect(own_store().removeprefix("sqlite:///"))) as store:
        with pytest.raises(ValueError, match="broken"), tracked(folder):
            store.execute("alter table tags rename to gone")
            raise ValueError("broken")
        store.execute("alter table gone rename to tags")
    (warning,) = said
    assert "lacks parts of this run (its end)" in warning
    assert "no such table: tags" in warning
    assert catch_up(folder) == ([], "")
    assert run_of(folder).info.status == "FAILED"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("file:///nowhere/mlruns", "filesystem tracking backend"),
        ("nonsense://x", "unsupported URI"),
        ("sqlite:///{}/notes.txt", "file is not a database"),
        ("sqlite:///{}", "unable to open database file"),
    ],
)
def test_a_store_that_will_never_answer_is_refused_at_once(folder, monkeypatch, said, uri, reason):
    (folder.path / "notes.txt").write_text("notes " * 1_000)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(folder.path))
    started = time.monotonic()
    with pytest.raises(InputError, match=reason), tracked(folder):
        pytest.fail("began")
    assert time.monotonic() - started < 5
    assert not (folder.path / "tracking.jsonl").exists()
    assert not said


@pytest.mark.parametrize("after_seconds", [0.1, 0.37])
def test_an_interrupted_write_does_not_lock_the_store(folder, after_seconds):
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), tracked(folder) as tracker:
        threading.Timer(after_seconds, _thread.interrupt_main).start()
        for step in range(100):
            tracker.metrics({"figure": step})
            wait_for_delivery(tracker)
        time.sleep(5)
    assert time.monotonic() - started < 15
    assert run_of(folder).info.status == "KILLED"
    with tracked(folder):  # and the store takes the next one
        pass
