"""What a flow tells MLflow. Nothing of it waits for MLflow, and nothing of it ends a training: see
outbox.py and delivery.py.

One MLflow run per flow run. The flow's process alone starts and ends it; a resumed run goes on in
the same one.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections import Counter
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
from tasks.tracking.mlflow_run import in_words
from tasks.tracking.outbox import Entry, Outbox

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
# Seconds without an answer, and of one attempt: until that is said, until training begins all the
# same, until the program ends.
_WORDS = {
    "metrics": "figures",
    "artifacts": "files",
    "text": "files",
    "register": "its registration",
    "end": "its end",
    "settle": "its end",
}
_MAKING = Patience(2.5, 120.0)
_NOTICE, _START, _END, _CANCELLED_END = (
    Patience(2.5, 10.0),
    Patience(5.0, 19.0),
    Patience(15.0, 30.0, True),
    Patience(4.0, 8.0),
)


class Tracker:
    """Takes what is to be told of one run, in order. What was logged before (a resumed run) is not
    logged again.
    """

    def __init__(self, folder: RunFolder):
        """Raises InputError for a store that will never answer."""
        self._folder = folder
        outbox = Outbox(folder.path, is_kept=folder.config.is_file())
        # this process begins and ends it
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
        # whether a finished run's results may not be those that it finished with
        self.has_changed = False
        self._await_store(begun, is_made)

    def _await_store(self, begun: Entry, is_made: bool) -> None:
        """For a while; then the training goes ahead of it. A new store of our own is being made,
        which takes seconds.
        """
        if not self._delivery.wait(_NOTICE if is_made else _MAKING, begun):
            self._refuse_store()
            why = self._delivery.problem or "no answer yet"
            say(
                f"WARNING: MLflow's store {store_uri()} does not answer ({why}). Waiting for it a"
                " few seconds more ..."
            )
            if not self._delivery.wait(_START, begun):
                self._refuse_store()
                say(
                    "WARNING: Training begins without MLflow. What it has to be told is kept in the"
                    " run folder until it answers."
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
                f"MLflow's store {store_uri()} cannot be used ({in_words(error)}). Mend it, or move"
                " it away for a new one."
            )

    @property
    def run_id(self) -> str:
        """MLflow's; empty until the store has answered."""
        return self._delivery.run.run_id if self._delivery.run else ""

    def flush(self) -> None:
        """Say what the deliveries have to say."""
        for sentence in self._delivery.told():
            say(sentence)

    def _add(self, kind: str, **values: Any) -> None:
        if self._of_a_new_run:
            values["of_a_new_run"] = True
        self._delivery.add(kind, **values)

    @contextmanager
    def of_a_new_run(self) -> Iterator[None]:
        """What is told within the block is for a run that MLflow does not know yet."""
        self._of_a_new_run = True
        yield
        self._of_a_new_run = False

    def remember(self) -> None:
        """From now on the folder is a run's: keep there what is not delivered, and MLflow's id."""
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
        """One point per epoch and figure, however often the epoch is told."""
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
        """path: in the run folder."""
        self._add("artifacts", path=str(path.relative_to(self._folder.path)), into=into)

    def segment(self, number: int, segment: Segment, plan: Path) -> None:
        """Where a stretch of training runs and why, with its plan."""
        known = {
            "place": segment.place,
            "device": segment.device,
            "reason": segment.reason,
            "shrinks": segment.shrinks,
        }
        self.tags({f"segment.{number}.{key}": str(value)[:500] for key, value in known.items()})
        self.text(plan.read_text(), f"plans/{number}.json")

    def decide(self, kind: str, digest: str) -> Any:
        """The registry's answer to "register" or "withdraw" of these embeddings; None where it
        comes later.
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
        """End the run in MLflow, and say what MLflow has not got. was_refused: what had finished
        before stays so.
        """
        self._delivery.add(
            "end", status=status, tags=tags or {}, was_refused=was_refused and not self.has_changed
        )
        self._delivery.wait(_CANCELLED_END if is_hurried else _END)
        self._delivery.stop()
        self.flush()
        if problem := undelivered(self._delivery):
            say(f"WARNING: {problem}")


def undelivered(delivery: Delivery) -> str:
    """What MLflow has not got, why, and how to deliver it; "" when it has everything."""
    left, folder = list(delivery.outbox), delivery.folder
    if not left:
        return ""
    counts = Counter(_WORDS.get(entry.kind, entry.kind) for entry in left)
    kinds = ", ".join(
        f"{number} x {words}" if number > 1 else words for words, number in counts.items()
    )
    why = delivery.problem or next(
        (entry.refused for entry in left if entry.refused), "no answer yet"
    )
    later = (
        f"It is kept: `hgt track {folder.path.name}` delivers it, and so does the next resume."
        if folder.config.is_file()
        else ""
    )
    lacks = f"MLflow's store {store_uri()} has not got everything of this run ({kinds}): {why}."
    return f"{lacks} {later}".strip()


def catch_up(folder: RunFolder) -> tuple[list[str], str]:
    """Deliver what MLflow has not got of a run that nothing trains just now. Returns what there is
    to say, and what is left.

    A run that is running in MLflow was killed. Raises RunLocked while it is trained.
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
    """A tracker whose run ends as the block does: FINISHED, KILLED when interrupted or cancelled,
    FAILED on any other error.

    A finished run that is resumed and refused stays FINISHED. Raises DiskFull for whatever found no
    room in the run folder.
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
