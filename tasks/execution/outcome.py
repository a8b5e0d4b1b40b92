"""What a program of the library says in `events.jsonl` while it runs, and what its end means to the
one who started it.

The same for a child process (child.py) and for a container (container.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hgt.device.out_of_memory import MemoryDeath, ProgramEnd, memory_death
from hgt.errors import HgtError, InputError, OutOfMemory, TrainingDiverged
from hgt.run.events import EventReader
from hgt.run.folder import RunFolder

Event = dict[str, Any]
OnEvent = Callable[[Event], None]
MAX_OUTPUT = 100_000  # characters of a program's output that its end is judged by
_POLL_SECONDS = 0.25
_MAX_MESSAGE = 4_000
# what a program is mostly busy with
_PHASES = {"train": "step", "embed": "inference", "evaluate": "evaluation", "baselines": "step"}


def follow(events: EventReader, is_running: Callable[[], bool], on_event: OnEvent) -> Event | None:
    """Call `on_event` for every new event until the program has ended; returns its error event, if
    it told one.
    """
    error: Event | None = None
    running = True
    while running:
        # asked before reading, so that the last events are read after the end
        running = is_running()
        for event in events.new():
            error = event if event["event"] == "error" else error
            on_event(event)
        if running:
            time.sleep(_POLL_SECONDS)
    return error


def failure(program: str, folder: RunFolder, end: ProgramEnd) -> HgtError:
    """The exception for a program that ended in this way.

    OutOfMemory, InputError or HgtError, with the program's own message.
    """
    exit_code, error = end.exit_code, end.error
    said, ran_out = last_words(end.output), memory_death(end)
    if ran_out in (MemoryDeath.KILLED, MemoryDeath.FAILED):
        killed = (
            f"The {program} process was killed (exit code {exit_code}), most likely for"
            f" memory{f': {said}' if said else ''}."
        )
        return killed_for_memory(program, folder, killed)
    message = error["message"] if error else said or "it said nothing"
    if error and ran_out is MemoryDeath.REPORTED:
        details = {name: error.get(name) for name in OutOfMemory("").details()}
        return OutOfMemory(f"The {program} process ran out of memory: {message}", **details)
    if exit_code == InputError.exit_code:
        return InputError(message)
    kind = (
        f"{error['type']}: "
        if error and error["type"] not in ("HgtError", "DiskFull", "TrainingDiverged")
        else ""
    )
    raised = TrainingDiverged if error and error["type"] == TrainingDiverged.__name__ else HgtError
    return raised(f"The {program} process failed (exit code {exit_code}): {kind}{message}")


def killed_for_memory(
    program: str, folder: RunFolder, message: str, device: str | None = None
) -> OutOfMemory:
    """OutOfMemory of a program that could not say so itself: in the phase that it is mostly busy
    with, and what was planned for it.
    """
    phase, plan = _PHASES.get(program), folder.load_plan()
    planned_bytes = plan.phases.get(phase or "") if plan else None
    return OutOfMemory(message, device=device, phase=phase, planned_bytes=planned_bytes)


def killed_container(how: MemoryDeath, limit_bytes: int) -> str:
    """How memory ended a container, as the predicate of a sentence, with the container's limit."""
    if how is MemoryDeath.OVER_LIMIT:
        return f"needed more than its limit of {limit_bytes / 1e9:.1f} GB"
    why = "was killed (exit code 137), most likely for memory, with a limit of"
    return f"{why} {limit_bytes / 1e9:.1f} GB"


def last_words(output: str) -> str:
    return output.strip()[-_MAX_MESSAGE:]
