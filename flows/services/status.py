"""`hgt status`: state, address and start of each service."""

from __future__ import annotations

import time

from flows.services.containers import engine_problem
from flows.services.deployments import DEPLOYMENTS, missing_deployments
from flows.services.local import FRESH_SECONDS, POOLS, Say, Service, services, table, worker_name
from flows.services.server_requests import NO_ANSWER, ask, heartbeat_ages

_RUNNING, _UNHEALTHY, _STOPPED, _NO_ENGINE = "running", "unhealthy", "stopped", "no Docker engine"


def status(say: Say) -> bool:
    """Show the services and return whether all run.

    The worker for Docker may be missing when there is no Docker engine.
    """
    found = services()
    prefect = found["prefect"]
    api = f"{prefect.address()}/api"
    states = {key: _state(service, api) for key, service in found.items()}
    say(
        table(
            [
                ["service", "state", "pid", "address", "since", "log"],
                *(_row(s, states[s.key]) for s in found.values()),
            ]
        )
    )
    missing: list[str] = []
    if states["prefect"] == _RUNNING:
        missing = missing_deployments(api)
        say(
            "\n"
            + table(
                [
                    ["work pool", "state", "worker's last heartbeat"],
                    *([pool, *_pool(pool, api)] for pool in POOLS),
                ]
            )
        )
        say(
            "\n"
            + table(
                [
                    ["deployment", "state"],
                    *([name, "absent" if name in missing else "ready"] for name in DEPLOYMENTS),
                ]
            )
        )
        say(f"\nexport PREFECT_API_URL={api}")
    all_well = set(states.values()) <= {_RUNNING, _NO_ENGINE} and not missing
    if _UNHEALTHY in states.values():
        say("\nAn unhealthy service needs `hgt down`, then `hgt up`.")
    elif not all_well:
        say("\n`hgt up` starts missing services.")
    return all_well


def _state(service: Service, api: str) -> str:
    if service.process.leader():
        return _RUNNING if service.is_well(api) else _UNHEALTHY
    return _NO_ENGINE if service.key == "docker-cpu" and engine_problem() else _STOPPED


def _row(service: Service, state: str) -> list[str]:
    leader, record = service.process.leader(), service.process.record()
    since = (
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.started))
        if leader and record
        else "-"
    )
    return [
        service.title,
        state,
        str(leader.pid) if leader else "-",
        service.address() or "-",
        since,
        str(service.process.log),
    ]


def _pool(pool: str, api: str) -> list[str]:
    try:
        state = "paused" if ask(f"{api}/work_pools/{pool}")["is_paused"] else "ready"
    except NO_ANSWER:
        return ["absent", "-"]
    age = heartbeat_ages(pool, api).get(worker_name(pool))
    return [
        state,
        (
            "never"
            if age is None
            else f"{age:.0f} s ago{'' if age < FRESH_SECONDS else ', no worker polls'}"
        ),
    ]
