"""Logs a flow to MLflow. It neither waits for MLflow nor ends a training (outbox.py, delivery.py).

One MLflow run per run. Only the process of the flow starts and ends it. A resumed run continues the
same MLflow run.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import prefect.runtime.flow_run
from prefect.exceptions import CancelledRun, TerminationSignal

from hgt.config import RunConfig
from hgt.errors import InputError, explaining_full_disk, is_disk_full
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.run.events import EventReader
from hgt.run.folder import RunFolder
from tasks.execution.segments import Segment
from tasks.home import hgt_home, store_uri
from tasks.reporting import say
from tasks.tracking.delivery import Delivery, Patience
from tasks.tracking.outbox import Entry, Outbox
from tasks.tracking.store_errors import in_words
from tasks.tracking.undelivered import undelivered

_EPOCH_METRICS = (
    "loss",
    "link_loss",
    "contrastive_loss",
    "isotropy_loss",
    "val_mrr",
    "val_hits_at_10",
    "learning_rate",
    "grad_norm",
    "peak_memory_bytes",
    "step_seconds",
)
_CANCELLED = (KeyboardInterrupt, TerminationSignal, CancelledRun, SystemExit)
# Seconds without an answer, and of one attempt: before the first warning, before training starts
# without MLflow, before the program ends.
_MAKING = Patience(2.5, 120.0)
_NOTICE, _START, _END, _CANCELLED_END = (
    Patience(2.5, 10.0),
    Patience(5.0, 19.0),
    Patience(15.0, 30.0, True),
    Patience(4.0, 8.0),
)


class Tracker:
    """Takes the entries of one run in order. Skips what a resumed run has logged before."""

    def __init__(self, folder: RunFolder):
        """Raises InputError for a store that can never work."""
        self._folder = folder
        outbox = Outbox(folder.path, is_kept=folder.config.is_file())
        # this process begins and ends the MLflow run
        earlier = [entry for entry in outbox if entry.kind in ("begin", "end")]
        self._epochs = {entry.values["number"] for entry in outbox if entry.kind == "epoch"}
        is_made = bool(os.environ.get("MLFLOW_TRACKING_URI")) or (hgt_home() / "mlflow.db").exists()
        self._delivery = Delivery(folder, outbox)
        marks = [entry.values["mark"] for entry in earlier if entry.kind == "begin"]
        tags = {"prefect.flow_run_id": str(prefect.runtime.flow_run.id or "")}
        begun = self._delivery.add(
            "begin", True, tags=tags, mark=[*marks, secrets.token_hex(16)][0], is_again=bool(marks)
        )
        for entry in earlier:
            outbox.done(entry)
        self._of_a_new_run = False
        # whether a finished run may have other results now
        self.has_changed = False
        self._await_store(begun, is_made)

    def _await_store(self, begun: Entry, is_made: bool) -> None:
        """Wait a few seconds for the store, then train without it.

        The creation of the product's own store takes seconds.
        """
        if not self._delivery.wait(_NOTICE if is_made else _MAKING, begun):
            self._refuse_store()
            why = self._delivery.problem or "no answer yet"
            say(
                f"WARNING: MLflow's store {store_uri()} does not answer ({why}). Waiting a few more"
                " seconds ..."
            )
            if not self._delivery.wait(_START, begun):
                self._refuse_store()
                say(
                    "WARNING: Training begins without MLflow. The run folder keeps all entries"
                    " until it answers."
                )
        self.flush()

    def _refuse_store(self) -> None:
        error = self._delivery.fatal
        if error is not None:
            for entry in self._delivery.outbox:
                if entry.kind == "begin":
                    self._delivery.outbox.done(entry)
            self._delivery.stop()
        if error is not None and is_disk_full(error):
            raise error
        if error is not None:
            raise InputError(
                f"MLflow's store {store_uri()} cannot be used ({in_words(error)}). Repair it, or"
                " move it away: the next run creates a new one."
            )

    @property
    def run_id(self) -> str:
        """The id of the MLflow run; empty until the store has answered."""
        return self._delivery.run.run_id if self._delivery.run else ""

    def flush(self) -> None:
        """Print the messages of the deliveries."""
        for sentence in self._delivery.told():
            say(sentence)

    def _add(self, kind: str, **values: Any) -> None:
        if self._of_a_new_run:
            values["of_a_new_run"] = True
        self._delivery.add(kind, **values)

    @contextmanager
    def of_a_new_run(self) -> Iterator[None]:
        """Entries within the block are only for a run that MLflow does not know yet."""
        self._of_a_new_run = True
        yield
        self._of_a_new_run = False

    def remember(self) -> None:
        """Keep undelivered entries and MLflow's run id in the run folder from now on."""
        self._delivery.outbox.keep()
        if self._delivery.run:
            self._delivery.run.remember()

    def configuration(self, config: RunConfig, kg: Path | None) -> None:
        values = config.to_flat() | ({"kg": str(kg)} if kg else {})
        self._add(
            "parameters",
            values={k: json.dumps(v) if isinstance(v, list) else str(v) for k, v in values.items()},
        )

    def dataset(self, graph: KnowledgeGraph, kg: Path | None) -> None:
        """The graph as the run's input, with its hash."""
        profile = {
            "nodes": graph.total_nodes,
            "facts": graph.total_facts,
            "sha256": graph.hash,
            "dropped_rows": graph.dropped.as_dict(),
        }
        self._add(
            "dataset",
            name=kg.name if kg else "graph",
            digest=graph.hash,
            source=kg.as_uri() if kg else "",
            profile=profile,
        )
        self.tags({"graph_hash": graph.hash})

    def epoch(self, event: dict[str, Any]) -> None:
        """Log the figures of an epoch once, however often the event arrives."""
        self.flush()
        if event["epoch"] in self._epochs:
            return
        self._epochs.add(event["epoch"])
        self._add("epoch", **_epoch(event))

    def metrics(self, values: dict[str, float]) -> None:
        at = int(1000 * time.time())
        self._add("metrics", values={k: float(v) for k, v in values.items()}, milliseconds=at)

    def tags(self, values: dict[str, str]) -> None:
        self._add("tags", values=values)

    def text(self, text: str, file: str) -> None:
        self._add("text", text=text, file=file)

    def artifacts(self, path: Path, into: str | None = None) -> None:
        """Log files.

        path: a file or folder inside the run folder
        into: folder among the artifacts
        """
        self._add("artifacts", path=str(path.relative_to(self._folder.path)), into=into)

    def segment(self, number: int, segment: Segment, plan: Path) -> None:
        """Log the place, the reason and the memory plan of a segment."""
        known = {
            "place": segment.place,
            "device": segment.device,
            "reason": segment.reason,
            "shrinks": segment.shrinks,
        }
        self.tags({f"segment.{number}.{key}": str(value)[:500] for key, value in known.items()})
        self.text(plan.read_text(), f"plans/{number}.json")

    def decide(self, kind: str, digest: str) -> Any:
        """The registry's answer for these embeddings; None when it comes later.

        kind: "register" or "withdraw"
        digest: of the embeddings
        """
        entry = self._delivery.add(kind, digest=digest)
        self._delivery.wait(_END, entry)
        self.flush()
        return entry.answer

    def end(
        self,
        status: str,
        tags: dict[str, str] | None = None,
        was_refused: bool = False,
        is_hurried: bool = False,
    ) -> None:
        """End the MLflow run, and warn about undelivered entries.

        status: FINISHED, FAILED or KILLED
        tags: of the MLflow run
        was_refused: a run that had finished before stays FINISHED
        is_hurried: wait only a few seconds for MLflow
        """
        self._delivery.add(
            "end", status=status, tags=tags or {}, was_refused=was_refused and not self.has_changed
        )
        self._delivery.wait(_CANCELLED_END if is_hurried else _END)
        self._delivery.stop()
        self.flush()
        if problem := undelivered(self._delivery):
            say(f"WARNING: {problem}")


