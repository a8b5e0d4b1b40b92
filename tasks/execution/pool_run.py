"""Trains a run on the CPU worker of a Prefect server.

The deployment `train-on-cpu/docker` runs as a sub-flow of the task that dispatches it. Prefect
reports that the run ended, the container whether it was killed, and the trainer's error event the
reason.
"""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments import run_deployment

from hgt.device.out_of_memory import ProgramEnd, memory_death
from hgt.errors import HgtError, OutOfMemory
from hgt.run.events import EventReader
from hgt.run.folder import RunFolder
from tasks.execution.dispatched import Dispatched
from tasks.execution.image import image_name
from tasks.execution.outcome import (
    Event,
    OnEvent,
    failure,
    follow,
    killed_container,
    killed_for_memory,
)
from tasks.execution.pool import DEPLOYMENT, NotStarted, explained_silence


def run_on_pool(folder: RunFolder, on_event: OnEvent, memory_bytes: int) -> None:
    """Train the run on the worker of the work pool.

    folder: the run folder
    on_event: called with every new event
    memory_bytes: memory limit of the container

    Raises NotStarted (after START_SECONDS at the latest), OutOfMemory or HgtError. Any exception
    in this process ends the dispatched run and removes its container within 15 s.
    """
    events = EventReader(folder.events)
    events.skip_to_end()
    run_id = folder.path.name
    inside = f"/hgt/runs/{run_id}"
    job = {
        # the image that was checked, not the one that `hgt up` saw
        "image": image_name(),
        # the run folder, and nothing else of the host
        "volumes": [f"{folder.path}:{inside}", f"{folder.graph}:{inside}/graph:ro"],
        "mem_limit": str(memory_bytes),
        "memswap_limit": str(memory_bytes),
    }
    with (
        get_client(sync_client=True) as client,
        ThreadPoolExecutor(1, thread_name_prefix="dispatch") as server,
    ):
        # with Prefect's context the run becomes a sub-flow
        asked = server.submit(copy_context().run, _dispatch, client, run_id, job)
        try:
            with explained_silence():
                dispatched = asked.result()
            error = follow(events, dispatched.is_running, on_event)
        except BaseException:
            if asked.exception() is None:
                asked.result().cancel()
            raise
        killed = dispatched.killed()
        dispatched.remove_containers()
    if not dispatched.state.is_completed():
        container_end = killed and killed_container(killed, memory_bytes)
        raise _failure(folder, dispatched.flow_run, dispatched.state, error, container_end)


def _dispatch(client: SyncPrefectClient, run_id: str, job: dict[str, str]) -> Dispatched:
    """Create the flow run. Runs in a thread, where no signal can interrupt it.

    An interrupted call could leave a flow run that nobody knows. The idempotency key lets Prefect's
    client repeat the request after a lost answer without a second flow run.
    """
    run = run_deployment(
        DEPLOYMENT,
        parameters={"run": run_id},
        job_variables=job,
        timeout=0,
        flow_run_name=f"{run_id}-cpu",
        idempotency_key=secrets.token_hex(8),
    )
    return Dispatched(client, run)


def _failure(
    folder: RunFolder, run: FlowRun, state: State[Any], error: Event | None, killed: str | None
) -> HgtError:
    said = f"{state.name}: {state.message}" if state.message else str(state.name)
    if error is not None:
        return failure(
            "train",
            folder,
            ProgramEnd(OutOfMemory.exit_code if error["out_of_memory"] else 1, error=error),
        )
    if state.is_cancelled():
        return HgtError(
            f"The CPU worker's run was cancelled in Prefect ({said}). Resume it at any time."
        )
    if killed or memory_death(ProgramEnd(said=said)):
        how = (
            f"container {killed}" if killed else f"run was killed, most likely for memory ({said})"
        )
        return killed_for_memory(
            "train", folder, f"The CPU worker's {how}. Resume with a larger --docker-memory.", "cpu"
        )
    if run.run_count == 0:  # prefect 3.8.8 gives a crashed run a start time, too
        return NotStarted(f"The CPU worker could not start the run ({said}).")
    return HgtError(
        f"The CPU worker's run ended without a message of the trainer ({said}). See the worker's"
        " log (`hgt status` shows its path)."
    )
