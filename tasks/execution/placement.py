"""Places a run: plans each stretch of its training, and moves it when memory runs out.

In: a run that is led, its planner, the device that was found. Out: the segment and the memory plan
of the next stretch, written to the run folder. Which rung follows which is `ladder.py`'s; what a
place has is asked here, of Docker and of this machine.
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
from tasks.execution import container, pool
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
    """Where the run begins or goes on, and its plan, which is written to the run folder.

    found: the native device; device: what this very resume was sent to
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
    """Raises InputError for a segment that cannot fit. A form that the ladder chose is tried
    whatever the plan says."""
    if segment.form is None:
        otherwise = _MORE_FOR_DOCKER if segment.place == DOCKER else "another device"
        refuse_what_cannot_fit(plan, graph, config, _probe(segment, config, found), otherwise)


def step_down(
    folder: RunFolder, planner: Planner, error: OutOfMemory, found: DeviceProbe
) -> Segment:
    """The segment after the last one, which ran out of memory; planned and written to the run
    folder.

    Raises MemoryExhausted when there is none, with what was tried and what to do.
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
    """What keeps the run from going on there, in words; None when nothing does."""
    absent = container.unavailable() if segment.place == DOCKER else None
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
    """Why the run could not go on in Docker once it had to, as far as memory goes; None when it
    could, or when no Docker is there."""
    execution = planner.config.execution
    in_docker = execution.device == "docker-cpu"
    if in_docker or execution.fallback != "docker" or container.unavailable():
        return None
    return _unfit(planner, Segment(DOCKER, "cpu", 0, None, "out of memory"), found)


def run_or_move_to_cpu(
    program: str,
    folder: RunFolder,
    planner: Planner,
    on_event: Callable[[dict[str, Any]], None],
    *arguments: str,
) -> None:
    """Run a program that follows the training; where its device has too little memory, on the CPU
    of this machine instead.

    Raises what `run_child` raises; OutOfMemory when the fallback is "none" or the CPU ran out.
    """
    try:
        run_child(program, folder, on_event, *arguments)
    except OutOfMemory as error:
        plan = folder.load_plan()
        if (plan and plan.device == "cpu") or planner.config.execution.fallback == "none":
            raise
        say(f"OUT OF MEMORY: {error}\ngoing on on the CPU of this machine")
        found = probe_device("cpu", memory_limit(planner.config))
        plan_segment(planner, moved_to_cpu(_what_ran_out(error)), found).save(folder.plan)
        run_child(program, folder, on_event, *arguments)


def _probe(segment: Segment, config: RunConfig, found: DeviceProbe) -> DeviceProbe:
    """What the segment's place has."""
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
    """Bytes that the worker's container may take."""
    wanted = config.execution.docker_memory
    if wanted is None:
        return int(0.9 * container.engine_memory_bytes())
    return parse_bytes(wanted, "docker_memory")


def fallback_told(config: RunConfig, found: DeviceProbe) -> str:
    """What will happen if memory runs out, said before training begins. found: the native
    device.
    """
    execution = config.execution
    in_docker = execution.device == "docker-cpu"
    if in_docker:
        container.refuse_unavailable()
    problem = container.unavailable() if execution.fallback == "docker" and not in_docker else None
    on_cpu = (
        "then the run fails" if found.type == "cpu" else "then goes on on the CPU of this machine"
    )
    then = {
        "none": "then the run fails",
        "cpu": on_cpu,
        "docker": (
            "then goes on on the CPU worker in Docker"
            if problem is None
            else f"{on_cpu}: {problem}"
        ),
    }
    shrinks = (
        f"it is made smaller up to {execution.max_shrinks} times"
        if execution.max_shrinks
        else "it is not made smaller"
    )
    uses_pool = execution.fallback == "docker" and problem is None and pool.has_server()
    why = pool.unavailable() if uses_pool else None
    without = f" (its container is started without Prefect's work pool: {why})" if why else ""
    return f"if memory runs out: {shrinks}, {then[execution.fallback]}{without}"


def _what_ran_out(error: OutOfMemory) -> str:
    return f"out of memory: {str(error).splitlines()[0][:300]}"
