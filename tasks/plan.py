"""Task `plan`: what the run will take, before anything is allocated."""

from __future__ import annotations

import json

from prefect import task
from prefect.cache_policies import NO_CACHE

from hgt.device import DeviceProbe
from hgt.memory import plan_memory, refuse_what_cannot_fit
from tasks.home import run_folder
from tasks.reporting import say
from tasks.tracking import Tracker


@task(name="plan", cache_policy=NO_CACHE)
def plan(run: str, found: DeviceProbe, tracker: Tracker) -> str:
    """Write the memory plan; refuses what cannot fit. Returns the run id."""
    folder = run_folder(run)
    graph, config = folder.load_graph(), folder.load_config()
    memory = plan_memory(graph, config, found)
    say(memory.table())
    folder.plan.write_text(json.dumps(memory.as_dict(), indent=2) + "\n")
    tracker.metrics({"planned_memory_bytes": memory.required_bytes} | {f"planned_{n}_bytes": b for n, b in memory.phases.items()})
    tracker.tags({"plan.form": str(memory.form)})
    tracker.artifacts(folder.plan)
    refuse_what_cannot_fit(memory, graph, config, found)
    return run
