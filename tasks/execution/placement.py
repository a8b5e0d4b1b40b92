"""Places a run: plans each segment of its training, and moves the run when memory runs out.

In: a run, its planner, the device that was found. Out: the next segment and its memory plan,
written into the run folder. `ladder.py` decides the order of the rungs. This module reads the
memory of Docker and of this machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hgt.config import RunConfig, parse_bytes
from hgt.device.probe import DeviceProbe, probe_device
from hgt.errors import HgtError, OutOfMemory
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.memory.plan import MemoryPlan, Planner, memory_limit, refuse_what_cannot_fit
from hgt.run.folder import RunFolder
from tasks.execution import pool, readiness
from tasks.execution.child import run_child
from tasks.execution.ladder import exhausted, first_rung, form_to_try, moved_to_cpu, rungs_below
from tasks.execution.segments import DOCKER, NATIVE, PLACES, Segment, append_segment, read_segments
from tasks.reporting import say

_MORE_FOR_DOCKER = (
    "more memory for Docker (Docker Desktop: Settings, Resources) or a larger --docker-memory"
)


class MemoryExhausted(HgtError):
    """Memory ran out and the ladder has no further rung."""


def begin_segment(
    folder: RunFolder, planner: Planner, found: DeviceProbe, device: str | None = None
) -> tuple[Segment, MemoryPlan]:
    """The segment with which the run starts or continues, and its plan.

    folder: the run folder, into which both are written
    planner: plans the memory of a segment
    found: the native device
    device: the device that this resume requests
    """
    tried = read_segments(folder)
    segment = first_rung(tried, planner.config, found, device)
    if segment not in tried[-1:]:
        append_segment(folder, segment)
    plan = plan_segment(planner, segment, found)
    plan.save(folder.plan)
    return segment, plan


def plan_segment(planner: Planner, segment: Segment, found: DeviceProbe) -> MemoryPlan:
    return planner.plan(_probe(segment, planner.config, found), segment.form)


def refuse_unfit(
    graph: KnowledgeGraph, config: RunConfig, segment: Segment, plan: MemoryPlan, found: DeviceProbe
) -> None:
    """Raises InputError for a segment that cannot fit.

    A form that the ladder chose is tried whatever the plan says.
    """
    if segment.form is None:
        otherwise = _MORE_FOR_DOCKER if segment.place == DOCKER else "another device"
        refuse_what_cannot_fit(plan, graph, config, _probe(segment, config, found), otherwise)


def step_down(
    folder: RunFolder, planner: Planner, error: OutOfMemory, found: DeviceProbe
) -> Segment:
    """The segment after the last one, which ran out of memory. Plans it and writes both.

    Raises MemoryExhausted when no rung is left. Its message has all attempts and the remedy.
    """
    tried, problems = read_segments(folder), []
    smaller = _smaller_form(folder, planner, tried[-1], found)
    for rung in rungs_below(tried, smaller, planner.config, _what_ran_out(error)):
        problem = None if rung.place == NATIVE else _against(planner, rung, found)
        if problem is None:
            segment = replace(rung, reason="; ".join([rung.reason, *problems]))
            append_segment(folder, segment)
            plan_segment(planner, segment, found).save(folder.plan)
            return segment
        problems.append(problem)
    raise MemoryExhausted(f"{error} {exhausted(tried, problems, planner.config)}")


def _smaller_form(folder: RunFolder, planner: Planner, now: Segment, found: DeviceProbe) -> Any:
    plan = folder.load_plan()
    if plan is None or now.place != NATIVE:
        return None
    probe = _probe(now, planner.config, found)
    return form_to_try(plan.form, lambda form: planner.plan(probe, form).required_bytes)


def _against(planner: Planner, segment: Segment, found: DeviceProbe) -> str | None:
    """Why the run cannot continue with this segment; None when it can."""
    absent = readiness.unavailable() if segment.place == DOCKER else None
    return absent or _unfit(planner, segment, found)


def _unfit(planner: Planner, segment: Segment, found: DeviceProbe) -> str | None:
    plan = plan_segment(planner, segment, found)
    if plan.fits:
        return None
    more = _MORE_FOR_DOCKER if segment.place == DOCKER else "free memory"
    has, needs = plan.limit_bytes / 1e9, plan.required_bytes / 1e9
    return (
        f"{PLACES[segment.place]} has {has:.1f} GB and the run needs {needs:.1f} GB there: {more}."
    )


def docker_too_small(planner: Planner, found: DeviceProbe) -> str | None:
    """Why Docker has too little memory to continue the run; None if it has enough or is absent."""
    execution = planner.config.execution
    in_docker = execution.device == "docker-cpu"
    if in_docker or execution.fallback != "docker" or readiness.unavailable():
        return None
    return _unfit(planner, Segment(DOCKER, "cpu", 0, None, "out of memory"), found)


def run_or_move_to_cpu(
    program: str,
    folder: RunFolder,
    planner: Planner,
    on_event: Callable[[dict[str, Any]], None],
    *arguments: str,
) -> None:
    """Run a program after the training. Repeat it on the CPU when its device runs out of memory.

    program: embed, evaluate or baselines
    folder: the run folder
    planner: plans the memory on the CPU
    on_event: called with every new event
    arguments: more arguments of the program

    Raises the errors of `run_child`, and OutOfMemory when the fallback is "none" or the CPU has too
    little memory.
    """
    try:
        run_child(program, folder, on_event, *arguments)
    except OutOfMemory as error:
        plan = folder.load_plan()
        if (plan and plan.device == "cpu") or planner.config.execution.fallback == "none":
            raise
        say(f"OUT OF MEMORY: {error}\ncontinuing on the CPU of this machine")
        found = probe_device("cpu", memory_limit(planner.config))
        plan_segment(planner, moved_to_cpu(_what_ran_out(error)), found).save(folder.plan)
        run_child(program, folder, on_event, *arguments)


def _probe(segment: Segment, config: RunConfig, found: DeviceProbe) -> DeviceProbe:
    """The device and the memory of the segment's place."""
    if segment.place == DOCKER:
        limit = container_memory(config) - (pool.PREFECT_BYTES if pool.has_server() else 0)
        return replace(
            found,
            type="cpu",
            name="CPU worker in Docker",
            limit_bytes=max(limit, 0),
            reason=segment.reason,
        )
    native = segment.device == found.type
    return found if native else probe_device(segment.device, memory_limit(config))


