"""What a tracker has to be told, in order, kept in the run folder until it has it:
`tracking.jsonl`, one JSON object a line.

A line is an entry, or the number of an entry that was delivered. Every line is written whole. Knows
no tracker.
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
    """kind, values: what to deliver; is_doubtful: it may have been delivered before; refused: why
    the tracker does not take it, or ""
    answer: what its delivery gave
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
    """The entries that are not delivered yet. Several threads may use it.

    In memory until `keep` is called, for a run that is not there yet: one that is refused leaves
    nothing behind. A disk without room ends nothing either.
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
        """From now on in the run folder, which is there."""
        with self._lock:
            self._is_kept = True
            with contextlib.suppress(OSError), written_whole(self._folder / FILE) as new:
                new.write_text("".join(entry.line() for entry in self._pending.values()))

    def add(self, kind: str, is_first: bool = False, **values: Any) -> Entry:
        """is_first: before all others, in this process."""
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
        # no room: it is in memory, and what cannot do without room says so
        with contextlib.suppress(OSError):
            handle = os.open(self._folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(handle, line.encode())
            finally:
                os.close(handle)


def _read(path: Path) -> list[Entry]:
    """The entries without a line that says they were delivered. A line that was only half written
    is none.
    """
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
