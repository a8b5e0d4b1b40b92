"""Delivers an outbox to MLflow in a thread, in order, and retries while the store does not answer.

No signal can interrupt this thread (Ctrl-C during a write left SQLite's transaction open). The
program does not wait for it at the end: the run folder keeps undelivered entries.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from hgt.run.folder import RunFolder
from tasks.tracking.mlflow_run import MARK, MlflowRun
from tasks.tracking.outbox import Entry, Outbox
from tasks.tracking.registry import decide
from tasks.tracking.store_errors import in_words, is_passing

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
_POLL_SECONDS = 0.05
_FILES_SECONDS = 900.0  # limit of one attempt that sends files
_SENDS_FILES = ("artifacts", "register")


@dataclass(frozen=True)
class Patience:
    """How long to wait for the store, in seconds.

    without_answer: since the first failed attempt
    in_attempt: since the start of the current attempt
    for_files: whether an attempt that sends files may take longer
    """

    without_answer: float
    in_attempt: float
    for_files: bool = False


class Delivery:
    """The delivery of one run's outbox.

    problem: why the store does not answer now; "" when it does
    fatal: why the store can never work; None when it can
    """

    def __init__(self, folder: RunFolder, outbox: Outbox):
        self.folder, self.outbox = folder, outbox
        self.run: MlflowRun | None = None
        self.problem = ""
        self.fatal: Exception | None = None
        self._failing_since = self._began = 0.0
        self._at_work: Entry | None = None
        self._told: list[str] = []
        self._wake = threading.Event()
        self._pause = _FIRST_PAUSE
        self._is_stopped = False
        threading.Thread(target=self._work, name="mlflow", daemon=True).start()

    def told(self) -> list[str]:
        """Messages for the user since the last call."""
        told, self._told = self._told, []
        return told

    def add(self, kind: str, is_first: bool = False, **values: object) -> Entry:
        entry = self.outbox.add(kind, is_first, **values)
        self._wake.set()
        return entry

    def wait(self, patience: Patience, entry: Entry | None = None) -> bool:
        """Wait for the delivery, and return whether it succeeded.

        patience: how long to wait
        entry: the entry to wait for; None for all that the store accepts
        """
        if self.problem:  # retry at once
            self._failing_since, self._pause = time.monotonic(), 0.0
        while self.fatal is None:
            left = self._left()
            if not left or (entry is not None and entry not in left):
                return entry is None or not entry.refused
            if self._is_over(patience):
                return False
            time.sleep(_POLL_SECONDS)
        return False

    def stop(self) -> None:
        """Start no further attempt. The outbox keeps undelivered entries."""
        self._is_stopped = True
        self._wake.set()
        self.outbox.close()

    def _is_over(self, patience: Patience) -> bool:
        now, at_work, began = time.monotonic(), self._at_work, self._began
        if self.problem and now - self._failing_since > patience.without_answer:
            return True
        sends_files = at_work is not None and at_work.kind in _SENDS_FILES and patience.for_files
        return at_work is not None and now - began > (
            _FILES_SECONDS if sends_files else patience.in_attempt
        )

    def _left(self) -> list[Entry]:
        return [entry for entry in self.outbox if not entry.refused]

    def _work(self) -> None:
        while self.fatal is None and not self._is_stopped:
            self._wake.clear()
            left = self._left()
            if not left:
                self._wake.wait()
            elif not self._attempt(left[0]):
                self._wait_out(self._pause)
                self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)

    def _wait_out(self, seconds: float) -> None:
        """Pause between attempts. A call of `wait` shortens it; new entries do not."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._pause >= seconds and not self._is_stopped:
            time.sleep(_POLL_SECONDS)

    def _attempt(self, entry: Entry) -> bool:
        """Whether the store answered, even with a refusal."""
        self._began, self._at_work = time.monotonic(), entry
        try:
            entry.answer = self._deliver(entry)
        except Exception as error:  # noqa: BLE001 - reported and retried
            return self._failed(entry, error)
        finally:
            self._at_work = None
        self.outbox.done(entry)
        if self.problem:
            self._told.append("MLflow answers again")
        self.problem, self._pause = "", _FIRST_PAUSE
        return True

    def _failed(self, entry: Entry, error: Exception) -> bool:
        entry.is_doubtful = True
        if is_passing(error):
            if not self.problem:
                self._failing_since = time.monotonic()
                if self.run is not None:
                    self._told.append(
                        f"WARNING: MLflow does not answer ({in_words(error)}). The run continues."
                        " MLflow gets its entries later."
                    )
            self.problem = in_words(error)
            return False
        if self.run is None:
            self.fatal = error
        entry.refused = in_words(error)  # MLflow may accept later entries
        return True

    def _deliver(self, entry: Entry) -> object:
        run = self.run
        if run is None:
            made_by = (
                {**entry.values["tags"], MARK: entry.values["mark"]}
                if entry.kind == "begin"
                else {}
            )
            may_be_there = entry.is_doubtful or bool(entry.values.get("is_again"))
            run = self.run = MlflowRun(self.folder, made_by, may_be_there, self._told.append)
            if self.outbox.is_kept:
                run.remember()
        if entry.values.get("of_a_new_run") and not (run.is_new or entry.is_doubtful):
            return None
        return self._told_to(run, entry.kind, entry.values, entry.is_doubtful)

    def _told_to(
        self, run: MlflowRun, kind: str, values: dict[str, object], is_doubtful: bool
    ) -> object:
        v: dict[str, Any] = {
            name: value for name, value in values.items() if name != "of_a_new_run"
        }
        match kind:
            case "begin":
                run.begin()
            case "epoch":
                run.epoch(**v, is_doubtful=is_doubtful)
            case "metrics":
                run.metrics(**v)
            case "tags":
                run.tags(v["values"])
            case "parameters":
                run.parameters(v["values"])
            case "dataset":
                run.dataset(**v)
            case "text":
                run.text(**v)
            case "artifacts":
                # the run may have removed it
                if (path := self.folder.path / v["path"]).exists():
                    run.artifacts(path, v["into"])
            case "register" | "withdraw":
                return decide(kind, self.folder, run, v["digest"])
            case "settle":
                if run.status == "RUNNING":
                    run.end("KILLED")
            case "end":
                run.end(**v)
        return None
