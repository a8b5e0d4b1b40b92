"""Background processes that outlive the command that started them.

Each has a file with its pid, and a mark in its environment. Only a process with the mark is ours:
after a reboot or a crash another program may have the same pid. All processes that a service starts
inherit the mark, in any process group or session.
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
# compares start times only if the system hides the environment of a process
_SAME_START_SECONDS = 2.0
_KILL_SECONDS = 5.0
_CHECKOUT = Path(__file__).resolve().parents[2]
_GONE = (psutil.Error, OSError)


@dataclass(frozen=True)
class Record:
    """The content of the file of a process.

    pid: process id
    started: start in seconds since 1970
    settings: settings that it was started with
    """

    pid: int
    started: float
    settings: dict[str, str]


@dataclass(frozen=True)
class Background:
    """A background process with the files `<folder>/<name>.json` and `<folder>/<name>.log`."""

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
        """The record of the last start; None without one, or for an unreadable file."""
        try:
            return Record(**json.loads(self.file.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def leader(self) -> psutil.Process | None:
        """The started process, if it still runs."""
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
        # hidden, or not set yet: a process has none for a moment after its start
        return abs(process.create_time() - record.started) < _SAME_START_SECONDS

    def survivors(self) -> bool:
        """Whether the process has ended and a process that it started still runs."""
        return self.leader() is None and bool(self._family())

    def start(
        self, command: list[str], environment: dict[str, str], settings: dict[str, str]
    ) -> Record:
        """Start the process in its own session, and write its output into the log.

        command: program and arguments
        environment: environment variables
        settings: stored in the record

        The previous log becomes `<name>.log.old`.
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
        # it outlives this program; prevents Python's warning about a child without a wait
        child.returncode = 0
        record = Record(child.pid, psutil.Process(child.pid).create_time(), settings)
        new = self.file.with_suffix(".json.new")
        new.write_text(json.dumps(asdict(record)) + "\n")
        new.replace(self.file)
        return record

    def stop(self, seconds: float) -> bool:
        """End the process and all processes that it started, and remove its file.

        seconds: time to end after each SIGTERM, before SIGKILL

        Returns whether a process ran. SIGTERM goes first to processes in other sessions: a worker's
        flow runs, which then report their end to Prefect and MLflow. Then it goes to the process's
        own group.
        """
        found = self._family()
        runs = [p for p in self._outermost(found) if not self._in_own_group(p)]
        self._terminate(runs, seconds)
        self._terminate([p for p in self._family() if self._in_own_group(p)], seconds)
        self.kill()
        self.file.unlink(missing_ok=True)
        return bool(found)

    def kill(self) -> None:
        """Kill the process and all processes that it started."""
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
        """The processes that the process's own group started directly."""
        inner = {p.pid for p in family if not self._in_own_group(p)}
        found = []
        for process in family:
            with contextlib.suppress(*_GONE):
                if process.ppid() not in inner:
                    found.append(process)
        return found

    def _family(self) -> list[psutil.Process]:
        """The process, if it runs, and every running process with the mark."""
        found = {
            p.pid: p
            for p in psutil.process_iter()
            if p.pid != os.getpid() and self._carries_mark(p)
        }
        # without readable environments only its descendants can be found
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
