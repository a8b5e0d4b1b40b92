"""Task `evaluate`: ranks, geometry and plots of the run's embeddings."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.execution.ladder import run_or_move_to_cpu
from tasks.home import run_folder
from tasks.reporting import say
from tasks.tracking.tracker import Tracker


@task(name="evaluate", cache_policy=NO_CACHE)
def evaluate(run: str, tracker: Tracker) -> str:
    """Write the run's report and log it. Returns the run id."""
    folder = run_folder(run)

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "audited":
            say(f"before the test facts are ranked: {event['message']}")

    run_or_move_to_cpu("evaluate", folder, on_event)
    tracker.artifacts(folder.report, "report")
    return run
