"""Runs one of the library's programs in a container of the CPU worker's image and follows its
`events.jsonl`: child.py's counterpart.

The container runs as the caller, without network, without privileges, with a read-only root, and
sees its run folder alone, under the path that it has on the host. Whatever ends the parent also
ends the container.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import docker
from docker.errors import DockerException, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.types import LogConfig, Mount

from hgt.device.out_of_memory import MemoryDeath, ProgramEnd, memory_death
from hgt.errors import HgtError, InputError
from hgt.run.events import EventReader
from tasks.execution.container_guard import GUARD_LABEL
from tasks.execution.engine import EngineError, connect, engine_address, remove, user_in_containers
from tasks.execution.image import SOURCE_LABEL, image_name, source_hash

if TYPE_CHECKING:  # with torch: 2 s, which nobody waits for who is told that there is no engine
    from hgt.run.folder import RunFolder
    from tasks.execution.outcome import Event, OnEvent

RUN_LABEL = "kg-hgt-embeddings.run"
_CHECKOUT = Path(__file__).resolve().parents[2]
_PREFLIGHT_SECONDS = 1.5
_ENGINE_SECONDS = 60.0
_MAX_PIDS = 1024  # threads count too: several pools of one thread per core each
_DESKTOP_MEMORY = "Docker Desktop's own limit is under Settings, Resources"
P, T = ParamSpec("P"), TypeVar("T")


def unavailable(required_bytes: int | None = None) -> str | None:
    """Why no container of the CPU worker can be started now, in one sentence with its remedy; None
    when one can.

    required_bytes: memory that the run needs, compared with the engine's. Never raises; an engine
        that hangs costs 2 s.
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
            f"Docker at {engine_address()} cannot be used ({error!r}): give DOCKER_HOST the address"
            " of an engine on this machine."
        )
    if not _is_current(labels.get(SOURCE_LABEL)):
        return (
            f"The image {image_name()} was built from other sources than these: build it again with"
            " `make image`."
        )
    if required_bytes is not None and total_bytes < required_bytes:
        return (
            f"Docker has {_gb(total_bytes)} of memory and the run needs {_gb(required_bytes)}: give"
            f" Docker more memory ({_DESKTOP_MEMORY})."
        )
    return None


def refuse_unavailable() -> None:
    """Raises InputError where no container of the CPU worker can be started now."""
    if problem := unavailable():
        raise InputError(f"The CPU worker in Docker cannot be started: {problem}")


def engine_memory_bytes() -> int:
    """Memory of the machine that containers run on: this one, or Docker Desktop's virtual one.
    Raises HgtError without an engine.
    """
    with _engine() as client:
        return int(_asked(client.info)["MemTotal"])


def run_container(
    program: str, folder: RunFolder, on_event: OnEvent, memory_bytes: int, *arguments: str
) -> None:
    """Run `python -m hgt.<program> <folder> <arguments>` in a container to its end, calling
    `on_event` for every new event.

    program: train or embed; the image lacks what an evaluation needs. memory_bytes: the container's
        limit, without swap. Raises OutOfMemory, InputError or HgtError with the program's own
        message, or HgtError with what Docker said. Any exception here (Ctrl-C, a cancelled flow)
        removes the container within 10 s; its last checkpoint is whole.
    """
    from tasks.execution.outcome import MAX_OUTPUT, follow

    folder = replace(folder, path=folder.path.resolve())
    remove_leftovers(folder.path.name)
    events = EventReader(folder.events)
    events.skip_to_end()
    with (
        _engine() as client,
        _started(client, program, folder, memory_bytes, arguments) as container,
    ):

        def is_running() -> bool:
            return bool(_state(container)["Running"])

        error = follow(events, is_running, on_event)
        state, output = _state(container), _output(container)[-MAX_OUTPUT:]
    if state["ExitCode"]:
        raise _failure(program, folder, _end(state, error, output), memory_bytes)


def _end(state: dict[str, Any], error: Event | None, output: str) -> ProgramEnd:
    """state: see `_state`"""
    return ProgramEnd(
        exit_code=int(state["ExitCode"]),
        output=output,
        error=error,
        in_container=True,
        over_limit=bool(state["OOMKilled"]),
    )


def _failure(program: str, folder: RunFolder, end: ProgramEnd, limit_bytes: int) -> HgtError:
    """The exception for a container that ended in this way."""
    from tasks.execution.outcome import failure, killed_container, killed_for_memory

    how = memory_death(end)
    if how not in (MemoryDeath.OVER_LIMIT, MemoryDeath.KILLED):
        return failure(program, folder, end)
    more = f"Resume with more, --docker-memory ({_DESKTOP_MEMORY})."
    message = f"The {program} container {killed_container(how, limit_bytes)}. {more}"
    return killed_for_memory(program, folder, message, device="cpu")


