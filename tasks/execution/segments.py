"""The segments of a run's training, in `segments.json` of the run folder: the ladder's state.

In: a run folder. Out: its segments; the run continues with the last one. The folder's `plan.json`
is the memory plan of the last segment. Knows neither Docker nor the ladder's rules.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from hgt.device.traits import DEVICES
from hgt.errors import InputError, quoted
from hgt.input_file import read_json
from hgt.run.folder import RunFolder
from hgt.training.step_form import StepForm
from hgt.whole_file import written_whole

NATIVE, DOCKER, CPU = "native", "docker", "cpu"
PLACES = {
    NATIVE: "this machine",
    DOCKER: "the CPU worker in Docker",
    CPU: "the CPU of this machine",
}
_BEGIN_ANEW = "Remove it: the run then continues where new runs start."


@dataclass(frozen=True)
class Segment:
    """A part of a run's training in one place and one form.

    place: native (the device that was found), docker or cpu
    device: mps, cuda or cpu
    shrinks: number of earlier reductions of the step's memory
    form: form of the steps, if the ladder chose it; None for the largest that fits
    reason: why the segment runs here, in words
    """

    place: str
    device: str
    shrinks: int
    form: StepForm | None
    reason: str

    @property
    def where(self) -> str:
        """In words: the place, and the form if the ladder reduced it."""
        changed = f" with less memory: {self.form}" if self.form and self.place == NATIVE else ""
        return f"on {PLACES[self.place]}{changed}"

    def __str__(self) -> str:
        device = f"{self.device} on " if self.place == NATIVE else ""
        return f"{device}{PLACES[self.place]}: {self.reason}"


def read_segments(folder: RunFolder) -> list[Segment]:
    """All segments so far, none for a run without a plan. Raises InputError for a damaged file."""
    if not folder.segments.exists():
        return []
    entries: list[Any] = read_json(folder.segments, list, _BEGIN_ANEW)
    try:
        return [_segment(entry) for entry in entries]
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(f"{folder.segments}: is unreadable ({error}). {_BEGIN_ANEW}") from error


def append_segment(folder: RunFolder, segment: Segment) -> None:
    """Continue the run with this segment."""
    entries = [asdict(s) for s in [*read_segments(folder), segment]]
    with written_whole(folder.segments) as new:
        new.write_text(json.dumps(entries, indent=2) + "\n")


def _segment(entry: Any) -> Segment:
    segment = Segment(**{**entry, "form": entry["form"] and StepForm.from_dict(entry["form"])})
    wrong = segment.place not in PLACES or segment.device not in DEVICES
    if wrong or type(segment.shrinks) is not int or not isinstance(segment.reason, str):
        raise ValueError(f"{quoted(entry)} is no segment of a training")
    return segment
