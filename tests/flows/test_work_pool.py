"""The hand-over through Prefect: a real server, both workers (`hgt up`), a real Docker engine."""

import json
import os
import subprocess
import urllib.request

import pytest

from tasks.ladder import segments
from tests.conftest import CHECKOUT, HGT, QUIET, free_port, options, runs_of
from tests.flows.test_out_of_memory import RUN, assert_one_whole_mlflow_run, run_of

pytestmark = [pytest.mark.docker, pytest.mark.timeout(500)]


@pytest.fixture
def services(tmp_path, worker_image):
    """The environment in which `hgt up` has run."""
    home = tmp_path / "home"
    environment = os.environ | QUIET | {"HGT_HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment.pop("PREFECT_API_URL", None)
    command = [*HGT, "up", "--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
    try:
        up = subprocess.run(command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=240)
        assert up.returncode == 0, up.stdout + up.stderr
        address = next(line.split("=", 1)[1] for line in up.stdout.splitlines() if "export PREFECT_API_URL=" in line)
        yield environment | {"PREFECT_API_URL": address.strip()}
    finally:
        subprocess.run([*HGT, "down"], env=environment, cwd=CHECKOUT, capture_output=True, timeout=120)


def test_the_run_goes_on_as_a_sub_flow(services, docker_engine, tmp_path, small_kg):
    injected = {
        "HGT_INJECT": "mps 2 1",
        "HGT_INJECT_COUNT": str(tmp_path / "count"),
        "PYTHONPATH": str(CHECKOUT / "tests" / "injected"),
    }
    arguments = [*HGT, "train", "--kg", str(small_kg), *options(RUN | {"max_shrinks": 0})]
    done = subprocess.run(arguments, env=services | injected, cwd=CHECKOUT, capture_output=True, text=True, timeout=220)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    folder = run_of(services)
    assert [s.place for s in segments(folder)] == ["native", "docker"]
    _, (run,) = runs_of(services)
    assert_one_whole_mlflow_run(services, 3)

    def asked(what, query):
        request = urllib.request.Request(
            f"{services['PREFECT_API_URL']}/{what}/filter", json.dumps(query).encode(), {"Content-Type": "application/json"}
        )
        return json.load(urllib.request.urlopen(request))

    flows = {f["name"]: f for f in asked("flow_runs", {})}
    dispatched = flows[f"{folder.path.name}-cpu"]
    assert dispatched["state_type"] == "COMPLETED"
    (link,) = asked("task_runs", {"task_runs": {"id": {"any_": [dispatched["parent_task_run_id"]]}}})
    assert link["flow_run_id"] == run.data.tags["prefect.flow_run_id"], "the CPU run is a sub-flow of the run"
    left = docker_engine.containers.list(all=True, filters={"label": f"io.prefect.flow-run-id={dispatched['id']}"})
    assert not left
