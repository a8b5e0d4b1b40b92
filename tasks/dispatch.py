"""The CPU worker behind a Prefect server: the deployment `train-on-cpu/docker`, run as a sub-flow of the task that dispatches it.

Prefect's own message says how a container ended; the trainer's error event, where it wrote one, says why.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import anyio
import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State, Worker
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling, Pending

from hgt.errors import HgtError, OutOfMemory
from hgt.events import EventReader
from hgt.run_folder import RunFolder
from tasks.engine import EngineError, connect, remove
from tasks.outcome import Event, OnEvent, failure, follow, killed_for_memory
from tasks.reporting import say

DEPLOYMENT, POOL = "train-on-cpu/docker", "docker-cpu"
START_SECONDS = 180.0  # from dispatch to a running flow: a container starts in 5 s, a busy worker may take its time
HEARTBEAT_SECONDS = 60.0  # a worker that was not heard of for longer is gone, whatever its state says
STOP_SECONDS = 15.0
_ASK_SECONDS = 2.0
_ENGINE_SECONDS = 10.0
_FLOW_RUN_LABEL = "io.prefect.flow-run-id"  # set by prefect-docker


def has_server() -> bool:
    """Whether the flow runs against a server of the user's, rather than Prefect's temporary one."""
    return bool(os.environ.get("PREFECT_API_URL"))


def unavailable() -> str | None:
    """What keeps the work pool from taking a run, with the remedy; None when nothing does."""
    try:
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name(DEPLOYMENT)
            pool = client.read_work_pool(deployment.work_pool_name or POOL)
    except ObjectNotFound:
        return f"The Prefect server has no deployment {DEPLOYMENT}. Run `hgt up`, or `prefect deploy --all` in the checkout."
    except (httpx.HTTPError, OSError) as error:
        return f"The Prefect server at {os.environ.get('PREFECT_API_URL')} does not answer ({type(error).__name__}). Run `hgt up`."
    if pool.is_paused:
        return f"The work pool {pool.name} is paused. Run `prefect work-pool resume {pool.name}`."
    ages = [_age(w) for w in anyio.run(_workers, pool.name)]
    if not [age for age in ages if age < HEARTBEAT_SECONDS]:
        seen = f"the last was heard of {min(ages):.0f} s ago" if ages else "none was ever there"
        return f"The work pool {pool.name} has no running worker ({seen}). Run `hgt up`, or `prefect worker start --pool {pool.name}`."
    return None


async def _workers(pool: str) -> list[Worker]:
    async with get_client() as client:
        return await client.read_workers_for_work_pool(pool)


def _age(worker: Worker) -> float:
    seen = worker.last_heartbeat_time
    return (datetime.now(UTC) - seen).total_seconds() if seen else float("inf")


def run_on_pool(folder: RunFolder, on_event: OnEvent, memory_bytes: int) -> None:
    """Train the run folder on the work pool's worker, calling `on_event` for every new event. memory_bytes: the container's limit.

    Raises OutOfMemory or HgtError, after at most START_SECONDS where nothing starts. Any exception here cancels the dispatched run and
    waits until its container is gone.
    """
    events = EventReader(folder.events)
    events.skip_to_end()
    run_id = folder.path.name
    inside = f"/hgt/runs/{run_id}"
    job = {
        "volumes": [f"{folder.path}:{inside}", f"{folder.graph}:{inside}/graph:ro"],  # its own folder and nothing else
        "mem_limit": str(memory_bytes),
        "memswap_limit": str(memory_bytes),
    }
    run = run_deployment(DEPLOYMENT, parameters={"run": run_id}, job_variables=job, timeout=0, flow_run_name=f"{run_id}-cpu")
    with get_client(sync_client=True) as client:
        dispatched = _Dispatched(client, run.id)
        try:
            error = follow(events, dispatched.is_running, on_event)
        except BaseException:
            dispatched.cancel()
            raise
        finally:
            _remove_containers(run.id)
    if not dispatched.state.is_completed():
        raise _failure(folder, dispatched.state, error)


def _remove_containers(flow_run: UUID) -> None:
    """The worker keeps its containers, so that their end can be told; here it was told."""
    try:
        with contextlib.closing(connect(_ENGINE_SECONDS)) as client:
            for container in client.containers.list(all=True, filters={"label": f"{_FLOW_RUN_LABEL}={flow_run}"}, ignore_removed=True):
                remove(container)
    except EngineError as error:
        say(f"WARNING: the worker's container could not be removed ({error}); `hgt down` removes it.")


class _Dispatched:
    """A dispatched flow run, asked about every other second."""

    def __init__(self, client: SyncPrefectClient, flow_run: UUID):
        self.client, self.flow_run = client, flow_run
        self.state = Pending()
        self.dispatched = time.monotonic()
        self.asked = -_ASK_SECONDS

    def is_running(self) -> bool:
        """Raises HgtError when the run was not started in time."""
        if time.monotonic() - self.asked > _ASK_SECONDS:
            self.asked = time.monotonic()
            self.state = self.client.read_flow_run(self.flow_run).state or self.state
        waiting = self.state.is_scheduled() or self.state.is_pending()
        if waiting and time.monotonic() - self.dispatched > START_SECONDS:
            raise HgtError(
                f"The CPU worker did not start the run within {START_SECONDS:.0f} s (its state is {self.state.name}). See the worker's log "
                "(`hgt status` names it), then resume."
            )
        return not self.state.is_final()

    def cancel(self) -> None:
        """Have the worker end the run, and wait until it has."""
        self.client.set_flow_run_state(self.flow_run, Cancelling(message="the run that dispatched it was stopped"))
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            state = self.client.read_flow_run(self.flow_run).state
            if state is not None and state.is_final():
                return
            time.sleep(_ASK_SECONDS / 4)


_KILLED = re.compile(r"\b(137|-9)\b|memory")


def _failure(folder: RunFolder, state: State[Any], error: Event | None) -> HgtError:
    said = f"{state.name}: {state.message}" if state.message else state.name
    if error is None and _KILLED.search(state.message or ""):
        return killed_for_memory(
            "train",
            folder,
            f"The CPU worker's container was killed, most likely for memory ({said}). Resume with more, --docker-memory.",
            "cpu",
        )
    if error is None:
        return HgtError(f"The CPU worker's run ended without a word of the trainer ({said}). See the worker's log (`hgt status` names it).")
    return failure("train", folder, OutOfMemory.exit_code if error["out_of_memory"] else 1, error, "")
