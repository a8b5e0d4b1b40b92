"""Task `embed`: computes the table of embeddings from the best checkpoint."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from hgt.embed import OVERWRITE
from tasks.execution.placement import run_or_move_to_cpu
from tasks.led_run import LedRun
from tasks.reporting import say
from tasks.tracking.tracker import Tracker


@task(name="embed", cache_policy=NO_CACHE)
def embed(run: LedRun, tracker: Tracker) -> None:
    """Write the embeddings into the run folder, to MLflow, and to `run.csv` if given."""
    folder = run.folder

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "embedded":
            say(
                f"embeddings: {event['num_nodes']:,} nodes x {event['embedding_dim']} dimensions in"
                f" {folder.embeddings}"
            )
            tracker.metrics({"embed_peak_memory_bytes": event["peak_memory_bytes"]})

    arguments = [] if run.csv is None else [str(run.csv[0]), *([OVERWRITE] if run.csv[1] else [])]
    run_or_move_to_cpu("embed", folder, run.planner, on_event, *arguments)
    tracker.artifacts(folder.embeddings, "embeddings")
