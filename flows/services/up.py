"""`hgt up`: starts missing services and waits until they answer."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import getproxies_environment

from flows.services.containers import engine_problem
from flows.services.deployments import (
    DEPLOYMENTS,
    Deploying,
    bury_lost_runs,
    bury_lost_trainings,
    create_pools,
)
from flows.services.local import (
    HOST,
    POOLS,
    STOP_SECONDS,
    Addresses,
    Say,
    Service,
    alone,
    environment,
    services,
    services_folder,
    table,
)
from flows.services.server_requests import NO_ANSWER  # fmt: skip
from hgt.errors import HgtError, InputError
from tasks.home import hgt_home

_SERVER_SECONDS = 180.0  # creating a database takes 15 s on two idle cores
_WORKER_SECONDS = 120.0
_POLL_SECONDS = 0.2
_LOG_LINES = 15


def up(prefect_port: int | None, mlflow_port: int | None, say: Say) -> None:
    """Start the services that do not run.

    prefect_port: None for the port of the last start, or the default
    mlflow_port: the same
    say: prints a line

    Raises InputError for a port that is taken or differs from a running server's, HgtError for a
    service that does not answer in time. After an error it stops the services that it started.
    """
    with alone():
        found = services()
        addresses = Addresses(
            _port(found["prefect"], prefect_port), _port(found["mlflow"], mlflow_port)
        )
        for pool in POOLS:
            _check_worker(found[pool], addresses)
        problem = engine_problem()
        with _stopped_on_failure(say) as started:
            for key in ("prefect", "mlflow"):
                _start(found[key], addresses, started, say)
            _wait([found["prefect"], found["mlflow"]], addresses, _SERVER_SECONDS)
            create_pools(addresses.api)
            bury_lost_trainings(addresses.api, say)
            with Deploying(addresses, say) as deploying:
                for pool in POOLS:
                    if pool == "docker-cpu" and problem and not found[pool].process.leader():
                        say(
                            f"worker {pool} is not started. {problem} Start Docker, then `hgt up`"
                            " again."
                        )
                        continue
                    # without an engine the live containers are unknown
                    if not (problem and found[pool].process.leader()):
                        bury_lost_runs(found[pool], addresses.api, say)
                    _start(found[pool], addresses, started, say)
                _wait(started, addresses, _WORKER_SECONDS)
                deploying.finish(say)
    say("\n" + _next_steps(addresses))


def _port(server: Service, wanted: int | None) -> int:
    """The port of the server. Raises InputError when the wanted one is not possible."""
    before = server.port()
    if before and server.process.leader():
        if wanted not in (None, before):
            raise InputError(
                f"The {server.title} runs on port {before} already. Run `hgt down` first to move it"
                f" to {wanted}."
            )
        return before
    server.process.kill()  # child processes of a dead server may use the port
    port = wanted or before or server.default_port
    if _is_taken(port):
        raise InputError(
            f"Port {port} of {HOST} is taken by another program. Choose a port for the"
            f" {server.title} with {server.option}."
        )
    return port


def _is_taken(port: int) -> bool:
    with socket.socket() as s:
        s.settimeout(1.0)
        # also finds a program on all addresses, which macOS would let us bind beside
        if s.connect_ex((HOST, port)) == 0:
            return True
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((HOST, port))
        except OSError:
            return True
    return False


def _check_worker(worker: Service, addresses: Addresses) -> None:
    record = worker.process.record()
    if record and worker.process.leader() and record.settings != worker.settings(addresses):
        raise InputError(
            f"The {worker.title} was started for other ports ({record.settings}). Run `hgt down`"
            " first."
        )


def _start(service: Service, addresses: Addresses, started: list[Service], say: Say) -> None:
    if service.process.leader():
        say(f"{service.title} runs already")
        return
    started.append(service)  # before the start, so that Ctrl-C always stops it
    record = service.process.start(
        service.command(addresses),
        environment(addresses, is_client=service.is_worker),
        service.settings(addresses),
    )
    say(f"{service.title} started (pid {record.pid})")


def _wait(awaited: list[Service], addresses: Addresses, seconds: float) -> None:
    """Wait until all answer. Raises HgtError when one ends or does not answer in time."""
    deadline = time.monotonic() + seconds
    while ill := [service for service in awaited if not service.is_well(addresses.api)]:
        for service in ill:
            if service.process.leader() is None:
                said = "\n".join(
                    service.process.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
                )
                raise HgtError(f"The {service.title} ended while it started. Its log ends:\n{said}")
        if time.monotonic() > deadline:
            raise HgtError(
                f"The {ill[0].title} does not answer after {seconds:.0f} s. See"
                f" {ill[0].process.log}, then run `hgt down`."
            )
        time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def _stopped_on_failure(say: Say) -> Iterator[list[Service]]:
    started: list[Service] = []
    try:
        yield started
    except BaseException as error:
        for service in reversed(started):
            service.process.stop(STOP_SECONDS[service.key])
            say(f"{service.title} stopped again")
        if isinstance(error, NO_ANSWER):
            raise HgtError(
                f"The Prefect server stopped answering ({error}). See its log in"
                f" {services_folder()}."
            ) from error
        raise


def _next_steps(addresses: Addresses) -> str:
    rows = [
        ["Prefect UI", addresses.prefect],
        ["MLflow UI", addresses.mlflow],
        ["HGT_HOME", str(hgt_home())],
        ["logs", str(services_folder())],
    ]
    no_proxy = os.environ.get("NO_PROXY") if getproxies_environment().keys() - {"no"} else None
    direct = (
        f"\n  export NO_PROXY={shlex.quote(no_proxy)} no_proxy={shlex.quote(no_proxy)}"
        if no_proxy
        else ""
    )
    return f"""{table(rows)}

Try:
  export PREFECT_API_URL={addresses.api}{direct}
  {_prefect()} deployment run '{DEPLOYMENTS[0]}' -p kg=/path/to/kg.csv
`hgt train` finds the server by itself. `hgt status` shows the services, `hgt down` stops them."""


def _prefect() -> str:
    """Prefect's command, as the user calls it from the current folder."""
    ours, found = Path(sys.executable).with_name("prefect"), shutil.which("prefect")
    if found and Path(found).resolve() == ours.resolve():
        return "prefect"
    return shlex.quote(
        str(ours.relative_to(Path.cwd()) if ours.is_relative_to(Path.cwd()) else ours)
    )
