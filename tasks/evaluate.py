"""Task `evaluate`: ranks, geometry and plots of the run's embeddings."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.execution.placement import run_or_move_to_cpu
from tasks.led_run import LedRun
from tasks.reporting import say
from tasks.tracking.tracker import Tracker


@task(name="evaluate", cache_policy=NO_CACHE)
def evaluate(run: LedRun, tracker: Tracker) -> None:
    """Write the run's report and log it."""
    folder = run.folder

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "audited":
            say(f"before ranking: {event['message']}")

    run_or_move_to_cpu("evaluate", folder, run.planner, on_event)
    tracker.artifacts(folder.report, "report")
