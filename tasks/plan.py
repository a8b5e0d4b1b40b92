"""Task `plan`: what the run will take, before anything is allocated."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from hgt.config import RunConfig
from hgt.device.probe import DeviceProbe
from hgt.errors import InputError
from hgt.evaluation.certain_rejection import refuse_certain_rejection
from hgt.run.folder import RunFolder
from tasks.execution.ladder import docker_too_small, first_segment, plan_segment, refuse_unfit
from tasks.home import run_folder
from tasks.reporting import say
from tasks.tracking.tracker import Tracker


@task(name="plan", cache_policy=NO_CACHE)
def plan(run: str, found: DeviceProbe, tracker: Tracker, device: str | None = None) -> str:
    """Write the memory plan; refuses what cannot fit. device: asked for in this very call. Returns the run id."""
    folder = run_folder(run)
    config = folder.load_config()
    segment = first_segment(folder, config, found, device)
    memory = plan_segment(folder, segment, found)
    say(memory.table())
    tracker.metrics({"planned_memory_bytes": memory.required_bytes} | {f"planned_{n}_bytes": b for n, b in memory.phases.items()})
    tracker.tags({"plan.form": str(memory.form)})
    tracker.artifacts(folder.plan)
    refuse_unfit(folder, segment, memory, found)
    _say_what_is_certain(folder, config)
    if problem := docker_too_small(folder, config, found):
        say(f"WARNING: if memory runs out, {problem} Until then the run would go on on the CPU of this machine.")
    return run


def _say_what_is_certain(folder: RunFolder, config: RunConfig) -> None:
    """Rejection that no training can avoid is said before it. A run that has trained already goes on."""
    graph = folder.load_graph()
    try:
        refuse_certain_rejection(graph, folder.load_split(graph), config)
    except InputError as error:
        if not folder.checkpoints.is_dir():
            raise
        say(f"WARNING: {error}")
