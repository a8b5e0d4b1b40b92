"""`prefect deploy` and `prefect deployment run` by hand, against a real server with a real process
worker.
"""

import json
import subprocess
import sys
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from tests.conftest import CHECKOUT, LAX, PREFECT, SMALL, process, runs_of


def prefect(environment, *arguments):
    done = subprocess.run(
        [*PREFECT, *arguments],
        env=environment,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_deployment_run_trains_and_tracks(environment, small_kg, tmp_path):
    prefect(environment, "work-pool", "create", "native", "--type", "process", "--overwrite")
    prefect(environment, "--no-prompt", "deploy", "--name", "native")
    parameters = {"kg": str(small_kg), **SMALL, "num_epochs": 1, **LAX}
    given = [part for name, value in parameters.items() for part in ("-p", f"{name}={value}")]
    worker = [sys.executable, "-c", _WORKER]
    with process(worker, tmp_path / "worker.log", environment):
        prefect(
            environment,
            "deployment",
            "run",
            "hgt-embeddings/native",
            "--watch",
            "--watch-interval",
            "1",
            *given,
        )
    client, (run,) = runs_of(environment)
    own = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run.data.tags["prefect.flow_run_id"])])
    )
    with SyncPrefectClient(environment["PREFECT_API_URL"]) as server:
        found = {a.key: a for a in server.read_artifacts(artifact_filter=own)}
    assert found["training-progress"].data == 100.0
    assert "ACCEPTED" in found["validation-report"].data
    assert run.info.status == "FINISHED"
    assert run.data.tags["accepted"] == "true"
    assert run.data.tags["prefect.flow_run_id"]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == [1]


def test_the_deployment_shows_every_parameter():
    from flows.hgt_embeddings import hgt_embeddings
    from hgt.config import parameters

    schema = json.loads(json.dumps(hgt_embeddings.parameters.model_dump()))
    assert set(schema["properties"]) == {"kg", "resume", "run_id", "output_csv", "overwrite"} | {
        p.name for p in parameters()
    }
    assert all(p.help in schema["properties"][p.name]["description"] for p in parameters())


# From a shell's background a worker ignores the first SIGTERM; here SIGINT is as Python has it.
_WORKER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from prefect.cli import app
sys.argv = ["prefect", "worker", "start", "--pool", "native"]
app()
"""
