"""Out of memory never loses a run: the real trainer runs out at a chosen step, in every form; the
real flow goes on.
"""

import re

import numpy as np
import pytest

from flows.services.server_requests import ask
from tasks.execution.segments import read_segments
from tests.conftest import options, runs_of
from tests.end_to_end.failures import (
    FOUR,
    RUN,
    assert_one_whole_mlflow_run,
    embeddings,
    events,
    run_of,
    seconds_to_first_step,
    steps_repeated,
)

_FORMS = ("mps", "kill", "torch", "allocator", "abort", "cgroup")


@pytest.fixture
def kernel(request):
    """`kernel(form)`: the environment that the form `cgroup` needs besides, and its control group,
    None for the others.
    """

    def prepare(form):
        group = request.getfixturevalue("memory_group") if form in ("cgroup", "join") else None
        return ({"HGT_INJECT_CGROUP": str(group.path)} if group else {}), group

    return prepare


@pytest.mark.timeout(500)
@pytest.mark.parametrize(
    "form", [*_FORMS[:2], *(pytest.param(form, marks=pytest.mark.slow) for form in _FORMS[2:])]
)
def test_training_is_made_smaller_and_goes_on(
    hgt_here, environment, injected, kernel, small_kg, uninterrupted, form
):
    extra, group = kernel(form)
    done = hgt_here("train", "--kg", small_kg, *options(FOUR), **injected(f"{form} 4 2"), **extra)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout.count("OUT OF MEMORY") == 2
    folder = run_of(environment)
    assert [(s.place, s.shrinks) for s in read_segments(folder)] == [
        ("native", 0),
        ("native", 1),
        ("native", 2),
    ]
    sizes = [s.form and (s.form.table_rows, s.form.keep_projections) for s in read_segments(folder)]
    assert sizes == [None, (65_536, False), (16_384, False)]
    assert group is None or group.num_killed() == 2, "the kernel killed, and nothing else"
    assert [e["epoch"] for e in events(folder, "start")] == [
        0,
        1,
        2,
    ], "each from the checkpoint of the last whole epoch"
    assert steps_repeated(folder) == [0, 2, 2], "at most one epoch, of two steps, is computed twice"
    client, run = assert_one_whole_mlflow_run(environment, 4)
    assert [run.data.tags[f"segment.{n}.place"] for n in (1, 2, 3)] == ["native"] * 3
    assert "memory" in run.data.tags["segment.1.ended"]
    assert run.data.tags["segment.3.ended"] == "trained to the end"
    assert {f.path for f in client.list_artifacts(run.info.run_id, "plans")} == {
        f"plans/{n}.json" for n in (1, 2, 3)
    }
    np.testing.assert_allclose(embeddings(folder), uninterrupted, atol=1e-5)


