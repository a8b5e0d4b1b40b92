"""Runs one of the library's programs in a child process and follows its `events.jsonl`.

A child, because not every memory failure is an exception: MPS aborts the process on some allocations, and the kernel kills
(DESIGN.md 3). Whatever ends the parent also ends the child.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from hgt.device import exit_is_out_of_memory, says_out_of_memory
from hgt.errors import HgtError, InputError, OutOfMemory, TrainingDiverged
from hgt.events import EventReader
from hgt.program import planned_phases
from hgt.run_folder import RunFolder

_POLL_SECONDS = 0.25
_STOP_SECONDS = 5.0
_CHECKOUT = Path(__file__).resolve().parents[1]
_PHASES = {"train": "step", "embed": "inference", "evaluate": "evaluation"}  # what a program is mostly busy with
_OUTPUT_SIZE, _MESSAGE_SIZE = 100_000, 4_000


def run_child(program: str, folder: RunFolder, on_event: Callable[[dict[str, Any]], None], *arguments: str) -> None:
    """Run `python -m hgt.<program> <folder> <arguments>` to its end, calling `on_event` for every new event.

    Raises OutOfMemory, InputError or HgtError with the child's own message. Any exception here (Ctrl-C, a cancelled flow) stops
    the child at once; its last checkpoint is whole.
    """
    events = EventReader(folder.events)
    events.skip_to_end()
    error: dict[str, Any] | None = None
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", f"hgt.{program}", str(folder.path), *arguments],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=_CHECKOUT, env=_environment(),
            start_new_session=True,  # Ctrl-C reaches the parent, which stops the child
        )  # fmt: skip
        try:
            running = True
            while running:
                running = child.poll() is None  # asked before reading, so that the last events are read after the end
                for event in events.new():
                    error = event if event["event"] == "error" else error
                    on_event(event)
                if running:
                    time.sleep(_POLL_SECONDS)
        finally:
            _stop(child)
        if child.returncode:
            raise _failure(program, folder, child.returncode, error, _tail(output))


def _environment() -> dict[str, str]:
    defaults = {"PYTORCH_ENABLE_MPS_FALLBACK": "0"}  # a missing kernel is an error, not a slow surprise
    return defaults | os.environ | {"HGT_PARENT_PID": str(os.getpid()), "PYTHONUNBUFFERED": "1"}


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Nothing to do for a child that has ended; otherwise ask it, then kill it."""
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _failure(program: str, folder: RunFolder, exit_code: int, error: dict[str, Any] | None, output: str) -> HgtError:
    said = output.strip()[-_MESSAGE_SIZE:]
    if error is None and exit_is_out_of_memory(exit_code, output):
        message = f"The {program} process was killed (exit code {exit_code}), most likely for memory{f': {said}' if said else ''}."
        return OutOfMemory(message, phase=_PHASES.get(program), planned_bytes=planned_phases(folder).get(_PHASES.get(program, "")))
    message = error["message"] if error else said or "it said nothing"
    if error and (error["out_of_memory"] or _computed_without_memory(error, output)):
        details = {name: error.get(name) for name in OutOfMemory("").details()}
        return OutOfMemory(f"The {program} process ran out of memory: {message}", **details)
    if exit_code == InputError.exit_code:
        return InputError(message)
    kind = f"{error['type']}: " if error and error["type"] not in ("HgtError", "TrainingDiverged") else ""
    return HgtError(f"The {program} process failed (exit code {exit_code}): {kind}{message}")


def _computed_without_memory(error: dict[str, Any], output: str) -> bool:
    """Metal only prints that a command buffer got no memory; torch 2.13 goes on with what it left behind (pytorch 193571)."""
    return error["type"] == TrainingDiverged.__name__ and says_out_of_memory(output)


def _tail(output: IO[str]) -> str:
    output.seek(0)
    return output.read()[-_OUTPUT_SIZE:]
