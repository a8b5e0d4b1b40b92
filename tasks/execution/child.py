"""Runs a program of the library in a child process and follows its `events.jsonl`.

A child process, because not every memory failure is an exception: MPS aborts the process on some
allocations, and the kernel kills it. The child ends when its parent ends, for whatever reason.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from hgt.device.out_of_memory import ProgramEnd
from hgt.run.events import EventReader
from hgt.run.folder import RunFolder
from tasks.execution.outcome import MAX_OUTPUT, OnEvent, failure, follow

_STOP_SECONDS = 5.0
_CHECKOUT = Path(__file__).resolve().parents[2]


def run_child(program: str, folder: RunFolder, on_event: OnEvent, *arguments: str) -> None:
    """Run `python -m hgt.<program> <folder> <arguments>` to its end.

    program: such as train or embed
    folder: the run folder
    on_event: called with every new event
    arguments: more arguments of the program

    Raises OutOfMemory, InputError or HgtError with the message of the child. Any exception in this
    process (Ctrl-C, a cancelled flow) stops the child at once. Its last checkpoint stays valid.
    """
    events = EventReader(folder.events)
    events.skip_to_end()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", f"hgt.{program}", str(folder.path), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=_CHECKOUT,
            env=_environment(),
            start_new_session=True,  # Ctrl-C reaches the parent, which stops the child
        )
        try:
            error = follow(events, lambda: child.poll() is None, on_event)
        finally:
            _stop(child)
        if child.returncode:
            raise failure(program, folder, ProgramEnd(child.returncode, _tail(output), error))


def _environment() -> dict[str, str]:
    # 0: a kernel that MPS lacks raises an error instead of running slowly on the CPU
    defaults = {"PYTORCH_ENABLE_MPS_FALLBACK": "0"}
    return defaults | os.environ | {"HGT_PARENT_PID": str(os.getpid()), "PYTHONUNBUFFERED": "1"}


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Terminate the child if it runs, and kill it when it does not end in time."""
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _tail(output: IO[str]) -> str:
    output.seek(0)
    return output.read()[-MAX_OUTPUT:]
