"""The containers of the Docker work pool's worker, and their engine."""

from __future__ import annotations

import contextlib
from typing import Any

import docker
from docker.models.containers import Container

from tasks.execution.engine import EngineError, connect, remove
from tasks.home import hgt_home

_LABEL = "hgt.services"  # set in prefect.yaml; its value is HGT_HOME
_FLOW_RUN = "io.prefect.flow-run-id"
_PING_SECONDS, _ENGINE_SECONDS = 3.0, 30.0


def engine_problem() -> str | None:
    """Why there is no Docker engine, in a sentence; None when one answers."""
    try:
        with contextlib.closing(connect(_PING_SECONDS)) as engine:
            engine.ping()
    except EngineError as error:
        return f"No Docker engine answers ({error or type(error).__name__})."
    return None


def engine_info() -> dict[str, Any]:
    """The engine's description of itself; empty when none answers."""
    with contextlib.suppress(*EngineError), contextlib.closing(connect(_PING_SECONDS)) as engine:
        return dict(engine.info())
    return {}


def running_flow_runs() -> set[str]:
    """Ids of the flow runs in running containers."""
    with contextlib.suppress(*EngineError), contextlib.closing(connect(_ENGINE_SECONDS)) as engine:
        return {
            container.labels.get(_FLOW_RUN, "") for container in _ours(engine, all_states=False)
        }
    return set()


def remove_containers() -> int:
    """Stop and remove the containers of this HGT_HOME's worker, and return their number."""
    with contextlib.suppress(*EngineError), contextlib.closing(connect(_ENGINE_SECONDS)) as engine:
        left = _ours(engine, all_states=True)
        for container in left:
            remove(container)
        return len(left)
    return 0


def _ours(engine: docker.DockerClient, all_states: bool) -> list[Container]:
    return list(
        engine.containers.list(
            all=all_states, filters={"label": f"{_LABEL}={hgt_home()}"}, ignore_removed=True
        )
    )
