"""`events.jsonl`: a program's messages to its readers, one JSON object per line.

In: events, or the file. Out: the file, or its events. Every line has `event` and `time` (seconds
since 1970). Each line takes one system call. So a killed writer or a full disk leaves at most
one broken last line. Readers skip it, and the next line starts anew.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hgt.errors import InputError, quoted
from hgt.input_file import check_file, parsed_json

_NEEDED = {"epoch": ("epoch",), "start": ("num_batches",)}  # integers that readers count on


class EventWriter:
    """Appends events to the file. Programs use it as their one callback."""

    def __init__(self, path: Path):
        self.path = path
        _check_kind(path)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.fstat(self._file).st_size
        self._is_broken = bool(size) and os.pread(self._file, 1, size - 1) != b"\n"

    def __call__(self, event: str, **values: Any) -> None:
        """Write one event. Raises OSError when the disk has no room for the line."""
        told = json.dumps({"event": event, "time": round(time.time(), 3), **values}, allow_nan=True)
        line = b"\n" * self._is_broken + told.encode() + b"\n"
        written = os.write(self._file, line)
        self._is_broken = written < len(line)
        if self._is_broken:  # the kernel fills the disk first, and fails at the next write
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def close(self) -> None:
        os.close(self._file)


class EventReader:
    """Reads events from the place where it stopped before. A line counts once it is whole."""

    def __init__(self, path: Path):
        self.path = path
        self._offset = 0

    def skip_to_end(self) -> None:
        self._offset = self.path.stat().st_size if self.path.exists() else 0

    def new(self) -> Iterator[dict[str, Any]]:
        """The events since the last call. Raises InputError for an event that lacks a required
        number.
        """
        if not self.path.exists():
            return
        _check_kind(self.path)
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                event = _parsed(line)
                if event is None:
                    continue
                if lacking := _lacking(event):
                    raise InputError(_not_whole(self.path, event, lacking))
                yield event


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event: dict[str, Any] = parsed_json(line, dict)
    except ValueError:  # the broken line of a writer that was killed
        return None
    return event if "event" in event else None


def _lacking(event: dict[str, Any]) -> str | None:
    """The first required integer that the event lacks; None where it has all."""
    if not isinstance(event["event"], str):
        return "event"
    needed = _NEEDED.get(event["event"], ())
    return next((name for name in needed if type(event.get(name)) is not int), None)


def _check_kind(path: Path) -> None:
    """Refuse a pipe, because reading it would wait for ever."""
    if path.exists():
        check_file(path, "A run's events are a file: remove it, then resume.")


def epochs_by_number(path: Path, *figures: str) -> dict[int, dict[str, Any]]:
    """{epoch: its last `epoch` event}. After a kill, an epoch may have two events.

    figures: keys whose values must be numbers or None. Raises InputError for an event without one
        of them.
    """
    epochs = {
        event["epoch"]: event for event in EventReader(path).new() if event["event"] == "epoch"
    }
    for event in epochs.values():
        for name in figures:
            if name not in event or not isinstance(event[name], int | float | None):
                raise InputError(_not_whole(path, event, name))
    return epochs


def _not_whole(path: Path, event: dict[str, Any], lacking: str) -> str:
    return (
        f"{path}: the line of {quoted(event)} has no {lacking}, or not a number there."
        " Remove that line, then resume."
    )
