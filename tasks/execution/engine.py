"""The Docker engine: its address, the user of its containers, and the removal of a container.

Imports only the Docker SDK, so that container_guard.py stays small.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Any

import docker
import docker.context
from docker.errors import DockerException
from docker.models.containers import Container

# the SDK also raises errors of `requests`, which are OSErrors
EngineError = (DockerException, OSError)
_STOP_SECONDS = 5


def engine_address() -> str:
    """DOCKER_HOST, or the address of the `docker` command's current context.

    Docker Desktop's context is a socket in the home folder.
    """
    if host := os.environ.get("DOCKER_HOST"):
        return host
    context = None
    with contextlib.suppress(DockerException, OSError, ValueError):
        context = docker.context.ContextAPI.get_current_context()
    return str(context.Host) if context and context.Host else "unix:///var/run/docker.sock"


def connect(timeout_seconds: float) -> docker.DockerClient:
    """A client that has reached the engine. Raises one of EngineError.

    timeout_seconds: limit of each of its calls
    """
    address = engine_address()
    if address.startswith("unix://"):
        # docker 7.2.0 does not close a socket that fails to connect
        with socket.socket(socket.AF_UNIX) as listening:
            listening.settimeout(timeout_seconds)
            listening.connect(address.removeprefix("unix://"))
    if "DOCKER_HOST" in os.environ:
        # with DOCKER_TLS_VERIFY and DOCKER_CERT_PATH
        return docker.from_env(timeout=timeout_seconds)
    return docker.DockerClient(base_url=address, timeout=timeout_seconds)


def user_in_containers(info: Mapping[str, Any]) -> str:
    """uid:gid of the calling user. In a rootless engine root is the calling user."""
    rootless = any("rootless" in option for option in info.get("SecurityOptions") or ())
    return "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"


def remove(container: Container) -> None:
    """Stop the container, kill it after 5 s, remove it. Ignores a missing container or engine."""
    with contextlib.suppress(*EngineError):
        container.stop(timeout=_STOP_SECONDS)
    with contextlib.suppress(*EngineError):
        container.remove(force=True, v=True)
