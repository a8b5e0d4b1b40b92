"""The undelivered entries for a tracker, in order: `tracking.jsonl` in the run folder.

Each line is one JSON object: an entry, or the number of a delivered entry. Every line is written
whole. Knows no tracker.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hgt.whole_file import written_whole

FILE = "tracking.jsonl"


@dataclass
class Entry:
    """An entry for the tracker.

    number: position in the order
    kind: such as epoch, metrics or end
    values: content to deliver
    is_doubtful: whether an earlier attempt may have delivered it
    refused: why the tracker refuses it; "" when it does not
    answer: result of the delivery
    """

    number: int
    kind: str
    values: dict[str, Any]
    is_doubtful: bool = False
    refused: str = ""
    answer: Any = field(default=None, compare=False)

    def line(self) -> str:
        return json.dumps({"number": self.number, "kind": self.kind, "values": self.values}) + "\n"


class Outbox:
    """The undelivered entries. Several threads may use it.

    Stays in memory until `keep` is called, so that a refused new run leaves no file. A full disk
    raises no error.
    """

    def __init__(self, folder: Path, is_kept: bool):
        self._folder = folder
        self._lock = threading.RLock()
        self._is_kept = is_kept
        self._pending = {entry.number: entry for entry in (_read(folder / FILE) if is_kept else ())}
        self._last = max(self._pending, default=0)
        if self._pending:
            self.keep()

    def __iter__(self) -> Iterator[Entry]:
        with self._lock:
            return iter(list(self._pending.values()))

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def is_kept(self) -> bool:
        return self._is_kept

    def keep(self) -> None:
        """Keep the entries in the run folder from now on. The folder must exist."""
        with self._lock:
            self._is_kept = True
            with contextlib.suppress(OSError), written_whole(self._folder / FILE) as new:
                new.write_text("".join(entry.line() for entry in self._pending.values()))

    def add(self, kind: str, is_first: bool = False, **values: Any) -> Entry:
        """Add an entry.

        kind: such as epoch, metrics or end
        is_first: whether this process delivers it before all others
        values: content to deliver
        """
        with self._lock:
            self._last += 1
            entry = Entry(self._last, kind, values)
            self._pending = (
                {self._last: entry} | self._pending
                if is_first
                else self._pending | {self._last: entry}
            )
            self._write(entry.line())
            return entry

    def done(self, entry: Entry) -> None:
        with self._lock:
            self._pending.pop(entry.number, None)
            self._write(json.dumps({"done": entry.number}) + "\n")

    def close(self) -> None:
        """Remove the file when nothing is left in it."""
        with self._lock:
            if self._is_kept and not self._pending:
                (self._folder / FILE).unlink(missing_ok=True)

    def _write(self, line: str) -> None:
        if not self._is_kept:
            return
        # on a full disk the entry stays in memory; other writers report the full disk
        with contextlib.suppress(OSError):
            handle = os.open(self._folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(handle, line.encode())
            finally:
                os.close(handle)


def _read(path: Path) -> list[Entry]:
    """The entries of the file that no later line marks as delivered. Skips incomplete lines."""
    if not path.is_file():
        return []
    entries: dict[int, Entry] = {}
    for line in path.read_bytes().splitlines():
        try:
            told = json.loads(line)
            if "done" in told:
                entries.pop(told["done"], None)
            else:
                entries[int(told["number"])] = Entry(
                    told["number"], str(told["kind"]), dict(told["values"]), is_doubtful=True
                )
        except (ValueError, TypeError, LookupError):
            continue
    return list(entries.values())