def container_memory(config: RunConfig) -> int:
    """Memory limit of the worker's container, in bytes."""
    wanted = config.execution.docker_memory
    if wanted is None:
        return int(0.9 * readiness.engine_memory_bytes())
    return parse_bytes(wanted, "docker_memory")


def fallback_told(config: RunConfig, found: DeviceProbe) -> str:
    """The announcement of what happens if memory runs out.

    config: the run's configuration
    found: the native device
    """
    execution = config.execution
    in_docker = execution.device == "docker-cpu"
    if in_docker:
        readiness.refuse_unavailable()
    problem = readiness.unavailable() if execution.fallback == "docker" and not in_docker else None
    on_cpu = "fails" if found.type == "cpu" else "continues on the CPU of this machine"
    then = {
        "none": "fails",
        "cpu": on_cpu,
        "docker": on_cpu if problem else "continues on the CPU worker in Docker",
    }
    told = f"if memory runs out: {_retries(execution.max_shrinks)}{then[execution.fallback]}"
    if problem:
        return f"{told}\nnot in Docker: {problem}"
    uses_pool = execution.fallback == "docker" and pool.has_server()
    why = pool.unavailable() if uses_pool else None
    return f"{told}\nwithout Prefect's work pool: {why}" if why else told


def _retries(max_shrinks: int) -> str:
    if max_shrinks == 0:
        return "the run "
    times = {1: "once", 2: "twice"}.get(max_shrinks, f"{max_shrinks} times")
    return f"retries with less memory up to {times}, then "


def _what_ran_out(error: OutOfMemory) -> str:
    return f"out of memory: {str(error).splitlines()[0][:300]}"
