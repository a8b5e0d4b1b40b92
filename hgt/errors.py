"""The one hierarchy of errors. Each message says what happened, the values seen, and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# the last is SQLite's
_NO_ROOM = (
    *map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)),
    "database or disk is full",
)
_LONGEST = 100  # characters of a value in a message
_MAY_NOT = (errno.EACCES, errno.EPERM, errno.EROFS)


def printable(text: str, kept: str = "") -> str:
    """Line breaks, control characters and the like as escapes, but for those that are kept."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text
    )


def listed(names: Sequence[str], num_all: int | None = None, most: int = 5) -> str:
    """The first names, and how many more there are. num_all: of all, where only the first are
    given
    """
    more = (num_all or len(names)) - len(names[:most])
    return ", ".join(names[:most]) + (f" and {more:,} more" if more else "")


def counted(number: int, what: str) -> str:
    """what: in the singular, of those that take an s"""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def quoted(value: object) -> str:
    """A value as a message shows it: printable, on one line, its beginning where it is long."""
    try:
        text = printable(repr(value))
    except ValueError:
        return "a number of thousands of digits"
    except RecursionError:
        return "what is nested too deep"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} characters)"


class HgtError(Exception):
    """Any failure that this product explains itself; `exit_code` is what a program ends with.

    A name or path in the message cannot break it: what no reader would see is shown as an escape.
    """

    exit_code = 1
    _kept = "\n"  # the last words of a program may be several lines

    def __str__(self) -> str:
        return printable(super().__str__(), self._kept)


class InputError(HgtError):
    """The user's file, option or run folder is wrong; nothing was changed."""

    exit_code = 2
    _kept = ""


class CheckpointError(InputError):
    """A checkpoint is unreadable, or belongs to another graph or configuration."""


class RunLocked(InputError):
    """Another process works on the same run folder."""


class OutOfMemory(HgtError):
    """A device or the host ran out of memory; the only failure that may move a run
    elsewhere.

    device: mps, cuda or cpu (the host), whichever ran out; phase: of the memory plan ("step",
        "inference", "evaluation"), or the program's name outside of them; planned_bytes: what the
        plan foresaw; allocated_bytes: what was held just then. None: not known.
    """

    exit_code = 4

    def __init__(
        self, message: str, device: str | None = None, phase: str | None = None,
        planned_bytes: int | None = None, allocated_bytes: int | None = None,
    ):  # fmt: skip
        super().__init__(message)
        self.device = device
        self.phase = phase
        self.planned_bytes = planned_bytes
        self.allocated_bytes = allocated_bytes

    def details(self) -> dict[str, Any]:
        """Everything but the message, as it travels in the `error` event from a program to its
        parent.
        """
        return {
            "device": self.device,
            "phase": self.phase,
            "planned_bytes": self.planned_bytes,
            "allocated_bytes": self.allocated_bytes,
        }


class DeviceRefused(HgtError):
    """An accelerator computes something else than the CPU, or cannot run the training step (`hgt
    doctor`).
    """


class TrainingDiverged(HgtError):
    """A loss or a gradient is NaN or infinite."""


class DiskFull(HgtError):
    """A file could not be written for lack of room. No other device and no smaller step would
    change that.
    """


def is_disk_full(error: BaseException) -> bool:
    """Whether an exception says that a disk, a quota or a file-size limit left no room.

    By its text: safetensors, Arrow and SQLite raise their own kinds, without `errno`.
    """
    return any(words in str(error) for words in _NO_ROOM)


@contextmanager
def explaining_full_disk(path: Path) -> Iterator[None]:
    """What tells of a full disk becomes one DiskFull that says what to do, of a file without access
    an InputError; what else is raised passes as it is. path: written to.
    """
    try:
        yield
    except HgtError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _MAY_NOT:
            raise InputError(
                f"{error.filename or path}: cannot be used ({error.strerror}). Give this user"
                " access, then resume."
            ) from error
        if not is_disk_full(error):
            raise
        said = next(
            line for line in str(error).splitlines() if any(words in line for words in _NO_ROOM)
        )
        raise DiskFull(
            f"{path}: there is no room left to write ({said}). Make room, then resume."
        ) from error
