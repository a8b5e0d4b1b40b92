"""Task `embed`: the best checkpoint becomes the table of embeddings."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.home import run_folder
from tasks.ladder import run_or_move_to_cpu
from tasks.reporting import say
from tasks.tracking import Tracker


@task(name="embed", cache_policy=NO_CACHE)
def embed(run: str, output_csv: str | None, tracker: Tracker) -> str:
    """Write the embeddings' files into the run folder and to MLflow. Returns the run id."""
    folder = run_folder(run)

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "embedded":
            say(f"embeddings: {event['num_nodes']:,} nodes x {event['embedding_dim']} dimensions in {folder.embeddings}")
            tracker.metrics({"embed_peak_memory_bytes": event["peak_memory_bytes"]})

    run_or_move_to_cpu("embed", folder, on_event, *([output_csv] if output_csv else []))
    tracker.artifacts(folder.embeddings, "embeddings")
    return run
