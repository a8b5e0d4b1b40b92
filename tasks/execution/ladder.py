"""The out-of-memory ladder: where a run starts, and where it continues when memory runs out.

In: earlier segments, memory plans, and the places that the configuration allows. Out: the next
rung. The first rungs are smaller forms of the step on the same device, then the CPU worker in
Docker, then the CPU of this machine. Pure functions: they know no files, no Docker and no device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hgt.config import RunConfig
from hgt.device.probe import DeviceProbe
from hgt.training.step_form import StepForm
from tasks.execution.segments import CPU, DOCKER, NATIVE, Segment

_WORTH_AN_ATTEMPT = (
    0.9  # of the current form's planned bytes; some forms save nothing on some graphs
)


def first_rung(
    tried: Sequence[Segment], config: RunConfig, found: DeviceProbe, device: str | None = None
) -> Segment:
    """The first segment of a run, or the segment with which a resumed run continues.

    tried: the run's segments so far
    config: the run's configuration
    found: the native device
    device: the device that this resume requests. A run that started with `--device cpu` may have
        moved to Docker and stays there. A resume with `--device cpu` leaves Docker.
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
    """The segments that may follow the last one, which ran out of memory. The best is first.

    tried: the run's segments so far
    smaller: the next form of the step (`form_to_try`); None when there is none
    config: the run's configuration
    reason: the memory error in words
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
    """The next smaller form that saves enough memory, or the next one when none does.

    form: the current form
    required_bytes: the planned memory of a form

    Returns None after the smallest form.
    """
    following = candidate = form.smaller()
    enough = _WORTH_AN_ATTEMPT * required_bytes(form)
    while candidate is not None:
        if required_bytes(candidate) <= enough:
            return candidate
        candidate = candidate.smaller()
    return following


def exhausted(tried: Sequence[Segment], problems: Sequence[str], config: RunConfig) -> str:
    """The message when no rung is left: earlier segments, why each place is out, what to do."""
    way = "; ".join(str(segment).rstrip(".") for segment in tried)
    went = f"The ladder: {way}. " if len(tried) > 1 else ""
    remedies = " ".join(problems) or _remedy(tried[-1], config)
    return f"{went}Nothing is left to try. {remedies}".strip()


def _remedy(last: Segment, config: RunConfig) -> str:
    if last.place == DOCKER:
        return ""  # the error names the remedy
    if config.execution.fallback == "none":
        return (
            "Resume with --fallback docker to continue on the CPU worker, or start a run with a"
            " smaller hidden_dim."
        )
    return (
        "Close other programs and resume, resume with a larger max_shrinks, or start a run with a"
        " smaller hidden_dim."
    )


def moved_to_cpu(reason: str) -> Segment:
    """The segment of a later program (embed, evaluate) whose device ran out of memory."""
    return Segment(CPU, "cpu", 0, None, reason)
