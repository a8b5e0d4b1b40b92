"""The OOM ladder (DESIGN.md 4): where a run goes on when memory runs out. Smaller on its own device, then the CPU worker in Docker, then
the CPU of this machine, always from the last checkpoint.

`segments.json` in the run folder is the ladder's state: one entry for every stretch of training, the last one being where to go on.
Each entry's memory plan is the run folder's `plan.json` while it lasts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from hgt.config import RunConfig, parse_bytes
from hgt.device import DeviceProbe, probe_device
from hgt.errors import HgtError, InputError, OutOfMemory, quoted
from hgt.input_file import read_json
from hgt.memory import MemoryPlan, memory_limit, plan_memory, plan_of_form, refuse_what_cannot_fit
from hgt.program import planned_device, planned_form
from hgt.run_folder import RunFolder
from hgt.step_form import StepForm
from hgt.whole_file import written_whole
from tasks import container, dispatch
from tasks.child import run_child
from tasks.reporting import say

NATIVE, DOCKER, CPU = "native", "docker", "cpu"
PLACES = {NATIVE: "this machine", DOCKER: "the CPU worker in Docker", CPU: "the CPU of this machine"}
_BEGIN_ANEW = "Remove it: the run then goes on where new ones begin."
_WORTH_AN_ATTEMPT = 0.9  # of the present form's planned bytes: some forms spare a given graph nothing
_MORE_FOR_DOCKER = "more memory for Docker (Docker Desktop: Settings, Resources) or a larger --docker-memory"


@dataclass(frozen=True)
class Segment:
    """One stretch of a run's training.

    place: native (the device that was found), docker or cpu; device: mps, cuda or cpu; shrinks: how often it was made smaller before
    form: the form of its steps where the ladder chose it, None for the largest that fits; reason: why here
    """

    place: str
    device: str
    shrinks: int
    form: StepForm | None
    reason: str

    @property
    def where(self) -> str:
        """For the one who watches: the place, and the form where it changed."""
        return f"on {PLACES[self.place]}" + (f", made smaller: {self.form}" if self.form and self.place == NATIVE else "")

    def __str__(self) -> str:
        return f"{self.device} on {PLACES[self.place]}: {self.reason}" if self.place == NATIVE else f"{PLACES[self.place]}: {self.reason}"


class MemoryExhausted(HgtError):
    """Memory ran out and the ladder has no further rung."""


def segments(folder: RunFolder) -> list[Segment]:
    """Empty for a run that was never planned."""
    if not folder.segments.exists():
        return []
    entries: list[Any] = read_json(folder.segments, list, _BEGIN_ANEW)
    try:
        return [_segment(entry) for entry in entries]
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(f"{folder.segments}: is unreadable ({error}). {_BEGIN_ANEW}") from error


def _segment(entry: Any) -> Segment:
    segment = Segment(**{**entry, "form": entry["form"] and StepForm.from_dict(entry["form"])})
    wrong = segment.place not in PLACES or segment.device not in ("mps", "cuda", "cpu")
    if wrong or type(segment.shrinks) is not int or not isinstance(segment.reason, str):
        raise ValueError(f"{quoted(entry)} is no stretch of a training")
    return segment


def _append(folder: RunFolder, segment: Segment) -> None:
    text = json.dumps([asdict(s) for s in [*segments(folder), segment]], indent=2)
    with written_whole(folder.segments) as new:
        new.write_text(text + "\n")


def first_segment(folder: RunFolder, config: RunConfig, found: DeviceProbe, device: str | None = None) -> Segment:
    """Where the run begins, or goes on: a resumed run stays where the ladder led it, unless it is sent to another device.

    device: what this resume was sent to. A run that began with `--device cpu` may have been led into Docker, and stays there; one that
    is resumed with it leaves Docker.
    """
    known = segments(folder)
    wanted = config.train.device
    if known:
        in_docker = known[-1].place == DOCKER
        stays = wanted is None or wanted == known[-1].device or (wanted == "docker-cpu" and in_docker)
        if stays and not (in_docker and device not in (None, "docker-cpu")):
            return known[-1]
    place = DOCKER if wanted == "docker-cpu" else NATIVE
    why = "asked for" if wanted else found.reason
    segment = Segment(place, "cpu" if place == DOCKER else found.type, 0, None, why)
    _append(folder, segment)
    return segment


def plan_segment(folder: RunFolder, segment: Segment, found: DeviceProbe) -> MemoryPlan:
    """Plan the segment and write it to the run folder. found: the native device."""
    plan = _planned(folder, segment, found)
    with written_whole(folder.plan) as new:
        new.write_text(json.dumps(plan.as_dict(), indent=2) + "\n")
    return plan


def _planned(folder: RunFolder, segment: Segment, found: DeviceProbe) -> MemoryPlan:
    graph, config = folder.load_graph(), folder.load_config()
    probe = _probe(segment, config, found)
    return plan_memory(graph, config, probe) if segment.form is None else plan_of_form(graph, config, probe, segment.form)


def refuse_unfit(folder: RunFolder, segment: Segment, plan: MemoryPlan, found: DeviceProbe) -> None:
    """Raises InputError for a segment that cannot fit; a form that the ladder chose is tried whatever the plan says."""
    config = folder.load_config()
    if segment.form is None:
        otherwise = _MORE_FOR_DOCKER if segment.place == DOCKER else "another device"
        refuse_what_cannot_fit(plan, folder.load_graph(), config, _probe(segment, config, found), otherwise)


def _probe(segment: Segment, config: RunConfig, found: DeviceProbe) -> DeviceProbe:
    if segment.place == DOCKER:
        limit = container_memory(config) - (dispatch.PREFECT_BYTES if dispatch.has_server() else 0)
        return replace(found, type="cpu", name="CPU worker in Docker", limit_bytes=max(limit, 0), reason=segment.reason)
    return found if segment.device == found.type else probe_device(segment.device, memory_limit(config))


def container_memory(config: RunConfig) -> int:
    """Bytes that the worker's container may take."""
    wanted = config.train.docker_memory
    return int(0.9 * container.engine_memory_bytes()) if wanted is None else parse_bytes(wanted, "docker_memory")


