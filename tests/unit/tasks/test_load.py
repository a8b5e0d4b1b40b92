"""The task `load`: a run folder belongs to the first run that was given its name."""

import contextlib

import pytest

from hgt.config import RunConfig
from hgt.errors import InputError
from tasks.home import run_folder
from tasks.led_run import LedRun
from tasks.load import load


class Untold:
    """A tracker that writes nothing."""

    def __getattr__(self, name):
        return lambda *arguments: contextlib.nullcontext()


def test_of_two_runs_of_one_name_the_second_leaves_the_first_alone(small_kg, tmp_path, monkeypatch):
    """Both were started before the folder was there."""
    monkeypatch.setenv("HGT_HOME", str(tmp_path))
    monkeypatch.setattr("tasks.load.say", print)  # outside of a flow
    folder = run_folder("twin")
    load.fn(LedRun(folder, RunConfig.from_flat({"seed": 1}), small_kg), Untold())
    before = folder.config.read_bytes(), folder.split.read_bytes()
    with pytest.raises(InputError, match="a run with this name exists already"):
        load.fn(LedRun(folder, RunConfig.from_flat({"seed": 2}), small_kg), Untold())
    assert (folder.config.read_bytes(), folder.split.read_bytes()) == before
