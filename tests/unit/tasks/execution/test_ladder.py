"""Which rung follows which: from what was tried and what the configuration allows alone."""

import pytest

from hgt.config import RunConfig
from hgt.device.probe import DeviceProbe
from hgt.training.step_form import StepForm
from tasks.execution.ladder import exhausted, first_rung, form_to_try, rungs_below
from tasks.execution.segments import Segment

MPS = DeviceProbe("mps", "Apple M1", 8 << 30, "the accelerator of this machine", "2.14.1", "arm64")
LARGEST = StepForm.of(RunConfig())
SMALLER = LARGEST.smaller()
ON_MPS = Segment("native", "mps", 0, None, "found")
ON_CPU = Segment("native", "cpu", 0, None, "found")
SHRUNK = Segment("native", "mps", 2, SMALLER, "made smaller")


def places(tried, smaller=SMALLER, **values):
    config = RunConfig.from_flat(values)
    return [
        (s.place, s.device, s.shrinks, s.form) for s in rungs_below(tried, smaller, config, "why")
    ]


def test_a_smaller_form_comes_first_and_alone():
    assert places([ON_MPS]) == [("native", "mps", 1, SMALLER)]


@pytest.mark.parametrize(
    ("tried", "smaller", "values"),
    [
        ([ON_MPS, SHRUNK], SMALLER, {}),
        ([ON_MPS], None, {}),
        ([ON_MPS], SMALLER, {"max_shrinks": 0}),
    ],
)
def test_then_docker_then_this_machines_cpu(tried, smaller, values):
    assert [place[:2] for place in places(tried, smaller, **values)] == [
        ("docker", "cpu"),
        ("cpu", "cpu"),
    ]


def test_what_the_fallback_rules_out():
    assert [p[0] for p in places([ON_MPS, SHRUNK], fallback="cpu")] == ["cpu"]
    assert places([ON_MPS, SHRUNK], fallback="none") == []


def test_a_cpu_that_ran_out_is_not_tried_again():
    assert [p[0] for p in places([ON_CPU], max_shrinks=0)] == ["docker"]
    assert places([ON_CPU], max_shrinks=0, fallback="cpu") == []


def test_below_docker_and_the_cpu_there_is_nothing():
    for place in ("docker", "cpu"):
        assert places([ON_MPS, Segment(place, "cpu", 2, None, "out of memory")]) == []


def test_a_form_that_spares_too_little_is_passed_over():
    forms = [LARGEST]
    while smaller := forms[-1].smaller():
        forms.append(smaller)
    sizes = dict(zip(forms, [100, 95, 91, 89, *[80] * len(forms)], strict=False))
    assert form_to_try(LARGEST, sizes.__getitem__) == forms[3]
    assert form_to_try(LARGEST, lambda form: 100) == forms[1], (
        "the very next, where none spares enough"
    )
    assert form_to_try(forms[-1], lambda form: 100) is None


def test_where_a_run_begins_and_goes_on():
    assert first_rung([], RunConfig(), MPS) == Segment("native", "mps", 0, None, MPS.reason)
    in_docker = RunConfig.from_flat({"device": "docker-cpu"})
    assert first_rung([], in_docker, MPS) == Segment("docker", "cpu", 0, None, "asked for")
    assert first_rung([ON_MPS, SHRUNK], RunConfig(), MPS) == SHRUNK
    elsewhere = RunConfig.from_flat({"device": "cpu"})
    assert first_rung([ON_MPS, SHRUNK], elsewhere, MPS).reason == "asked for"


def test_the_end_is_told_with_the_way_and_what_to_do():
    none = RunConfig.from_flat({"fallback": "none"})
    assert exhausted([ON_MPS], [], none).startswith(
        "Nothing is left to try. Resume with --fallback docker"
    )
    said = exhausted([ON_MPS, SHRUNK], ["No Docker: start it."], RunConfig())
    assert (
        said
        == "The ladder: mps on this machine: found; mps on this machine: made smaller. Nothing is"
        " left to try. No Docker: start it."
    )