def fallback_told(config: RunConfig, found: DeviceProbe) -> str:
    """What will happen if memory runs out, found out before training begins. found: the native device."""
    shrinks = f"it is made smaller up to {config.train.max_shrinks} times" if config.train.max_shrinks else "it is not made smaller"
    if in_docker := config.train.device == "docker-cpu":
        container.refuse_unavailable()
    problem = container.unavailable() if config.train.fallback == "docker" and not in_docker else None
    on_cpu = "then the run fails" if found.type == "cpu" else "then goes on on the CPU of this machine"
    then = {
        "none": "then the run fails",
        "cpu": on_cpu,
        "docker": "then goes on on the CPU worker in Docker" if problem is None else f"{on_cpu}: {problem}",
    }
    pool = dispatch.unavailable() if config.train.fallback == "docker" and problem is None and dispatch.has_server() else None
    without = f" (its container is started without Prefect's work pool: {pool})" if pool else ""
    return f"if memory runs out: {shrinks}, {then[config.train.fallback]}{without}"


def step_down(folder: RunFolder, config: RunConfig, error: OutOfMemory, found: DeviceProbe) -> Segment:
    """The next segment after this one ran out of memory, planned and written to the run folder.

    Raises MemoryExhausted when there is none, with what was tried and what to do.
    """
    tried = segments(folder)
    now = tried[-1]
    smaller = _smaller_form(folder, now, found) if now.place == NATIVE else None
    if smaller and now.shrinks < config.train.max_shrinks:
        following = replace(now, shrinks=now.shrinks + 1, form=smaller, reason=f"made smaller, out of memory: {_first_line(error)}")
        return _go_on(folder, following, found)
    problems = []
    if now.place == NATIVE and config.train.fallback == "docker":
        following = Segment(DOCKER, "cpu", now.shrinks, None, f"out of memory: {_first_line(error)}")
        problem = container.unavailable() or _unfit(folder, following, found)
        if problem is None:
            return _go_on(folder, following, found)
        problems.append(problem)
    if now.place == NATIVE and now.device != "cpu" and config.train.fallback != "none":
        why = f"; {problems[0]}" if problems else ""
        following = Segment(CPU, "cpu", now.shrinks, None, f"out of memory: {_first_line(error)}{why}")
        problem = _unfit(folder, following, found)
        if problem is None:
            return _go_on(folder, following, found)
        problems.append(problem)
    went = f" The ladder: {'; '.join(str(segment).rstrip('.') for segment in tried)}." if len(tried) > 1 else ""
    remedies = " ".join(problems) or _remedy(now, config)
    raise MemoryExhausted(f"{error}{went} Nothing is left to try. {remedies}".strip())


