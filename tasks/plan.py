"""Task `plan`: what the run will take, before anything is allocated."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from hgt.device.probe import DeviceProbe
from hgt.errors import InputError
from hgt.evaluation.certain_rejection import refuse_certain_rejection
from hgt.memory.plan import Planner
from hgt.run.opened import LoadedRun
from tasks.execution.placement import begin_segment, docker_too_small, refuse_unfit
from tasks.led_run import LedRun
from tasks.reporting import say
from tasks.tracking.tracker import Tracker


@task(name="plan", cache_policy=NO_CACHE)
def plan(run: LedRun, found: DeviceProbe, tracker: Tracker) -> None:
    """Write the memory plan; refuses what cannot fit.

    Takes graph and split from `run.loaded` and lets them go: training wants the memory. Leaves a
    planner, which needs their counts alone, in `run.planner`.
    """
    loaded, run.loaded = run.loaded, None
    assert loaded is not None, "task load comes before"
    planner = run.planner = Planner.of(loaded.graph, run.config, found.type, "cpu")
    segment, memory = begin_segment(run.folder, planner, found, run.device)
    say(memory.table())
    tracker.metrics(
        {"planned_memory_bytes": memory.required_bytes}
        | {f"planned_{n}_bytes": b for n, b in memory.phases.items()}
    )
    tracker.tags({"plan.form": str(memory.form)})
    tracker.artifacts(run.folder.plan)
    refuse_unfit(loaded.graph, run.config, segment, memory, found)
    _say_what_is_certain(loaded)
    if problem := docker_too_small(planner, found):
        say(
            f"WARNING: if memory runs out, {problem} Until then the run would go on on the CPU of"
            " this machine."
        )


def _say_what_is_certain(loaded: LoadedRun) -> None:
    """Rejection that no training can avoid is said before it. A run that has trained already goes
    on.
    """
    try:
        refuse_certain_rejection(loaded.graph, loaded.split, loaded.config)
    except InputError as error:
        if not loaded.folder.checkpoints.is_dir():
            raise
        say(f"WARNING: {error}")
