"""Runs a program of the library in a container of the CPU worker's image, as child.py does in a
process, and follows its `events.jsonl`.

The container runs as the calling user, without network and privileges, with a read-only root. It
sees only its run folder, under the path of the host. It ends when its parent ends, for whatever
reason.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
from docker.models.containers import Container
from docker.types import LogConfig, Mount

from hgt.device.out_of_memory import MemoryDeath, ProgramEnd, memory_death
from hgt.errors import HgtError
from hgt.run.events import EventReader
from tasks.execution.container_guard import GUARD_LABEL
from tasks.execution.engine import remove, user_in_containers
from tasks.execution.image import image_name
from tasks.execution.readiness import DESKTOP_MEMORY, asked, engine

if TYPE_CHECKING:  # imports torch: 2 s that a message about a missing engine saves
    from hgt.run.folder import RunFolder
    from tasks.execution.outcome import Event, OnEvent

RUN_LABEL = "kg-hgt-embeddings.run"
_CHECKOUT = Path(__file__).resolve().parents[2]
_MAX_PIDS = 1024  # counts threads: several pools with one thread per core


def run_container(
    program: str, folder: RunFolder, on_event: OnEvent, memory_bytes: int, *arguments: str
) -> None:
    """Run `python -m hgt.<program> <folder> <arguments>` in a container to its end.

    program: train or embed; the image lacks the packages of an evaluation
    folder: the run folder
    on_event: called with every new event
    memory_bytes: memory limit of the container; it gets no swap
    arguments: more arguments of the program

    Raises OutOfMemory, InputError or HgtError with the message of the program, or HgtError with
    the message of Docker. Any exception in this process (Ctrl-C, a cancelled flow) removes the
    container within 10 s. The last checkpoint stays valid.
    """
    from tasks.execution.outcome import MAX_OUTPUT, follow

    folder = replace(folder, path=folder.path.resolve())
    remove_leftovers(folder.path.name)
    events = EventReader(folder.events)
    events.skip_to_end()
    with (
        engine() as client,
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
    """The exception for a container that failed."""
    from tasks.execution.outcome import failure, killed_container, killed_for_memory

    how = memory_death(end)
    if how not in (MemoryDeath.OVER_LIMIT, MemoryDeath.KILLED):
        return failure(program, folder, end)
    more = f"Resume with a larger --docker-memory ({DESKTOP_MEMORY})."
    message = f"The {program} container {killed_container(how, limit_bytes)}. {more}"
    return killed_for_memory(program, folder, message, device="cpu")


def remove_leftovers(run_id: str, even_running: bool = False) -> int:
    """Remove the containers of the run that a killed parent left behind, and return their number.

    even_running: also remove running ones. These have a parent, or stop by themselves within a
        minute.

    Raises HgtError without an engine.
    """
    with engine() as client:
        found = asked(
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
    """A running container, removed at the end of the block.

    A thread creates, starts and removes it, because no signal can interrupt a call there. An
    interrupted `create` could leave a container that nobody knows.
    """
    heartbeat = folder.path / f".heartbeat-{secrets.token_hex(4)}"
    options = _options(client, program, folder, heartbeat, memory_bytes, arguments)
    with (
        ThreadPoolExecutor(1, thread_name_prefix="docker") as worker,
        contextlib.ExitStack() as last,
    ):
        last.enter_context(_guarded(heartbeat))
        created = worker.submit(asked, client.containers.create, image_name(), **options)
        last.callback(lambda: worker.submit(_remove, created).result())
        container: Container = created.result()
        worker.submit(asked, container.start).result()
        yield container


def _remove(created: Future[Container]) -> None:
    if created.exception() is None:
        remove(created.result())


@contextmanager
def _guarded(heartbeat: Path) -> Iterator[None]:
    """Run container_guard.py, which removes the container when signal 9 kills this process."""
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
    """The options of `containers.create`."""
    path = folder.path
    read_only = [p for p in (folder.graph, folder.split, folder.config, folder.plan) if p.exists()]
    threads = {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ}
    return {
        "command": ["python", "-m", f"hgt.{program}", str(path), *arguments],
        "environment": {"HGT_HEARTBEAT": str(heartbeat)} | threads,
        "labels": {RUN_LABEL: path.name, GUARD_LABEL: heartbeat.name},
        "mounts": [_bind(path, read_only=False), *(_bind(p, read_only=True) for p in read_only)],
        "user": user_in_containers(asked(client.info)),
        "read_only": True,
        "tmpfs": {"/tmp": "size=256m,mode=1777"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "network_mode": "none",
        "pids_limit": _MAX_PIDS,
        "mem_limit": memory_bytes,
        "memswap_limit": memory_bytes,  # memory and swap together: no swap
        "log_config": LogConfig(type=LogConfig.types.JSON, config={"max-size": "10m"}),
        "auto_remove": False,  # True would lose OOMKilled and the output
    }


def _bind(path: Path, read_only: bool) -> Mount:
    return Mount(target=str(path), source=str(path), type="bind", read_only=read_only)


def _state(container: Container) -> dict[str, Any]:
    """The container's state: Running, ExitCode, OOMKilled, ..."""
    container_id, inspect = container.id, container.client.api.inspect_container
    return dict(asked(inspect, container_id)["State"])


def _output(container: Container) -> str:
    return str(asked(container.logs, tail=2_000).decode(errors="replace"))
