"""Processes that outlive the command that started them: each has a file that says which it is, and
a mark in its environment.

A process counts as ours only if it carries the mark, so a pid that the system has given to somebody
else (after a reboot, or after a crash) is never taken for ours. Whatever a service starts itself,
in whatever process group or session, inherits the mark.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

_MARK = "HGT_SERVICE"
# start times are compared only where the system hides another process's environment
_SAME_START_SECONDS = 2.0
_KILL_SECONDS = 5.0
_CHECKOUT = Path(__file__).resolve().parents[2]
_GONE = (psutil.Error, OSError)


@dataclass(frozen=True)
class Record:
    """What the file says of a process: pid, its start in seconds since the epoch, and what it was
    started with.
    """

    pid: int
    started: float
    settings: dict[str, str]


@dataclass(frozen=True)
class Background:
    """One process in the background; its files are `<folder>/<name>.json` and
    `<folder>/<name>.log`.
    """

    folder: Path
    name: str

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def _mark(self) -> str:
        return str(self.file)

    def record(self) -> Record | None:
        """What was started last; None where nothing was, or the file is unreadable."""
        try:
            return Record(**json.loads(self.file.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def leader(self) -> psutil.Process | None:
        """The process that was started, if it still runs."""
        record = self.record()
        if record is None:
            return None
        try:
            process = psutil.Process(record.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            return process if self._is_ours(process, record) else None
        except _GONE:
            return None

    def _is_ours(self, process: psutil.Process, record: Record) -> bool:
        try:
            environment = process.environ()
        except psutil.AccessDenied:
            environment = {}
        if environment:
            return environment.get(_MARK) == self._mark
        # Hidden, or not there yet: for a moment after its start a process has none.
        return abs(process.create_time() - record.started) < _SAME_START_SECONDS

    def survivors(self) -> bool:
        """Whether anything that it started outlives it."""
        return self.leader() is None and bool(self._family())

    def start(
        self, command: list[str], environment: dict[str, str], settings: dict[str, str]
    ) -> Record:
        """Start it in a session of its own, with its output in the log; the log of the start before
        becomes `<name>.log.old`.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.old"))
        with self.log.open("wb") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=_CHECKOUT,
                env=environment | {_MARK: self._mark},
                start_new_session=True,
            )
        # it outlives this program: nobody waits for it, and Python shall not complain of that
        child.returncode = 0
        record = Record(child.pid, psutil.Process(child.pid).create_time(), settings)
        new = self.file.with_suffix(".json.new")
        new.write_text(json.dumps(asdict(record)) + "\n")
        new.replace(self.file)
        return record

    def stop(self, seconds: float) -> bool:
        """End the process and all that it started, and remove its file. Returns whether anything
        ran.

        SIGTERM goes first to what it started in sessions of their own (a worker's flow runs, which
        then still end in Prefect and MLflow, and end their own children), then to its own process
        group. What is left after `seconds` of either gets SIGKILL.
        """
        found = self._family()
        runs = [p for p in self._outermost(found) if not self._in_own_group(p)]
        self._terminate(runs, seconds)
        self._terminate([p for p in self._family() if self._in_own_group(p)], seconds)
        self.kill()
        self.file.unlink(missing_ok=True)
        return bool(found)

    def kill(self) -> None:
        """SIGKILL to the process and all that it started."""
        deadline = time.monotonic() + _KILL_SECONDS
        while (left := self._family()) and time.monotonic() < deadline:
            for process in left:
                _signal(process, signal.SIGKILL)
            psutil.wait_procs(left, timeout=1)

    def _terminate(self, processes: list[psutil.Process], seconds: float) -> None:
        for process in processes:
            _signal(process, signal.SIGTERM)
        psutil.wait_procs(processes, timeout=seconds)

    def _in_own_group(self, process: psutil.Process) -> bool:
        record = self.record()
        try:
            return record is not None and os.getpgid(process.pid) == record.pid
        except _GONE:
            return False

    def _outermost(self, family: list[psutil.Process]) -> list[psutil.Process]:
        """Those that no other one but the process's own group started."""
        inner = {p.pid for p in family if not self._in_own_group(p)}
        found = []
        for process in family:
            with contextlib.suppress(*_GONE):
                if process.ppid() not in inner:
                    found.append(process)
        return found

    def _family(self) -> list[psutil.Process]:
        """The process, if it lives, and every living one with the mark."""
        found = {
            p.pid: p
            for p in psutil.process_iter()
            if p.pid != os.getpid() and self._carries_mark(p)
        }
        # where environments cannot be read, its descendants are all that can be found
        if leader := self.leader():
            found |= {p.pid: p for p in (leader, *leader.children(recursive=True))}
        return list(found.values())

    def _carries_mark(self, process: psutil.Process) -> bool:
        try:
            return (
                process.environ().get(_MARK) == self._mark
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except _GONE:
            return False


def _signal(process: psutil.Process, signum: int) -> None:
    with contextlib.suppress(*_GONE):
        process.send_signal(signum)
