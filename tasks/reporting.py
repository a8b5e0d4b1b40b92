"""The output of a running flow: lines and tables, a progress bar, a progress artifact in Prefect.

The command line sets HGT_TERMINAL. Without it (in a worker) the output only goes to Prefect's log.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from types import TracebackType
from typing import Any, TextIO
from uuid import UUID

import httpx
import rich.console
import rich.progress
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

_ARTIFACT_SECONDS = 5.0
# errors of a Prefect server that is gone: they do not stop the training
NO_ANSWER = (httpx.HTTPError, RuntimeError)


class OutputClosed(KeyboardInterrupt):
    """The reader closed the pipe, as in `hgt train ... | head`. Interrupts the run."""


def say(text: str) -> None:
    """Write to Prefect's log, and to the terminal when the command line runs the flow.

    Raises OutputClosed when the reader of the output is gone.
    """
    get_run_logger().info("\n" + text if "\n" in text else text)
    # write to stdout itself, not to the progress bar's proxy
    stream = getattr(sys.stdout, "rich_proxied_file", sys.stdout)
    if os.environ.get("HGT_TERMINAL") and stream is not None:
        try:
            stream.write(f"{text}\n")
            stream.flush()
        except BrokenPipeError:
            silence(stream)
            raise OutputClosed from None


def silence(stream: TextIO) -> None:
    """Discard later output of the stream without an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class TrainingProgress:
    """Shows the progress of the training from its events. A context manager."""

    def __init__(self) -> None:
        self._bar: rich.progress.Progress | None = None
        if os.environ.get("HGT_TERMINAL") and sys.stderr.isatty():
            self._bar = rich.progress.Progress(
                rich.progress.TextColumn("training"),
                rich.progress.BarColumn(),
                rich.progress.TextColumn("{task.fields[where]}  {task.fields[losses]}"),
                rich.progress.TimeRemainingColumn(),
                console=rich.console.Console(stderr=True),
            )
        self._row: rich.progress.TaskID | None = None
        self._artifact: UUID | None = None
        self._artifact_at = 0.0
        self._num_epochs = self._num_batches = 1

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event of `events.jsonl`."""
        match event["event"]:
            case "start":
                self._start(event)
            case "step":
                self._show(
                    (event["epoch"] - 1) * self._num_batches + event["batch"], epoch=event["epoch"]
                )
            case "epoch":
                self._epoch(event)
            case "checkpoint_skipped":
                say(f"WARNING: {event['message']}")
            case "resume":
                say(f"continuing after epoch {event['epoch']}, batch {event['batch']}")
            case "end":
                self._end(event)

    def _start(self, event: dict[str, Any]) -> None:
        self._num_epochs, self._num_batches = event["num_epochs"], event["num_batches"]
        if event["contrastive_weight"] and not event["contrastive"]:
            say(
                "no contrastive loss: the graph lacks its node type, or no two nodes of that type"
                " are similar"
            )
        done = event["epoch"] * self._num_batches + event["batch"]
        if self._bar:
            self._bar.start()
            total = self._num_epochs * self._num_batches
            self._row = self._bar.add_task(
                "training", total=total, completed=done, where="", losses=""
            )
        self._artifact = None
        with contextlib.suppress(*NO_ANSWER):
            self._artifact = create_progress_artifact(
                progress=0.0, key="training-progress", description="Training"
            )
        self._show(done, epoch=event["epoch"])

    def _epoch(self, event: dict[str, Any]) -> None:
        mrr = "-" if event["val_mrr"] is None else f"{event['val_mrr']:.4f}"
        parts = [
            f"{name} {loss:.4f}"
            for name in ("link", "contrastive", "isotropy")
            if (loss := event[f"{name}_loss"])
        ]
        losses = f"loss {event['loss']:.4f} ({', '.join(parts)})  val MRR {mrr}"
        line = (
            f"epoch {event['epoch']:>4}/{self._num_epochs}  {losses}  {event['step_seconds']:.2f}"
            " s/step"
        )
        if self._bar and self._row is not None:
            self._bar.update(self._row, losses=losses)
            get_run_logger().info(line)
        else:
            say(line)
        self._show(event["epoch"] * self._num_batches, epoch=event["epoch"], always=True)

    def _end(self, event: dict[str, Any]) -> None:
        why = "validation MRR stopped improving" if event["stopped_early"] else "all epochs done"
        if self._bar:
            self._bar.stop()  # otherwise the next line would break it
        say(
            f"training ended after epoch {event['epoch']} ({why}); best epoch:"
            f" {event['best_epoch']}"
        )
        self._show(self._num_epochs * self._num_batches, epoch=event["epoch"], always=True)

    def _show(self, done: int, epoch: int, always: bool = False) -> None:
        if self._bar and self._row is not None:
            self._bar.update(self._row, completed=done, where=f"epoch {epoch}/{self._num_epochs}")
        if self._artifact and (always or time.monotonic() - self._artifact_at > _ARTIFACT_SECONDS):
            self._artifact_at = time.monotonic()
            try:
                update_progress_artifact(
                    self._artifact, progress=100.0 * done / (self._num_epochs * self._num_batches)
                )
            except NO_ANSWER:
                self._artifact = None
