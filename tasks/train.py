"""Task `train`: the trainer in a child process, followed into MLflow and onto the screen."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from hgt.events import EventReader
from tasks.child import run_child
from tasks.home import run_folder
from tasks.reporting import TrainingProgress
from tasks.tracking import Tracker


@task(name="train", cache_policy=NO_CACHE)
def train(run: str, tracker: Tracker) -> str:
    """Train the run folder from its newest checkpoint to the end. Returns the run id."""
    folder = run_folder(run)
    for event in EventReader(folder.events).new():  # epochs that a killed parent did not log
        if event["event"] == "epoch":
            tracker.epoch(event)
    with TrainingProgress() as progress:

        def on_event(event: dict[str, Any]) -> None:
            progress(event)
            if event["event"] == "epoch":
                tracker.epoch(event)
            if event["event"] == "end":
                tracker.metrics({"best_epoch": event["best_epoch"], "train_peak_memory_bytes": event["peak_memory_bytes"]})

        run_child("train", folder, on_event)
    tracker.artifacts(folder.events)
    return run
