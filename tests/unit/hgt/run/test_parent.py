"""How a program finds out that nobody follows it any more."""

import os
from types import SimpleNamespace

import pytest

from hgt.run import parent
from hgt.run.parent import Parent


@pytest.fixture
def clock(monkeypatch):
    """`clock(61)` lets 61 s pass."""
    now = 0.0

    def wait(seconds):
        nonlocal now
        now += seconds

    monkeypatch.setattr(parent, "time", SimpleNamespace(monotonic=lambda: now))
    return wait


def test_without_a_word_in_the_environment_nobody_is_missed(monkeypatch, clock):
    monkeypatch.delenv("HGT_PARENT_PID", raising=False)
    monkeypatch.delenv("HGT_HEARTBEAT", raising=False)
    alone = Parent.from_environment()
    clock(1000)
    assert not alone.is_gone()


def test_another_parent_than_the_one_named():
    assert not Parent(os.getppid(), None).is_gone()
    assert Parent(os.getppid() + 1, None).is_gone()


def test_a_heartbeat_that_stops(tmp_path, clock, monkeypatch):
    file = tmp_path / "heartbeat"
    file.touch()
    monkeypatch.delenv("HGT_PARENT_PID", raising=False)
    monkeypatch.setenv("HGT_HEARTBEAT", str(file))
    watched = Parent.from_environment()
    for touch in range(1, 4):
        clock(1000)  # a step that takes long
        os.utime(file, (touch, touch))  # whatever the host's clock says
        assert not watched.is_gone()
    clock(59)
    assert not watched.is_gone()
    clock(2)
    assert watched.is_gone()


def test_a_heartbeat_that_is_removed(tmp_path, clock):
    file = tmp_path / "heartbeat"
    file.touch()
    watched = Parent(None, file)
    file.unlink()
    assert not watched.is_gone()
    clock(61)
    assert watched.is_gone()


def test_a_trainer_without_its_parent_stops_and_says_so(monkeypatch):
    """A real one: test_training.py."""
    monkeypatch.setattr(parent, "_parent", lambda: Parent(os.getppid() + 1, None))
    with pytest.raises(SystemExit, match="resume with `hgt train --resume`"):
        parent.stop_without_parent()