def remove_leftovers(run_id: str, even_running: bool = False) -> int:
    """Remove the run's containers that a killed parent left behind; returns how many. Raises
    HgtError without an engine.

    One that still runs has a parent somewhere, or stops on its own within a minute: it stays unless
    even_running.
    """
    with _engine() as client:
        found = _asked(
            client.containers.list,
            all=True,
            filters={"label": f"{RUN_LABEL}={run_id}"},
            ignore_removed=True,
        )
        left = [
            container
            for container in found
            if even_running or container.status in ("exited", "dead")
        ]
        for container in left:
            remove(container)
    return len(left)


@contextmanager
def _started(
    client: docker.DockerClient,
    program: str,
    folder: RunFolder,
    memory_bytes: int,
    arguments: tuple[str, ...],
) -> Iterator[Container]:
    """A running container, gone at the end of the block whatever ends it.

    It is created, started and removed in a thread, where no signal can break a call off: an
    interrupted `create` may well have made a container that nobody knows.
    """
    heartbeat = folder.path / f".heartbeat-{secrets.token_hex(4)}"
    options = _options(client, program, folder, heartbeat, memory_bytes, arguments)
    with (
        ThreadPoolExecutor(1, thread_name_prefix="docker") as engine,
        contextlib.ExitStack() as last,
    ):
        last.enter_context(_guarded(heartbeat))
        created = engine.submit(_asked, client.containers.create, image_name(), **options)
        last.callback(lambda: engine.submit(_remove, created).result())
        container: Container = created.result()
        engine.submit(_asked, container.start).result()
        yield container


def _remove(created: Future[Container]) -> None:
    if created.exception() is None:
        remove(created.result())


@contextmanager
def _guarded(heartbeat: Path) -> Iterator[None]:
    """container_guard.py beside this process: it removes the container when this process is killed
    with signal 9.
    """
    heartbeat.touch()
    command = [sys.executable, "-m", "tasks.execution.container_guard", str(heartbeat)]
    guard = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=_CHECKOUT,
        start_new_session=True,
    )
    try:
        yield
    finally:
        guard.kill()
        guard.communicate()
        heartbeat.unlink(missing_ok=True)


def _options(
    client: docker.DockerClient,
    program: str,
    folder: RunFolder,
    heartbeat: Path,
    memory_bytes: int,
    arguments: tuple[str, ...],
) -> dict[str, Any]:
    """Of `containers.create`."""
    path = folder.path
    read_only = [p for p in (folder.graph, folder.split, folder.config, folder.plan) if p.exists()]
    threads = {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ}
    return {
        "command": ["python", "-m", f"hgt.{program}", str(path), *arguments],
        "environment": {"HGT_HEARTBEAT": str(heartbeat)} | threads,
        "labels": {RUN_LABEL: path.name, GUARD_LABEL: heartbeat.name},
        "mounts": [_bind(path, read_only=False), *(_bind(p, read_only=True) for p in read_only)],
        "user": user_in_containers(_asked(client.info)),
        "read_only": True,
        "tmpfs": {"/tmp": "size=256m,mode=1777"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "network_mode": "none",
        "pids_limit": _MAX_PIDS,
        "mem_limit": memory_bytes,
        "memswap_limit": memory_bytes,  # memory and swap together: no swap
        "log_config": LogConfig(type=LogConfig.types.JSON, config={"max-size": "10m"}),
        "auto_remove": False,  # it would lose OOMKilled and the output
    }


def _bind(path: Path, read_only: bool) -> Mount:
    return Mount(target=str(path), source=str(path), type="bind", read_only=read_only)


def _state(container: Container) -> dict[str, Any]:
    """Running, ExitCode, OOMKilled, ..."""
    container_id, inspect = container.id, container.client.api.inspect_container
    return dict(_asked(inspect, container_id)["State"])


def _output(container: Container) -> str:
    return str(_asked(container.logs, tail=2_000).decode(errors="replace"))


@contextmanager
def _engine() -> Iterator[docker.DockerClient]:
    try:
        client = connect(_ENGINE_SECONDS)
    except EngineError as error:
        raise HgtError(_unreachable(error)) from error
    with contextlib.closing(client):
        yield client


def _asked(call: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """A call of the engine; what goes wrong becomes an HgtError that says what to do."""
    try:
        return call(*arguments, **options)
    except EngineError as error:
        raise HgtError(_explained(error)) from error


def _explained(error: Exception) -> str:
    if isinstance(error, ImageNotFound):
        return (
            f"The image {image_name()} of the CPU worker is not there: build it with `make image`."
        )
    if isinstance(error, NotFound):
        return (
            "The container was removed by somebody else while it ran: go on with `hgt train"
            " --resume`."
        )
    if isinstance(error, DockerException):
        return (
            f"Docker could not do what was asked ({error}): mend that, then go on with `hgt train"
            " --resume`."
        )
    return (
        f"The Docker engine stopped answering ({error}): start it, then go on with `hgt train"
        " --resume`."
    )


def _is_current(built_from: str | None) -> bool:
    try:
        return built_from == source_hash()
    except OSError:  # no whole checkout
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
