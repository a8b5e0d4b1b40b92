"""What a parent makes of its child's end: real processes that print, raise, exit and are killed."""

import json
import sys

import pytest

from hgt.config import RunConfig
from hgt.errors import HgtError, InputError, OutOfMemory
from hgt.run.folder import RunFolder
from tasks.execution import child
from tasks.execution.child import run_child
from tests.planned import made_up_plan

ASSERTION = (
    "MPSNDArray.mm:850: failed assertion `[MPSNDArray initWithDevice:descriptor:] Error: total"
    " bytes of NDArray > 2**32'"
)
METAL = (
    "Error: command buffer exited with error status. Insufficient Memory"
    " (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
)


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    RunConfig().save(folder.config)
    made_up_plan("mps", {"step": 1000, "inference": 2000}).save(folder.plan)
    return folder


@pytest.fixture
def run(monkeypatch, tmp_path, folder):
    """`run(script, program)`: a child that is this shell script instead of a program of ours; $1 is
    its events.jsonl.
    """

    def run(script, program="train"):
        stub = tmp_path / "stub"
        stub.write_text(f'#!/bin/sh\nset -- "{folder.events}"\n{script}\n')
        stub.chmod(0o755)
        monkeypatch.setattr(child.sys, "executable", str(stub))
        seen = []
        try:
            run_child(program, folder, seen.append)
        finally:
            monkeypatch.setattr(child.sys, "executable", sys.executable)
        return seen

    return run


def error_event(**values):
    return f"echo '{json.dumps({'event': 'error', 'time': 0, **values})}' >> \"$1\""


def test_a_child_that_ends_well(run):
    assert [
        e["event"] for e in run("""echo '{"event": "end", "time": 0}' >> "$1"\necho said""")
    ] == ["end"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("kill -9 $$", "exit code -9"),
        ("exit 137", "exit code 137"),
        (f"""echo "{ASSERTION.replace("`", "'")}" >&2; kill -6 $$""", "total bytes of NDArray"),
        (f"""echo "{ASSERTION.replace("`", "'")}" >&2; exit 134""", "total bytes of NDArray"),
    ],
)
def test_a_killed_child_ran_out_of_memory(run, script, words):
    with pytest.raises(OutOfMemory, match=words) as caught:
        run(script)
    assert "most likely for memory" in str(caught.value)
    assert (caught.value.phase, caught.value.planned_bytes) == ("step", 1000)
    with pytest.raises(OutOfMemory) as caught:
        run(script, "embed")
    assert (caught.value.phase, caught.value.planned_bytes) == ("inference", 2000)


@pytest.mark.parametrize(
    "script",
    [
        "kill -6 $$",
        "kill -11 $$",
        "kill -15 $$",
        "exit 1",
        (
            'echo "MPSNDArray.mm:869: failed assertion buffer is not large enough. Must be 960'
            ' bytes" >&2; kill -6 $$'
        ),
        'echo "Traceback (most recent call last):\nValueError: not enough memory" >&2; kill -9 $$',
        (
            'echo "Traceback (most recent call last):" >&2; head -c 20000 /dev/zero | tr "\\0" x'
            ' >&2; echo "\nValueError: no" >&2; kill -9 $$'
        ),
        error_event(type="ValueError", message="not enough memory", out_of_memory=False)
        + "; kill -9 $$",
    ],
)
def test_any_other_end_is_an_error_of_its_own(run, script):
    with pytest.raises(HgtError) as caught:
        run(script)
    assert not isinstance(caught.value, OutOfMemory)
    assert len(str(caught.value)) < 5_000


def test_bad_input_stays_bad_input(run):
    with pytest.raises(InputError, match="no such thing"):
        run('echo "no such thing" >&2; exit 2')


def test_what_the_child_knows_of_its_out_of_memory_reaches_the_parent(run):
    details = {"device": "mps", "phase": "evaluation", "planned_bytes": 5, "allocated_bytes": 6}
    with pytest.raises(OutOfMemory, match="MPS ran out") as caught:
        run(
            error_event(type="OutOfMemory", message="MPS ran out", out_of_memory=True, **details)
            + "; exit 4"
        )
    assert caught.value.details() == details


def test_a_loss_that_diverged_after_metal_went_without_memory_is_out_of_memory(run):
    diverged = error_event(
        type="TrainingDiverged", message="the losses became nan", out_of_memory=False
    )
    with pytest.raises(OutOfMemory, match="losses became nan"):
        run(f'echo "{METAL}" >&2; {diverged}; exit 1')
    with pytest.raises(HgtError) as caught:
        run(f"{diverged}; exit 1")
    assert not isinstance(caught.value, OutOfMemory)
