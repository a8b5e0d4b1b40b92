"""Judges whether memory ran out: by an exception, or by what is left of a program that ended.

In: an exception of any library, or a `ProgramEnd` as the parent of a child process or of a
container saw it. Out: an OutOfMemory, or a `MemoryDeath`. Callers hand over what they saw and word
the answer; nobody else looks at exit codes or messages. Knows neither Docker nor Prefect.
"""

from __future__ import annotations

import enum
import errno
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hgt.device.traits import DEVICES, traits_of
from hgt.errors import OutOfMemory, TrainingDiverged

# As a child process reports its signal, and as a shell or a container does.
_ABORTED = frozenset({-6, 134})
_KILLED = frozenset({-9, 137})
# The same in Prefect's words, of its process in the container or of the container itself.
_SAID_KILLED = re.compile(r"status code:? (137|-9)\b")
# Metal's assertions on size (pytorch 149325, 143859). Others from the same file are defects in a
# kernel and no question of memory.
_TOO_LARGE_FOR_METAL = re.compile(
    r"total bytes of NDArray > 2\*\*|product of dimension sizes > 2\*\*"
    r"|NDArray dimension length > INT_MAX"
)
_TRACEBACK = "Traceback (most recent call last)"
_MAY_BE_MEMORY = re.compile(r"(\w+\.)*(\w*MemoryError|RuntimeError|AcceleratorError|OSError)\b")


class MemoryDeath(enum.Enum):
    """How memory ended a program."""

    OVER_LIMIT = enum.auto()  # its container's limit, and the engine says so
    KILLED = enum.auto()  # by signal 9, without a word
    FAILED = enum.auto()  # aborted by an allocation, or by an exception before any error event
    REPORTED = enum.auto()  # it said so in its error event


@dataclass(frozen=True)
class ProgramEnd:
    """What the parent of a program saw of its end.

    exit_code: 0 for success; None where nobody reports one
    output: the end of what the program printed
    error: its error event (see `hgt.run.events`); None where it wrote none
    in_container: the exit code is that of a container
    over_limit: the container engine says that the limit on memory killed a program in it
    said: "state: message" of a supervisor, such as Prefect
    """

    exit_code: int | None = None
    output: str = ""
    error: Mapping[str, Any] | None = None
    in_container: bool = False
    over_limit: bool = False
    said: str = ""


def memory_death(end: ProgramEnd) -> MemoryDeath | None:
    """How memory ended the program; None where it ended well or of anything else."""
    if end.over_limit:  # also where a supervisor in the container outlived the program
        return MemoryDeath.OVER_LIMIT
    if end.exit_code == 0:
        return None
    if end.error is not None:
        return MemoryDeath.REPORTED if _reports_memory(end.error, end.output) else None
    if _was_killed(end):
        return MemoryDeath.KILLED
    return MemoryDeath.FAILED if _failed_of_memory(end) else None


def _reports_memory(error: Mapping[str, Any], output: str) -> bool:
    """Metal only prints that a command buffer got no memory; torch 2.13 goes on with what it left
    behind until the loss diverges (pytorch 193571).
    """
    diverged = error["type"] == TrainingDiverged.__name__
    return bool(error["out_of_memory"]) or (diverged and _says_out_of_memory(output))


def _was_killed(end: ProgramEnd) -> bool:
    """Where a child left a traceback, its exception decides instead. A container is killed from
    outside, whatever its programs printed before.
    """
    if end.exit_code in _KILLED:
        return end.in_container or _TRACEBACK not in end.output
    return bool(_SAID_KILLED.search(end.said))


def _failed_of_memory(end: ProgramEnd) -> bool:
    if end.said.partition(":")[0] == OutOfMemory.__name__:
        return True
    if _TRACEBACK in end.output:
        raised = end.output.rpartition(_TRACEBACK)[2].splitlines()
        return any(_MAY_BE_MEMORY.match(line) and _line_says_memory(line) for line in raised)
    too_large = _TOO_LARGE_FOR_METAL.search(end.output)
    return end.exit_code in _ABORTED and (bool(too_large) or _says_out_of_memory(end.output))


def _line_says_memory(line: str) -> bool:
    return "MemoryError" in line.partition(":")[0] or _says_out_of_memory(line)


def _says_out_of_memory(text: str) -> bool:
    """Whether text tells of memory that ran out, on any device."""
    return any(traits.out_of_memory.search(text) for traits in DEVICES.values())


def out_of_memory_device(error: BaseException) -> str | None:
    """The type of the device that an exception says has run out of memory ("cpu": the host); None
    for any other exception.
    """
    if isinstance(error, OutOfMemory):
        return error.device
    no_memory = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if isinstance(error, MemoryError) or no_memory:
        return "cpu"
    if isinstance(error, RuntimeError):  # torch.OutOfMemoryError among them
        import torch  # not at the top: judging a container's end must not wait for it

        named = (t.type for t in DEVICES.values() if t.out_of_memory.search(str(error)))
        unnamed = _raises_own_error() if isinstance(error, torch.OutOfMemoryError) else None
        return next(named, unnamed)
    return None


def _raises_own_error() -> str:
    """Of the devices from which torch raises OutOfMemoryError the one that this machine has, else
    the first of the table.
    """
    devices = [traits for traits in DEVICES.values() if traits.raises_own_error]
    return next((traits for traits in devices if traits.is_available()), devices[0]).type


@contextmanager
def translating_out_of_memory(
    device: str, phase: str, planned_bytes: int | None = None
) -> Iterator[None]:
    """Every form of out-of-memory becomes one OutOfMemory. Anything else that is raised passes as
    it is, and so does an OutOfMemory.

    The failed frames' tensors are released and the cache is cleared, so that a smaller attempt
    may follow in this process.
    """
    try:
        yield
    except OutOfMemory:
        raise
    except Exception as error:
        ran_out = out_of_memory_device(error)
        if ran_out is None:
            raise
        traits = traits_of(ran_out)
        held = int(traits.in_use()[0]) if traits.is_available() else None
        _release_frames(error)
        traits_of(device).clear_cache()
        message = _message(error, ran_out, device, phase, planned_bytes, held)
        raise OutOfMemory(message, ran_out, phase, planned_bytes, held) from error


def _message(
    error: BaseException,
    ran_out: str,
    device: str,
    phase: str,
    planned_bytes: int | None,
    held_bytes: int | None,
) -> str:
    said = next(iter(str(error).splitlines()), "") or type(error).__name__
    plan = "nothing was planned for it"
    if planned_bytes is not None:
        plan = f"planned were {planned_bytes:,} bytes"
    held = "an unknown number" if held_bytes is None else f"{held_bytes:,} bytes"
    return (
        f"{traits_of(ran_out).spoken} ran out of memory in phase {phase} on {device}: {plan}, "
        f"{held} were allocated. {said} Free memory, take smaller steps (raise "
        "accumulation_steps, lower edge_sample_size or node_batch_size) or another device; the "
        "last checkpoint is whole."
    )


def _release_frames(error: BaseException | None) -> None:
    """Drop the local variables of the frames that failed: a traceback keeps their tensors alive."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
