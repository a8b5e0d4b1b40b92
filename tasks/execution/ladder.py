"""The OOM ladder: where a run begins, and where it goes on when memory runs out.

In: what was tried, what is planned and which places the configuration allows. Out: the next rung.
A smaller form of the step on its own device comes first, then the CPU worker in Docker, then the
CPU of this machine. Pure functions: they know neither files, nor Docker, nor a device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hgt.config import RunConfig
from hgt.device.probe import DeviceProbe
from hgt.training.step_form import StepForm
from tasks.execution.segments import CPU, DOCKER, NATIVE, Segment

_WORTH_AN_ATTEMPT = 0.9  # of the present form's planned bytes: some forms spare a graph nothing


def first_rung(
    tried: Sequence[Segment], config: RunConfig, found: DeviceProbe, device: str | None = None
) -> Segment:
    """Where a run begins, or where a resumed one goes on: the segment tried last, or a new one.

    tried: the run's segments so far
    found: the native device
    device: what this very resume was sent to. A run that began with `--device cpu` may have been
        led into Docker, and stays there; one that is resumed with it leaves Docker.
    """
    wanted = config.execution.device
    if tried:
        last = tried[-1]
        in_docker = last.place == DOCKER
        stays = wanted in (None, last.device) or (wanted == "docker-cpu" and in_docker)
        leaves_docker = in_docker and device not in (None, "docker-cpu")
        if stays and not leaves_docker:
            return last
    reason = "asked for" if wanted else found.reason
    if wanted == "docker-cpu":
        return Segment(DOCKER, "cpu", 0, None, reason)
    return Segment(NATIVE, found.type, 0, None, reason)


def rungs_below(
    tried: Sequence[Segment], smaller: StepForm | None, config: RunConfig, reason: str
) -> list[Segment]:
    """The segments that may follow the last one, which ran out of memory; best first.

    smaller: the form that the step would be given next (`form_to_try`)
    reason: what ran out, in words
    """
    now, execution = tried[-1], config.execution
    if now.place != NATIVE:
        return []
    if smaller and now.shrinks < execution.max_shrinks:
        made_smaller = f"made smaller, {reason}"
        return [replace(now, shrinks=now.shrinks + 1, form=smaller, reason=made_smaller)]
    rungs = []
    if execution.fallback == "docker":
        rungs.append(Segment(DOCKER, "cpu", now.shrinks, None, reason))
    if execution.fallback != "none" and now.device != "cpu":
        rungs.append(Segment(CPU, "cpu", now.shrinks, None, reason))
    return rungs


def form_to_try(form: StepForm, required_bytes: Callable[[StepForm], int]) -> StepForm | None:
    """The next smaller form that is worth an attempt, or the very next where none is.

    required_bytes: what the plan of a form needs. Returns None after the smallest form.
    """
    following = candidate = form.smaller()
    enough = _WORTH_AN_ATTEMPT * required_bytes(form)
    while candidate is not None:
        if required_bytes(candidate) <= enough:
            return candidate
        candidate = candidate.smaller()
    return following


def exhausted(tried: Sequence[Segment], problems: Sequence[str], config: RunConfig) -> str:
    """What to say where no rung is left: the way so far, what stands against each place, what to
    do.
    """
    way = "; ".join(str(segment).rstrip(".") for segment in tried)
    went = f"The ladder: {way}. " if len(tried) > 1 else ""
    remedies = " ".join(problems) or _remedy(tried[-1], config)
    return f"{went}Nothing is left to try. {remedies}".strip()


def _remedy(last: Segment, config: RunConfig) -> str:
    if last.place == DOCKER:
        return ""  # the error names it
    if config.execution.fallback == "none":
        return (
            "Resume with --fallback docker to go on on the CPU worker, or take a smaller"
            " hidden_dim."
        )
    return "Close other programs and resume, raise max_shrinks, or take a smaller hidden_dim."


def moved_to_cpu(reason: str) -> Segment:
    """Where a program that follows the training goes on when its device runs out of memory."""
    return Segment(CPU, "cpu", 0, None, reason)
