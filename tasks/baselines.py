"""Task `baselines`: ranks of simpler models on the same held-out facts."""

from __future__ import annotations

import json
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from hgt.errors import OutOfMemory
from tasks.execution.placement import run_or_move_to_cpu
from tasks.led_run import LedRun
from tasks.reporting import say
from tasks.tracking.tracker import Tracker


@task(name="baselines", cache_policy=NO_CACHE)
def baselines(run: LedRun, tracker: Tracker) -> None:
    """Write the comparison into the run's report and log it.

    When memory runs out, the run keeps its embeddings and lacks the comparison.
    """
    folder = run.folder
    json_file, text_file = folder.report / "baselines.json", folder.report / "baselines.txt"
    for file in (json_file, text_file):
        file.unlink(missing_ok=True)  # from before the resume
    wanted = run.config.baseline.baselines
    if wanted == ("none",):
        return
    try:
        run_or_move_to_cpu("baselines", folder, run.planner, lambda event: None)
    except OutOfMemory as error:
        say(f"WARNING: no comparison with {', '.join(wanted)}, because memory ran out: {error}")
        return
    if json_file.is_file():
        tracker.metrics(_figures(json.loads(json_file.read_text())))
        for file in (json_file, text_file):
            tracker.artifacts(file, "report")


def _figures(comparison: dict[str, Any]) -> dict[str, float]:
    """MLflow's metrics: the MRR of each baseline, and the ratio of HGT's MRR to it."""
    scopes = {"typed": "typed", "all nodes": "all_nodes"}
    figures = {}
    for b in comparison["baselines"]:
        figures |= {
            f"baseline/{b['name']}/{name}_mrr": b["mrr"][scope] for scope, name in scopes.items()
        }
        figures |= {
            f"baseline/{b['name']}/hgt_over_{name}_mrr": b["ratio"][scope]
            for scope, name in scopes.items()
        }
    return figures
