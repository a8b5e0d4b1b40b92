"""Task `plan`: the memory plan of the run, computed before training allocates memory."""

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
    """Write the memory plan. Refuse a run that cannot fit.

    Takes graph and split from `run.loaded` and frees them, because training needs the memory.
    Leaves a planner in `run.planner`, which only needs their counts.

    Raises InputError for a run that cannot fit, or whose validation must fail.
    """
    loaded, run.loaded = run.loaded, None
    assert loaded is not None, "task load runs first"
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
    _report_certain_rejection(loaded)
    if problem := docker_too_small(planner, found):
        say(
            f"WARNING: Docker is too small to continue the run: {problem}\n"
            "WARNING: Without it the run continues on the CPU of this machine."
        )


def _report_certain_rejection(loaded: LoadedRun) -> None:
    """Refuse a new run that validation must reject. Warn about a run that has trained before."""
    try:
        refuse_certain_rejection(loaded.graph, loaded.split, loaded.config)
    except InputError as error:
        if not loaded.folder.checkpoints.is_dir():
            raise
        say(f"WARNING: {error}")