def test_nothing_is_left_to_try(hgt_here, environment, injected, small_kg):
    done = hgt_here(
        "train",
        "--kg",
        small_kg,
        *options(RUN | {"max_shrinks": 1, "fallback": "none"}),
        **injected("mps 2 9"),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "Nothing is left to try" in done.stderr
    assert "--fallback docker" in done.stderr
    assert len(read_segments(run_of(environment))) == 2
    _, (run,) = runs_of(environment)
    assert run.info.status == "FAILED"
    gone_on = hgt_here("train", "--resume", run_of(environment).path.name)
    assert gone_on.returncode == 0, gone_on.stdout + gone_on.stderr
    assert_one_whole_mlflow_run(environment, 3)
    assert [s.shrinks for s in read_segments(run_of(environment))] == [
        0,
        1,
    ], "it goes on in the form that the ladder chose"


def test_without_docker_it_is_said_before_training(hgt_here, environment, injected, small_kg):
    done = hgt_here(
        "train", "--kg", small_kg, *options(RUN | {"max_shrinks": 0}), **injected("mps 2 9")
    )
    assert done.returncode == 1
    before = done.stdout[: done.stdout.index("memory plan")]
    assert re.search(r"if memory runs out: .*\nnot in Docker: ", before), before


def test_what_is_not_out_of_memory_fails_at_once(hgt_here, environment, injected, small_kg):
    done = hgt_here("train", "--kg", small_kg, *options(RUN), **injected("error 2 9"))
    assert done.returncode == 1
    assert "shapes [3, 4] and [5] do not fit" in done.stderr
    assert len(read_segments(run_of(environment))) == 1
    assert len(events(run_of(environment), "start")) == 1, "it was not tried again"


def test_the_retry_is_an_attempt_of_the_train_task(hgt_here, environment, injected, small_kg):
    """In Prefect it is visible as what it is."""
    done = hgt_here(
        "train", "--kg", small_kg, *options(RUN | {"num_epochs": 1}), **injected("torch 1 1")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    name = run_of(environment).path.name
    _, (run,) = runs_of(environment)
    query = {"flow_runs": {"id": {"any_": [run.data.tags["prefect.flow_run_id"]]}}}
    tasks = ask(f"{environment['PREFECT_API_URL']}/task_runs/filter", query)
    (train,) = [t for t in tasks if t["name"].startswith("train")]
    assert train["run_count"] == 2, name
    assert train["state_type"] == "COMPLETED"


@pytest.mark.docker
@pytest.mark.timeout(400)
@pytest.mark.parametrize("form", _FORMS)
def test_training_goes_on_in_docker(
    worker_image, hgt_here, environment, injected, kernel, small_kg, uninterrupted, form
):
    """Smaller, smaller, and then the CPU worker, in one MLflow run; the session's Prefect server
    has no work pool for it.
    """
    del worker_image
    extra, group = kernel(form)
    extra |= {
        name: value for name, value in injected(f"{form} 4 3").items() if name != "DOCKER_HOST"
    }
    done = hgt_here("train", "--kg", small_kg, *options(FOUR), **extra)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert group is None or group.num_killed() == 3, "the kernel killed, and nothing else"
    folder = run_of(environment)
    assert [(s.place, s.shrinks) for s in read_segments(folder)] == [
        ("native", 0),
        ("native", 1),
        ("native", 2),
        ("docker", 2),
    ]
    _, run = assert_one_whole_mlflow_run(environment, 4)
    assert [run.data.tags[f"segment.{n}.place"] for n in (1, 2, 3, 4)] == ["native"] * 3 + [
        "docker"
    ]
    assert run.data.tags["segment.4.ended"] == "trained to the end"
    np.testing.assert_allclose(embeddings(folder), uninterrupted, atol=1e-5)
    assert [e["epoch"] for e in events(folder, "start")] == [
        0,
        1,
        2,
        3,
    ], "each from the checkpoint of the last whole epoch"
    assert steps_repeated(folder) == [
        0,
        2,
        2,
        2,
    ], "at most one epoch, of two steps, is computed twice"
    assert [e["epoch"] for e in events(folder, "epoch")] == [1, 2, 3, 4]
    assert seconds_to_first_step(folder) < 60


@pytest.mark.docker
@pytest.mark.timeout(400)
def test_a_trainer_that_outgrows_its_limit_goes_on_in_docker(
    worker_image, hgt_here, environment, injected, kernel, small_kg, uninterrupted
):
    """Nothing but the trainer's own memory: from before its model is made on it may take 24 MB
    more, too few for any form.
    """
    del worker_image
    extra, group = kernel("join")
    extra |= {name: value for name, value in injected("join 0 3").items() if name != "DOCKER_HOST"}
    group.limit(24 << 20)
    done = hgt_here("train", "--kg", small_kg, *options(FOUR), **extra)
    assert done.returncode == 0, done.stdout + done.stderr
    assert group.num_killed() == 3
    folder = run_of(environment)
    assert [(s.place, s.shrinks) for s in read_segments(folder)] == [
        ("native", 0),
        ("native", 1),
        ("native", 2),
        ("docker", 2),
    ]
    assert_one_whole_mlflow_run(environment, 4)
    np.testing.assert_allclose(embeddings(folder), uninterrupted, atol=1e-5)
