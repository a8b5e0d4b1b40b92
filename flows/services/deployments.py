"""Work pools, deployments and lost flow runs in the Prefect server of `hgt up`."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from flows import session
from flows.services.containers import engine_info, running_flow_runs
from flows.services.local import (
    FRESH_SECONDS,
    POOLS,
    Addresses,
    Say,
    Service,
    environment,
    services_folder,
    worker_name,
)
from flows.services.server_requests import ask, heartbeat_ages
from hgt.errors import HgtError
from tasks.execution.engine import user_in_containers
from tasks.execution.image import image_name
from tasks.home import hgt_home

DEPLOYMENTS = ("hgt-embeddings/native", "train-on-cpu/docker")
_DEPLOY_SECONDS = 180.0
_CONTAINER_SHARE = 0.9  # of the engine's memory, for a container without a memory plan
_LOG_LINES = 15
_CHECKOUT = Path(__file__).resolve().parents[2]


def create_pools(api: str) -> None:
    """Create missing work pools. Existing ones keep the user's changes."""
    there = {pool["name"] for pool in ask(f"{api}/work_pools/filter", {})}
    if there >= set(POOLS):
        return
    from prefect.workers.process import ProcessWorker
    from prefect_docker.worker import DockerWorker

    templates = {
        worker.type: worker.get_default_base_job_template()
        for worker in (ProcessWorker, DockerWorker)
    }
    for pool, kind in POOLS.items():
        if pool not in there:
            ask(
                f"{api}/work_pools/",
                {"name": pool, "type": kind, "base_job_template": templates[kind]},
            )


def missing_deployments(api: str) -> list[str]:
    flows = {flow["id"]: flow["name"] for flow in ask(f"{api}/flows/filter", {})}
    there = {f"{flows.get(d['flow_id'])}/{d['name']}" for d in ask(f"{api}/deployments/filter", {})}
    return [name for name in DEPLOYMENTS if name not in there]


class Deploying:
    """Runs `prefect deploy --all` in the background, unless all deployments are current."""

    def __init__(self, addresses: Addresses, say: Say):
        self._values = _values()
        self._process: subprocess.Popen[bytes] | None = None
        if (
            _done().is_file()
            and _done().read_text() == _fingerprint(self._values)
            and not missing_deployments(addresses.api)
        ):
            say("deployments are up to date")
            return
        _done().unlink(missing_ok=True)
        with _log().open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=_CHECKOUT,
                env=environment(addresses, is_client=True) | self._values,
            )

    def __enter__(self) -> Deploying:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def finish(self, say: Say) -> None:
        """Wait for the end. Raises HgtError when it fails or takes more than three minutes."""
        if self._process is None:
            return
        try:
            code = self._process.wait(_DEPLOY_SECONDS)
        except subprocess.TimeoutExpired:
            raise HgtError(
                f"`prefect deploy --all` did not end within {_DEPLOY_SECONDS:.0f} s. See {_log()}."
            ) from None
        if code:
            said = "\n".join(_log().read_text(errors="replace").splitlines()[-_LOG_LINES:])
            raise HgtError(f"`prefect deploy --all` failed (exit code {code}):\n{said}")
        _done().write_text(_fingerprint(self._values))
        say(f"deployed {' and '.join(DEPLOYMENTS)}")


def bury_lost_runs(worker: Service, api: str, say: Say) -> None:
    """Mark flow runs of a worker as Crashed that ended unreported (power cut, SIGKILL).

    Prefect would show them as Running for ever, and one of them would occupy the only slot of the
    deployment.

    worker: the service of the work pool
    api: address of the Prefect server
    say: prints a line
    """
    lives = worker.process.leader() is not None
    if lives and worker.key != "docker-cpu":
        return  # its flow runs are its children and report their end
    elsewhere = {
        name for name, age in heartbeat_ages(worker.key, api).items() if age < FRESH_SECONDS
    } - {worker_name(worker.key)}
    if worker.process.survivors() or elsewhere:
        return  # a flow run continues without its worker, or with a worker of the user
    alive = running_flow_runs() if worker.key == "docker-cpu" else set()
    unended = {
        "state": {"type": {"any_": ["RUNNING", "CANCELLING", *([] if lives else ["PENDING"])]}}
    }
    for run in ask(
        f"{api}/flow_runs/filter",
        {"work_pools": {"name": {"any_": [worker.key]}}, "flow_runs": unended},
    ):
        if run["id"] not in alive:
            _bury(run, "its worker", api, say)


def bury_lost_trainings(api: str, say: Say) -> None:
    """Mark lost flow runs of `hgt train` as Crashed, unless an `hgt train` still runs."""
    unended = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    flow = {"name": {"any_": [DEPLOYMENTS[0].split("/")[0]]}}
    lost = [
        r
        for r in ask(f"{api}/flow_runs/filter", {"flows": flow, "flow_runs": unended})
        if r["work_pool_name"] is None
    ]
    if lost and not session.running():
        for run in lost:
            _bury(run, "its process", api, say)


def _bury(run: dict[str, Any], ended_with: str, api: str, say: Say) -> None:
    message = (
        "It ended with its worker or with the machine. `hgt train --resume` continues from its last"
        " checkpoint."
    )
    ask(
        f"{api}/flow_runs/{run['id']}/set_state",
        {"state": {"type": "CRASHED", "name": "Crashed", "message": message}},
    )
    say(f"flow run {run['name']} had ended with {ended_with}; it is Crashed now")


def _values() -> dict[str, str]:
    """The variables that prefect.yaml reads from the environment."""
    info = engine_info()
    limit = (
        {"HGT_DOCKER_MEMORY": f"{int(_CONTAINER_SHARE * info['MemTotal']) >> 20}m"} if info else {}
    )
    return {
        "HGT_HOME": str(hgt_home()),
        "HGT_IMAGE": image_name(),
        "HGT_USER": user_in_containers(info),
    } | limit


def _fingerprint(values: dict[str, str]) -> str:
    """A hash of all sources of the deployments."""
    sources = [
        _CHECKOUT / "prefect.yaml",
        *sorted((_CHECKOUT / "hgt" / "config").glob("*.py")),
        *sorted((_CHECKOUT / "flows").glob("*.py")),
    ]
    content = b"\0".join(path.read_bytes() for path in sources)
    return hashlib.sha256(content + json.dumps(values, sort_keys=True).encode()).hexdigest()


def _done() -> Path:
    return services_folder() / "deployed.sha256"


def _log() -> Path:
    return services_folder() / "deploy.log"
