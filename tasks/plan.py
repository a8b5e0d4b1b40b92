"""Task `plan`: what the run will take, before anything is allocated, and where it goes if that is not enough."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from hgt.device import DeviceProbe
from hgt.memory import refuse_what_cannot_fit
from tasks.home import run_folder
from tasks.ladder import fallback_told, first_segment, plan_segment
from tasks.reporting import say
from tasks.tracking import Tracker


@task(name="plan", cache_policy=NO_CACHE)
def plan(run: str, found: DeviceProbe, tracker: Tracker) -> str:
    """Write the memory plan; refuses what cannot fit. Returns the run id."""
    folder = run_folder(run)
    config = folder.load_config()
    say(fallback_told(config))
    segment = first_segment(folder, config, found)
    memory = plan_segment(folder, segment, found)
    say(memory.table())
    tracker.metrics({"planned_memory_bytes": memory.required_bytes} | {f"planned_{n}_bytes": b for n, b in memory.phases.items()})
    tracker.tags({"plan.form": str(memory.form)})
    tracker.artifacts(folder.plan)
    if segment.shrinks == 0:
        refuse_what_cannot_fit(memory, folder.load_graph(), config, found)
    return run
