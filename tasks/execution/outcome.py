"""The events of a running program of the library, and the meaning of its end.

In: `events.jsonl`, exit code and output. Out: events, and an exception for a failed program. Serves
child processes (child.py), containers (container.py) and the work pool (pool_run.py).
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
MAX_OUTPUT = 100_000  # last characters of the output that explain the end
_POLL_SECONDS = 0.25
_MAX_MESSAGE = 4_000
# the memory phase in which a program spends most of its time
_PHASES = {"train": "step", "embed": "inference", "evaluate": "evaluation", "baselines": "step"}


def follow(events: EventReader, is_running: Callable[[], bool], on_event: OnEvent) -> Event | None:
    """Call `on_event` for every new event until the program ends.

    Returns the program's error event, or None when it wrote none.
    """
    error: Event | None = None
    running = True
    while running:
        # checked before reading, so that one more read follows the end
        running = is_running()
        for event in events.new():
            error = event if event["event"] == "error" else error
            on_event(event)
        if running:
            time.sleep(_POLL_SECONDS)
    return error


def failure(program: str, folder: RunFolder, end: ProgramEnd) -> HgtError:
    """The exception for a failed program: OutOfMemory, InputError or HgtError.

    It carries the message of the program.
    """
    exit_code, error = end.exit_code, end.error
    said, ran_out = last_words(end.output), memory_death(end)
    if ran_out in (MemoryDeath.KILLED, MemoryDeath.FAILED):
        killed = (
            f"The {program} process was killed (exit code {exit_code}), most likely for"
            f" memory{f': {said}' if said else ''}."
        )
        return killed_for_memory(program, folder, killed)
    message = error["message"] if error else said or "it printed nothing"
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
    """OutOfMemory for a program that was killed before it could report it.

    Names the phase in which the program spends most of its time, and that phase's planned memory.
    """
    phase, plan = _PHASES.get(program), folder.load_plan()
    planned_bytes = plan.phases.get(phase or "") if plan else None
    return OutOfMemory(message, device=device, phase=phase, planned_bytes=planned_bytes)


def killed_container(how: MemoryDeath, limit_bytes: int) -> str:
    """The predicate of a sentence: how memory ended a container, with the container's limit."""
    if how is MemoryDeath.OVER_LIMIT:
        return f"needed more than its limit of {limit_bytes / 1e9:.1f} GB"
    why = "was killed (exit code 137), most likely for memory, with a limit of"
    return f"{why} {limit_bytes / 1e9:.1f} GB"


def last_words(output: str) -> str:
    return output.strip()[-_MAX_MESSAGE:]
