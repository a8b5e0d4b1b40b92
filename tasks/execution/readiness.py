"""Whether Docker can run the CPU worker now, and calls of its engine that explain their errors.

In: the engine at `engine_address`. Out: a sentence with its remedy, or an HgtError. Knows no run.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import docker
from docker.errors import DockerException, ImageNotFound, NotFound

from hgt.errors import HgtError, InputError
from tasks.execution.engine import EngineError, connect, engine_address
from tasks.execution.image import SOURCE_LABEL, image_name, source_hash

_PREFLIGHT_SECONDS = 1.5
_ENGINE_SECONDS = 60.0
DESKTOP_MEMORY = "Docker Desktop's own limit is under Settings, Resources"
P, T = ParamSpec("P"), TypeVar("T")


def unavailable(required_bytes: int | None = None) -> str | None:
    """Why Docker cannot start a container of the CPU worker, with the remedy; None when it can.

    required_bytes: memory of the run, compared with the memory of the engine

    Never raises. An engine that hangs costs 2 s.
    """
    try:
        with contextlib.closing(connect(_PREFLIGHT_SECONDS)) as client:
            total_bytes = int(client.info()["MemTotal"])
            labels = client.images.get(image_name()).labels
    except ImageNotFound as error:
        return _explained(error)
    except EngineError as error:
        return _unreachable(error)
    except (ValueError, LookupError, ImportError) as error:
        return (
            f"Docker at {engine_address()} cannot be used ({error!r}): set DOCKER_HOST to the"
            " address of an engine on this machine."
        )
    if not _is_current(labels.get(SOURCE_LABEL)):
        return (
            f"The image {image_name()} was built from other sources: build it again with `make"
            " image`."
        )
    if required_bytes is not None and total_bytes < required_bytes:
        return (
            f"Docker has {_gb(total_bytes)} of memory and the run needs {_gb(required_bytes)}: give"
            f" Docker more memory ({DESKTOP_MEMORY})."
        )
    return None


def refuse_unavailable() -> None:
    """Raises InputError when Docker cannot start a container of the CPU worker."""
    if problem := unavailable():
        raise InputError(f"The CPU worker in Docker cannot be started: {problem}")


def engine_memory_bytes() -> int:
    """Memory of the machine that runs the containers: this one, or Docker Desktop's virtual one.

    Raises HgtError without an engine.
    """
    with engine() as client:
        return int(asked(client.info)["MemTotal"])


@contextmanager
def engine() -> Iterator[docker.DockerClient]:
    try:
        client = connect(_ENGINE_SECONDS)
    except EngineError as error:
        raise HgtError(_unreachable(error)) from error
    with contextlib.closing(client):
        yield client


def asked(call: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call the engine. An error becomes an HgtError with its remedy."""
    try:
        return call(*arguments, **options)
    except EngineError as error:
        raise HgtError(_explained(error)) from error


def _explained(error: Exception) -> str:
    if isinstance(error, ImageNotFound):
        return f"The image {image_name()} of the CPU worker is missing: build it with `make image`."
    if isinstance(error, NotFound):
        return "Another program removed the running container: continue with `hgt train --resume`."
    if isinstance(error, DockerException):
        return (
            f"A Docker command failed ({error}): solve that problem, then continue with `hgt train"
            " --resume`."
        )
    return (
        f"The Docker engine stopped answering ({error}): start it, then continue with `hgt train"
        " --resume`."
    )


def _is_current(built_from: str | None) -> bool:
    try:
        return built_from == source_hash()
    except OSError:  # the checkout is incomplete
        return False


def _unreachable(error: Exception) -> str:
    address = engine_address()
    socket = Path(address.removeprefix("unix://"))
    if isinstance(error, PermissionError):
        return (
            f"You may not use the Docker engine at {address} (permission denied): add yourself to"
            " the group that owns that socket."
        )
    if address.startswith("unix://") and not socket.exists() and shutil.which("docker") is None:
        return "Docker is not installed: install Docker Desktop, or Docker Engine on Linux."
    start = (
        "start Docker Desktop"
        if sys.platform == "darwin"
        else "start it, as with `sudo systemctl start docker`"
    )
    return f"The Docker engine does not answer at {address}: {start}."


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
