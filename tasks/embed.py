"""Task `embed`: the best checkpoint becomes the table of embeddings."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from hgt.embed import OVERWRITE
from tasks.execution.ladder import run_or_move_to_cpu
from tasks.home import run_folder
from tasks.reporting import say
from tasks.tracking.tracker import Tracker


@task(name="embed", cache_policy=NO_CACHE)
def embed(run: str, csv: tuple[str, bool] | None, tracker: Tracker) -> str:
    """Write the embeddings' files into the run folder and to MLflow. Returns the run id.

    csv: where else to write them, and whether a file that is there may be replaced
    """
    folder = run_folder(run)

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "embedded":
            say(f"embeddings: {event['num_nodes']:,} nodes x {event['embedding_dim']} dimensions in {folder.embeddings}")
            tracker.metrics({"embed_peak_memory_bytes": event["peak_memory_bytes"]})

    arguments = [] if csv is None else [csv[0], *([OVERWRITE] if csv[1] else [])]
    run_or_move_to_cpu("embed", folder, on_event, *arguments)
    tracker.artifacts(folder.embeddings, "embeddings")
    return run
