"""What `hgt up` starts on this machine: a Prefect server, an MLflow server and a worker for each
work pool; and whether they are well.

On the host, because containers cannot see MPS. All listen on 127.0.0.1 alone and keep their things
in `$HGT_HOME`: process files and logs in `services/`, Prefect's database in `prefect/`, MLflow's in
`mlflow.db`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from flows.services.background import Background
from hgt.errors import InputError
from tasks.execution.engine import engine_address
from tasks.home import check_home, hgt_home, own_store

HOST = "127.0.0.1"
PREFECT_PORT = 4200
MLFLOW_PORT = 5001  # macOS itself listens on MLflow's usual 5000 (AirPlay receiver)
POOLS = {"native": "process", "docker-cpu": "docker"}
# From SIGTERM to SIGKILL, in the order of stopping: a native run that was handed over to Docker can
# still end its container.
STOP_SECONDS = {"native": 30.0, "docker-cpu": 30.0, "mlflow": 15.0, "prefect": 15.0}
# a worker that was last heard of longer ago is not well, whatever Prefect shows
FRESH_SECONDS = 20.0
NO_ANSWER = (OSError, ValueError, HTTPException)
_HEARTBEAT_SECONDS, _QUERY_SECONDS = 5, 5
_ANSWER_SECONDS, _ASK_SECONDS, _ASK_AGAIN_SECONDS = 5.0, 30.0, 0.5
# Of the user's environment: what would send our processes to another server, database or terminal.
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
    """Where the two servers listen."""

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
    """One of them. key: its short name; title: what people read; option: the one of `hgt up` that
    sets a server's port.
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
        """Where the server was last started to listen; None for a worker and for what was not
        started since the last `hgt down`.
        """
        record = self.process.record()
        return int(record.settings["port"]) if record and "port" in record.settings else None

    def address(self) -> str | None:
        port = self.port()
        return f"http://{HOST}:{port}" if port else None

    def command(self, addresses: Addresses) -> list[str]:
        """Its program and arguments."""
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
            # read and written in place, also by a run that goes straight to the store
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
        """What a running one cannot change."""
        if self.is_worker:
            return {"api": addresses.api, "mlflow": addresses.mlflow}
        return {
            "port": str(addresses.prefect_port if self.key == "prefect" else addresses.mlflow_port)
        }

    def is_well(self, api: str) -> bool:
        """Whether a server answers, or a worker was heard of lately and since it was started."""
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
        return _answers(f"{self.address()}{'/api/health' if self.key == 'prefect' else '/health'}")


def services() -> dict[str, Service]:
    """By key, in the order of starting."""
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
    """API address of the Prefect server that `hgt up` started; None if it does not run and
    answer.
    """
    prefect = services()["prefect"]
    api = f"{prefect.address()}/api"
    return api if prefect.process.leader() and prefect.is_well(api) else None


def environment(addresses: Addresses, is_client: bool) -> dict[str, str]:
    """Of our processes; is_client: of those that use the servers."""
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


def heartbeat_ages(pool: str, api: str) -> dict[str, float]:
    """{worker of the pool: seconds since it was last heard of}; empty where the server does not
    answer.
    """
    try:
        workers = ask(f"{api}/work_pools/{pool}/workers/filter", {})
    except NO_ANSWER:
        return {}
    now = datetime.now(UTC)
    return {
        w["name"]: (now - datetime.fromisoformat(w["last_heartbeat_time"])).total_seconds()
        for w in workers
        if w["last_heartbeat_time"]
    }


def ask(url: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
    """The JSON that a server answers, None for an answer without one. Raises one of NO_ANSWER where
    it does not answer.

    Prefect's server says 503 where another writer holds its SQLite file, and means: ask again. Its
    client would do all this, 3 s of imports later.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    until = time.monotonic() + _ASK_SECONDS
    while True:
        try:
            with _open(request, _ASK_SECONDS) as answer:
                return json.loads(answer.read() or "null")
        except HTTPError as error:
            error.close()
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > until:
                raise
        time.sleep(_ASK_AGAIN_SECONDS)


def _answers(url: str) -> bool:
    try:
        with _open(urllib.request.Request(url), _ANSWER_SECONDS) as answer:
            return bool(answer.status == 200)
    except NO_ANSWER:
        return False


def _open(request: urllib.request.Request, seconds: float) -> Any:
    # no proxy knows our 127.0.0.1
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        request, timeout=seconds
    )


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One `hgt up` or `hgt down` at a time. Raises InputError while another one works."""
    check_home()
    services_folder().mkdir(parents=True, exist_ok=True)
    with (services_folder() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"Another `hgt up` or `hgt down` works on {hgt_home()} just now. Wait for it."
            ) from None
        yield


def table(rows: list[list[str]]) -> str:
    """The rows in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
