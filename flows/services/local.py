"""The services of `hgt up`: a Prefect server, an MLflow server and a worker for each work pool.

They run on the host, because containers cannot use MPS. They listen only on 127.0.0.1. Their files
are in `$HGT_HOME`: process files and logs in `services/`, Prefect's database in `prefect/`,
MLflow's in `mlflow.db`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.services.background import Background
from flows.services.server_requests import answers, heartbeat_ages
from hgt.errors import InputError
from tasks.execution.engine import engine_address
from tasks.home import check_home, hgt_home, own_store

HOST = "127.0.0.1"
PREFECT_PORT = 4200
MLFLOW_PORT = 5001  # macOS itself listens on MLflow's usual 5000 (AirPlay receiver)
POOLS = {"native": "process", "docker-cpu": "docker"}
# Seconds from SIGTERM to SIGKILL. The order is the order of stopping: a native run that moved to
# Docker can still end its container.
STOP_SECONDS = {"native": 30.0, "docker-cpu": 30.0, "mlflow": 15.0, "prefect": 15.0}
# a worker with an older heartbeat does not work, whatever Prefect shows
FRESH_SECONDS = 20.0
_HEARTBEAT_SECONDS, _QUERY_SECONDS = 5, 5
# Variables of the user that would send the services to another server, database or terminal.
_NOT_INHERITED = (
    "PREFECT_API_",
    "PREFECT_CLIENT_",
    "PREFECT_HOME",
    "PREFECT_PROFILE",
    "PREFECT_SERVER_API_",
    "PREFECT_SERVER_DATABASE_",
    "PREFECT_UI_",
    "PREFECT__",
    "MLFLOW_TRACKING_",
    "MLFLOW_BACKEND_",
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_",
    "HGT_TERMINAL",
    "HGT_SESSION_PARENT",
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Addresses:
    """The addresses of the two servers."""

    prefect_port: int
    mlflow_port: int

    @property
    def prefect(self) -> str:
        return f"http://{HOST}:{self.prefect_port}"

    @property
    def api(self) -> str:
        return f"{self.prefect}/api"

    @property
    def mlflow(self) -> str:
        return f"http://{HOST}:{self.mlflow_port}"


@dataclass(frozen=True)
class Service:
    """A service.

    key: short name
    title: name in messages
    process: its background process
    option: option of `hgt up` for the port of a server
    default_port: of a server
    """

    key: str
    title: str
    process: Background
    option: str = ""
    default_port: int = 0

    @property
    def is_worker(self) -> bool:
        return self.key in POOLS

    def port(self) -> int | None:
        """The port of the last start; None for a worker, and after `hgt down`."""
        record = self.process.record()
        return int(record.settings["port"]) if record and "port" in record.settings else None

    def address(self) -> str | None:
        port = self.port()
        return f"http://{HOST}:{port}" if port else None

    def command(self, addresses: Addresses) -> list[str]:
        """The program and its arguments."""
        if self.key == "prefect":
            arguments = [
                "prefect",
                "server",
                "start",
                "--host",
                HOST,
                "--port",
                str(addresses.prefect_port),
            ]
        elif self.key == "mlflow":
            # runs read and write artifacts directly, also without this server
            artifacts = (hgt_home() / "mlartifacts").as_uri()
            store = [
                "--backend-store-uri",
                own_store(),
                "--default-artifact-root",
                artifacts,
                "--no-serve-artifacts",
            ]
            arguments = [
                "mlflow",
                "server",
                "--host",
                HOST,
                "--port",
                str(addresses.mlflow_port),
                *store,
                "--workers",
                "1",
            ]
        else:
            arguments = ["flows.services.worker", self.key, POOLS[self.key], worker_name(self.key)]
        return [sys.executable, "-m", *arguments]

    def settings(self, addresses: Addresses) -> dict[str, str]:
        """Settings that a running service cannot change."""
        if self.is_worker:
            return {"api": addresses.api, "mlflow": addresses.mlflow}
        return {
            "port": str(addresses.prefect_port if self.key == "prefect" else addresses.mlflow_port)
        }

    def is_well(self, api: str) -> bool:
        """Whether the server answers, or the worker sent a recent heartbeat since its start."""
        if self.is_worker:
            record, age = (
                self.process.record(),
                heartbeat_ages(self.key, api).get(worker_name(self.key)),
            )
            return (
                age is not None
                and record is not None
                and age < min(FRESH_SECONDS, time.time() - record.started)
            )
        return answers(f"{self.address()}{'/api/health' if self.key == 'prefect' else '/health'}")


def services() -> dict[str, Service]:
    """{key: service} in the order of starting."""
    folder = services_folder()
    found = [
        Service(
            "prefect",
            "Prefect server",
            Background(folder, "prefect-server"),
            "--prefect-port",
            PREFECT_PORT,
        ),
        Service(
            "mlflow",
            "MLflow server",
            Background(folder, "mlflow-server"),
            "--mlflow-port",
            MLFLOW_PORT,
        ),
        *(Service(pool, f"worker {pool}", Background(folder, f"worker-{pool}")) for pool in POOLS),
    ]
    return {service.key: service for service in found}


def services_folder() -> Path:
    return hgt_home() / "services"


def worker_name(pool: str) -> str:
    return f"hgt-{pool}"


def running_server() -> str | None:
    """API address of the Prefect server of `hgt up`; None unless it runs and answers."""
    prefect = services()["prefect"]
    api = f"{prefect.address()}/api"
    return api if prefect.process.leader() and prefect.is_well(api) else None


def environment(addresses: Addresses, is_client: bool) -> dict[str, str]:
    """The environment of a service.

    addresses: of the servers
    is_client: whether the service uses the servers
    """
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)
    }
    ours = {
        "HGT_HOME": str(hgt_home()),
        "PREFECT_HOME": str(hgt_home() / "prefect"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves seven processes
        "PYTHONUNBUFFERED": "1",
    }
    if is_client:
        ours |= {
            "PREFECT_API_URL": addresses.api,
            "MLFLOW_TRACKING_URI": addresses.mlflow,
            "PREFECT_WORKER_HEARTBEAT_SECONDS": str(_HEARTBEAT_SECONDS),
            "PREFECT_WORKER_QUERY_SECONDS": str(_QUERY_SECONDS),
            # Prefect's worker does not look for Docker Desktop's socket
            "DOCKER_HOST": engine_address(),
        }
    return kept | ours


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Allow one `hgt up` or `hgt down` at a time. Raises InputError while another one runs."""
    check_home()
    services_folder().mkdir(parents=True, exist_ok=True)
    with (services_folder() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"Another `hgt up` or `hgt down` is running for {hgt_home()}. Wait for its end."
            ) from None
        yield


def table(rows: list[list[str]]) -> str:
    """The rows as text in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