def _smaller_form(folder: RunFolder, now: Segment, found: DeviceProbe) -> StepForm | None:
    """The plan's next smaller form: the first that is worth an attempt, the very next where none is. None after the smallest."""
    form = planned_form(folder)
    if form is None:
        return None
    graph, config = folder.load_graph(), folder.load_config()
    probe, following = _probe(now, config, found), form.smaller()
    enough, candidate = _WORTH_AN_ATTEMPT * plan_of_form(graph, config, probe, form).required_bytes, following
    while candidate is not None:
        if plan_of_form(graph, config, probe, candidate).required_bytes <= enough:
            return candidate
        candidate = candidate.smaller()
    return following


def _go_on(folder: RunFolder, segment: Segment, found: DeviceProbe) -> Segment:
    _append(folder, segment)
    plan_segment(folder, segment, found)
    return segment


def run_or_move_to_cpu(program: str, folder: RunFolder, on_event: Callable[[dict[str, Any]], None], *arguments: str) -> None:
    """Run a program that follows the training; where its device has too little memory, on the CPU of this machine instead.

    Raises what `run_child` raises, OutOfMemory when the fallback is "none" or the CPU ran out.
    """
    try:
        run_child(program, folder, on_event, *arguments)
    except OutOfMemory as error:
        config = folder.load_config()
        if planned_device(folder) == "cpu" or config.train.fallback == "none":
            raise
        say(f"OUT OF MEMORY: {error}\ngoing on on the CPU of this machine")
        on_cpu = Segment(CPU, "cpu", 0, None, f"out of memory: {_first_line(error)}")
        plan_segment(folder, on_cpu, probe_device("cpu", memory_limit(config)))
        run_child(program, folder, on_event, *arguments)


def _first_line(error: OutOfMemory) -> str:
    return str(error).splitlines()[0][:300]


def docker_too_small(folder: RunFolder, config: RunConfig, found: DeviceProbe) -> str | None:
    """What keeps the run from going on in Docker once it has to, as far as memory goes; None when nothing does, or no Docker is there."""
    if config.train.fallback != "docker" or config.train.device == "docker-cpu" or container.unavailable():
        return None
    return _unfit(folder, Segment(DOCKER, "cpu", 0, None, "out of memory"), found)


def _unfit(folder: RunFolder, segment: Segment, found: DeviceProbe) -> str | None:
    """What stands against the segment, or None."""
    plan = _planned(folder, segment, found)
    if plan.fits:
        return None
    more = _MORE_FOR_DOCKER if segment.place == DOCKER else "free memory"
    return (
        f"{PLACES[segment.place]} has {plan.limit_bytes / 1e9:.1f} GB and the run needs {plan.required_bytes / 1e9:.1f} GB there: {more}."
    )


def _remedy(now: Segment, config: RunConfig) -> str:
    if now.place == DOCKER:
        return ""  # the error names it
    if config.train.fallback == "none":
        return "Resume with --fallback docker to go on on the CPU worker, or take a smaller hidden_dim."
    return "Close other programs and resume, raise max_shrinks, or take a smaller hidden_dim."