def catch_up(folder: RunFolder) -> tuple[list[str], str]:
    """Deliver to MLflow the entries that it lacks of a run that is not training.

    Returns messages, and the sentence about undelivered entries ("" when there are none). A run
    that MLflow shows as RUNNING becomes KILLED. Raises RunLocked while a flow trains the run.
    """
    with folder.led():
        outbox = Outbox(folder.path, is_kept=True)
        known = {entry.values["number"] for entry in outbox if entry.kind == "epoch"}
        delivery = Delivery(folder, outbox)
        for event in EventReader(folder.events).new():
            if event["event"] == "epoch" and event["epoch"] not in known:
                delivery.add("epoch", **_epoch(event))
        delivery.add("settle")
        delivery.wait(_END)
        delivery.stop()
        return delivery.told(), undelivered(delivery)


def _epoch(event: dict[str, Any]) -> dict[str, Any]:
    values = {k: float(event[k]) for k in _EPOCH_METRICS if event[k] is not None}
    return {"number": event["epoch"], "values": values, "milliseconds": int(1000 * event["time"])}


@contextmanager
def tracked(folder: RunFolder) -> Iterator[Tracker]:
    """A tracker whose MLflow run ends with the block.

    The status is FINISHED, KILLED after an interruption or cancellation, and FAILED after any other
    error. A finished run whose resume is refused stays FINISHED. Raises DiskFull when the run
    folder has no space left.
    """
    with explaining_full_disk(hgt_home()):
        tracker = Tracker(folder)
        try:
            yield tracker
        except _CANCELLED as error:
            tracker.end("KILLED", {"ended_by": type(error).__name__}, is_hurried=True)
            raise
        except BaseException as error:
            tracker.end(
                "FAILED",
                {"error": f"{type(error).__name__}: {error}"[:5000]},
                was_refused=isinstance(error, InputError),
            )
            raise
        tracker.end("FINISHED")
