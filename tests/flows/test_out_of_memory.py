"""Out of memory never loses a run: the real trainer runs out at a chosen step, in every form; the real flow goes on."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hgt.events import EventReader
from hgt.run_folder import RunFolder
from tasks.ladder import segments
from tests.conftest import SMALL, options, runs_of

LAX = {"min_components_90": 1, "min_type_accuracy": 0, "min_mrr_over_chance": 0, "max_mean_cosine": 1}
RUN = SMALL | LAX | {"num_epochs": 3, "dropout": 0.1, "device": "cpu"}
NO_DOCKER = {"DOCKER_HOST": "unix:///nowhere/docker.sock", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def injected(tmp_path):
    """`injected("mps 3 2")`: the environment of a trainer that runs out of memory so."""

    def environment(spec):
        return NO_DOCKER | {
            "HGT_INJECT": spec,
            "HGT_INJECT_COUNT": str(tmp_path / "count"),
            "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "injected"),
        }

    return environment


def run_of(environment):
    (path,) = (Path(environment["HGT_HOME"]) / "runs").iterdir()
    return RunFolder(path)


def embeddings(folder):
    table = pd.read_parquet(folder.embeddings / "embeddings.parquet")
    return np.stack(table["embedding"].to_list())


def assert_one_whole_mlflow_run(environment, num_epochs, status="FINISHED"):
    client, (run,) = runs_of(environment)
    assert run.info.status == status
    for metric in ("loss", "val_mrr"):
        assert [m.step for m in client.get_metric_history(run.info.run_id, metric)] == list(range(1, num_epochs + 1))
    return client, run


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, small_kg, prefect_server):
    """Embeddings of the same run that nothing happened to."""
    import subprocess

    from tests.conftest import CHECKOUT, HGT, QUIET

    home = tmp_path_factory.mktemp("uninterrupted")
    env = os.environ | QUIET | NO_DOCKER | {"HGT_HOME": str(home), "PREFECT_HOME": str(home / "prefect"), "PREFECT_API_URL": prefect_server}
    command = [*HGT, "train", "--kg", str(small_kg), *options(RUN)]
    done = subprocess.run(command, env=env, cwd=CHECKOUT, capture_output=True, text=True, timeout=220)
    assert done.returncode == 0, done.stdout + done.stderr
    return embeddings(run_of({"HGT_HOME": str(home)}))


_SLOW = pytest.mark.slow


@pytest.mark.parametrize("form", ["mps", "kill", *(pytest.param(form, marks=_SLOW) for form in ("torch", "allocator", "abort"))])
def test_training_is_made_smaller_and_goes_on(hgt, environment, injected, small_kg, uninterrupted, form):
    done = hgt("train", "--kg", small_kg, *options(RUN), **injected(f"{form} 4 2"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout.count("OUT OF MEMORY") == 2
    folder = run_of(environment)
    assert [(s.place, s.shrinks) for s in segments(folder)] == [("native", 0), ("native", 1), ("native", 2)]
    sizes = [s.form and (s.form.table_rows, s.form.keep_projections) for s in segments(folder)]
    assert sizes == [None, (65_536, False), (16_384, False)]
    client, run = assert_one_whole_mlflow_run(environment, 3)
    assert [run.data.tags[f"segment.{n}.place"] for n in (1, 2, 3)] == ["native"] * 3
    assert "memory" in run.data.tags["segment.1.ended"]
    assert run.data.tags["segment.3.ended"] == "trained to the end"
    assert {f.path for f in client.list_artifacts(run.info.run_id, "plans")} == {f"plans/{n}.json" for n in (1, 2, 3)}
    np.testing.assert_allclose(embeddings(folder), uninterrupted, atol=1e-5)


def test_nothing_is_left_to_try(hgt, environment, injected, small_kg):
    done = hgt("train", "--kg", small_kg, *options(RUN | {"max_shrinks": 1, "fallback": "none"}), **injected("mps 2 9"))
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "Nothing is left to try" in done.stderr
    assert "--fallback docker" in done.stderr
    assert len(segments(run_of(environment))) == 2
    _, (run,) = runs_of(environment)
    assert run.info.status == "FAILED"
    gone_on = hgt("train", "--resume", run_of(environment).path.name)
    assert gone_on.returncode == 0, gone_on.stdout + gone_on.stderr
    assert_one_whole_mlflow_run(environment, 3)
    assert [s.shrinks for s in segments(run_of(environment))] == [0, 1], "it goes on in the form that the ladder chose"


def test_without_docker_it_is_said_before_training(hgt, environment, injected, small_kg):
    done = hgt("train", "--kg", small_kg, *options(RUN | {"max_shrinks": 0}), **injected("mps 2 9"))
    assert done.returncode == 1
    before = done.stdout[: done.stdout.index("memory plan")]
    assert re.search(r"if memory runs out: .*Docker", before), before


def test_what_is_not_out_of_memory_fails_at_once(hgt, environment, injected, small_kg):
    done = hgt("train", "--kg", small_kg, *options(RUN), **injected("error 2 9"))
    assert done.returncode == 1
    assert "shapes [3, 4] and [5] do not fit" in done.stderr
    assert len(segments(run_of(environment))) == 1
    starts = [e for e in EventReader(run_of(environment).events).new() if e["event"] == "start"]
    assert len(starts) == 1, "it was not tried again"


def test_the_retry_is_an_attempt_of_the_train_task(hgt, environment, injected, small_kg):
    """In Prefect it is visible as what it is."""
    import urllib.request

    done = hgt("train", "--kg", small_kg, *options(RUN | {"num_epochs": 1}), **injected("torch 1 1"))
    assert done.returncode == 0, done.stdout + done.stderr
    name = run_of(environment).path.name
    _, (run,) = runs_of(environment)
    query = {"flow_runs": {"id": {"any_": [run.data.tags["prefect.flow_run_id"]]}}}
    asked = urllib.request.Request(
        f"{environment['PREFECT_API_URL']}/task_runs/filter", json.dumps(query).encode(), {"Content-Type": "application/json"}
    )
    (train,) = [t for t in json.load(urllib.request.urlopen(asked)) if t["name"].startswith("train")]
    assert train["run_count"] == 2, name
    assert train["state_type"] == "COMPLETED"


@pytest.mark.docker
@pytest.mark.timeout(400)
@pytest.mark.parametrize("form", ["mps", "kill"])
def test_training_goes_on_in_docker(worker_image, hgt, environment, injected, small_kg, uninterrupted, form):
    """Smaller, smaller, and then the CPU worker, in one MLflow run; the session's Prefect server has no work pool for it."""
    del worker_image
    extra = {name: value for name, value in injected(f"{form} 2 3").items() if name != "DOCKER_HOST"}
    done = hgt("train", "--kg", small_kg, *options(RUN), **extra)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    folder = run_of(environment)
    assert [(s.place, s.shrinks) for s in segments(folder)] == [("native", 0), ("native", 1), ("native", 2), ("docker", 2)]
    _, run = assert_one_whole_mlflow_run(environment, 3)
    assert [run.data.tags[f"segment.{n}.place"] for n in (1, 2, 3, 4)] == ["native"] * 3 + ["docker"]
    assert run.data.tags["segment.4.ended"] == "trained to the end"
    np.testing.assert_allclose(embeddings(folder), uninterrupted, atol=1e-5)
    told = list(EventReader(folder.events).new())
    starts = [e["time"] for e in told if e["event"] == "start"]
    assert len(starts) == 4
    first_step = next(e["time"] for e in told if e["event"] == "step" and e["time"] > starts[-1])
    before = max(e["time"] for e in told if e["time"] < starts[-1])
    assert first_step - before < 60, "from the last word of the native trainer to the first step on the CPU worker"
