"""What is said reaches the terminal, and a closed pipe interrupts."""

import os
from types import SimpleNamespace

import pytest

from tasks import reporting
from tasks.reporting import OutputClosed, say


class _Log:
    def info(self, text):
        pass


@pytest.fixture
def pipe(monkeypatch):
    """The reading end of the standard output of a command line."""
    reads, writes = os.pipe()
    monkeypatch.setenv("HGT_TERMINAL", "1")
    monkeypatch.setattr(reporting, "get_run_logger", _Log)
    with (
        os.fdopen(writes, "w", encoding="utf-8") as stream,
        os.fdopen(reads, encoding="utf-8") as reader,
    ):
        # pytest gives each phase of a test another sys.stdout
        monkeypatch.setattr(reporting, "sys", SimpleNamespace(stdout=stream))
        yield reader


def test_a_name_is_said_as_it_is(pipe):
    say("[red]drug[/red] $a$ {b} \U0001f9ec :smile:")
    assert pipe.readline() == "[red]drug[/red] $a$ {b} \U0001f9ec :smile:\n"


def test_a_closed_pipe_interrupts_once(pipe):
    pipe.close()
    with pytest.raises(OutputClosed):
        say("epoch 1")
    say("what is said while the run ends is lost without an error")


def test_without_a_standard_output_nothing_is_said(pipe, monkeypatch):
    monkeypatch.setattr(reporting, "sys", SimpleNamespace(stdout=None))
    say("epoch 1")
