"""The CPU worker behind a Prefect server: the deployment `train-on-cpu/docker`, run as a sub-flow
of the task that dispatches it.

Prefect says that a run has ended, its container whether it was killed, and the trainer's error
event, where it wrote one, why. A worker, an engine or a server that is gone says nothing: then the
silence is noticed here.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any

import anyio
import httpx
from docker.models.containers import Container
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, Worker
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Pending

from hgt.device.out_of_memory import MemoryDeath, ProgramEnd, memory_death
from hgt.errors import HgtError, OutOfMemory
from hgt.run.events import EventReader
from hgt.run.folder import RunFolder
from tasks.execution import container
from tasks.execution.engine import EngineError, connect, remove
from tasks.execution.image import image_name
from tasks.execution.outcome import (
    Event,
    OnEvent,
    failure,
    follow,
    killed_container,
    killed_for_memory,
)
from tasks.reporting import say

DEPLOYMENT, POOL = "train-on-cpu/docker", "docker-cpu"
# from dispatch to a running flow, unless HGT_START_SECONDS says otherwise: a container starts in 5
# s
START_SECONDS = 180.0
# a worker that was not heard of for longer, and for three of its heartbeats, is gone, whatever its
# state says
SILENT_SECONDS = 20.0
# of the container's memory: its two Prefect processes (328 MB of their own, 71 MB of files; 3.8.8)
PREFECT_BYTES = 400 << 20
# a running flow whose container cannot be found for longer has ended, whatever its state says
LOST_SECONDS = 30.0
_DEFAULT_HEARTBEAT_SECONDS = 30.0
_LAST_WORD_SECONDS, _LATE_SECONDS = 15.0, 5.0
_POLL_SECONDS, _ASK_SECONDS, _LOOK_SECONDS = 0.5, 2.0, 5.0
_ENGINE_SECONDS = 10.0
_FLOW_RUN_LABEL = "io.prefect.flow-run-id"  # set by prefect-docker
# prefect 3.8.8 raises RuntimeError for an API that it cannot reach
NO_ANSWER = (httpx.HTTPError, OSError, RuntimeError)


class NotStarted(HgtError):
    """The work pool did not start the run, and will not do so later: it can be started
    elsewhere.
    """


def has_server() -> bool:
    """Whether the flow runs against a server of the user's, rather than Prefect's temporary one."""
    return bool(os.environ.get("PREFECT_API_URL"))


def unavailable() -> str | None:
    """What keeps the work pool from taking a run, with the remedy; None when nothing does."""
    try:
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name(DEPLOYMENT)
            pool = client.read_work_pool(deployment.work_pool_name or POOL)
        workers = anyio.run(_workers, pool.name)
    except ObjectNotFound:
        return (
            f"The Prefect server has no deployment {DEPLOYMENT}. Run `hgt up`, or `prefect deploy"
            " --all` in the checkout."
        )
    except NO_ANSWER as error:
        return (
            f"The Prefect server at {os.environ.get('PREFECT_API_URL')} does not answer"
            f" ({type(error).__name__}). Run `hgt up`."
        )
    if pool.is_paused:
        return f"The work pool {pool.name} is paused. Run `prefect work-pool resume {pool.name}`."
    if not any(
        _age(w)
        < max(SILENT_SECONDS, 3 * (w.heartbeat_interval_seconds or _DEFAULT_HEARTBEAT_SECONDS))
        for w in workers
    ):
        seen = (
            f"the last was heard of {min(map(_age, workers)):.0f} s ago"
            if workers
            else "none was ever there"
        )
        return (
            f"The work pool {pool.name} has no running worker ({seen}). Run `hgt up`, or `prefect"
            f" worker start --pool {pool.name}`."
        )
    return None


async def _workers(pool: str) -> list[Worker]:
    async with get_client() as client:
        return await client.read_workers_for_work_pool(pool)


def _age(worker: Worker) -> float:
    seen = worker.last_heartbeat_time
    return (datetime.now(UTC) - seen).total_seconds() if seen else float("inf")


def run_on_pool(folder: RunFolder, on_event: OnEvent, memory_bytes: int) -> None:
    """Train the run folder on the work pool's worker, calling `on_event` for every new event.
    memory_bytes: the container's limit.

    Raises NotStarted (after START_SECONDS at the latest), OutOfMemory or HgtError. Any exception
    here ends the dispatched run and removes its container within 15 s.
    """
    events = EventReader(folder.events)
    events.skip_to_end()
    run_id = folder.path.name
    inside = f"/hgt/runs/{run_id}"
    job = {
        # the one that was found to be there and current, not the one of the time of `hgt up`
        "image": image_name(),
        # its own folder and nothing else
        "volumes": [f"{folder.path}:{inside}", f"{folder.graph}:{inside}/graph:ro"],
        "mem_limit": str(memory_bytes),
        "memswap_limit": str(memory_bytes),
    }
    with (
        get_client(sync_client=True) as client,
        ThreadPoolExecutor(1, thread_name_prefix="dispatch") as server,
    ):
        # Prefect's context: it becomes a sub-flow
        asked = server.submit(copy_context().run, _dispatch, client, run_id, job)
        try:
            with _server_asked():
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


def _dispatch(client: SyncPrefectClient, run_id: str, job: dict[str, str]) -> _Dispatched:
    """Runs in a thread, where no signal can break it off: the server may well have made a run that
    nobody knows.

    The key lets Prefect's client ask again, where an answer was lost, without a second run.
    """
    run = run_deployment(
        DEPLOYMENT,
        parameters={"run": run_id},
        job_variables=job,
        timeout=0,
        flow_run_name=f"{run_id}-cpu",
        idempotency_key=secrets.token_hex(8),
    )
    return _Dispatched(client, run)


@contextlib.contextmanager
def _server_asked() -> Iterator[None]:
    try:
        yield
    except NO_ANSWER as error:
        server = os.environ.get("PREFECT_API_URL")
        raise HgtError(
            f"The Prefect server at {server} stopped answering ({type(error).__name__}). Run `hgt"
            " up`, then resume."
        ) from error


class _Dispatched:
    """A dispatched flow run and its container, asked about every few seconds."""

    def __init__(self, client: SyncPrefectClient, flow_run: FlowRun):
        self.client, self.flow_run = client, flow_run
        self.state: State[Any] = flow_run.state or Pending()
        self.answers = True  # the server, when it was asked last
        self.dispatched = self.asked = self.looked = self.found = time.monotonic()

    def is_running(self) -> bool:
        """Raises NotStarted when nobody starts it, HgtError when its container is lost or the
        server gone.
        """
        now = time.monotonic()
        if now - self.asked > _ASK_SECONDS:
            self.asked = now
            self._ask()
        if now - self.looked > _LOOK_SECONDS and not self.state.is_final():
            self.looked = now
            if self.state.is_scheduled() or self.state.is_pending():
                self._expect_start(now - self.dispatched)
                self.found = now
            else:
                self._expect_container(now)
        return not self.state.is_final()

    def _ask(self) -> None:
        try:
            with _server_asked():
                self.flow_run = self.client.read_flow_run(self.flow_run.id)
        except HgtError:
            self.answers = False
            raise
        self.answers = True
        self.state = self.flow_run.state or self.state

    def _expect_start(self, waited_seconds: float) -> None:
        limit = float(os.environ.get("HGT_START_SECONDS") or START_SECONDS)
        if waited_seconds > limit:
            raise NotStarted(
                f"The CPU worker did not start the run within {limit:.0f} s (its state is"
                f" {self.state.name}). See the worker's log (`hgt status` names it);"
                " HGT_START_SECONDS sets another time."
            )
        if self.state.is_scheduled() and (problem := unavailable()):  # since it was dispatched
            raise NotStarted(problem)

    def _expect_container(self, now: float) -> None:
        """A worker or an engine that was killed reports no end."""
        problem = (
            "The CPU worker's container is gone, and no worker is there to say why. Run `hgt up`,"
            " then resume."
        )
        try:
            with self._containers(status="running") as running:
                self.found = now if running else self.found
        except EngineError:
            problem = (
                f"{container.unavailable() or 'The Docker engine stopped answering.'} Then resume."
            )
        if now - self.found > LOST_SECONDS:
            raise HgtError(problem)

    @contextlib.contextmanager
    def _containers(self, **filters: str) -> Iterator[list[Container]]:
        """Raises one of EngineError."""
        with contextlib.closing(connect(_ENGINE_SECONDS)) as engine:
            label = f"{_FLOW_RUN_LABEL}={self.flow_run.id}"
            yield engine.containers.list(
                all=True, filters={"label": label, **filters}, ignore_removed=True
            )

    def killed(self) -> MemoryDeath | None:
        """How memory killed the container, if it did."""
        with contextlib.suppress(*EngineError), self._containers() as ended:
            states = [each.client.api.inspect_container(each.id)["State"] for each in ended]
            over_limit = any(state["OOMKilled"] for state in states)
            ends = [
                ProgramEnd(s["ExitCode"], in_container=True, over_limit=over_limit) for s in states
            ]
            return next(filter(None, map(memory_death, ends)), None)
        return None

    def cancel(self) -> None:
        """End the run and its container; the worker may be gone, the server or the engine too."""
        tell, begun = contextlib.suppress(HgtError, *NO_ANSWER), self.state.is_running()
        if self.answers:  # else it would be tried again for a minute
            with tell:
                self.client.set_flow_run_state(
                    self.flow_run.id, Cancelling(message="the run that dispatched it was stopped")
                )
        removed = self.remove_containers()
        if not self.answers:
            return
        with tell:
            # a container that we cannot remove has to hear of it
            deadline = time.monotonic() + (0 if removed else _LAST_WORD_SECONDS)
            while not self.state.is_final() and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
                self._ask()
            # the worker does not say so: it may be gone, or takes half a minute
            if not self.state.is_final():
                ended = Cancelled(message="the run that dispatched it was stopped")
                self.client.set_flow_run_state(self.flow_run.id, ended, force=True)
        late = time.monotonic() + (0 if begun else _LATE_SECONDS)
        # a worker that had taken the run may make its container only now
        while removed and time.monotonic() < late:
            time.sleep(_POLL_SECONDS)
            removed = self.remove_containers()

    def remove_containers(self) -> bool:
        """The worker keeps its containers, so that their end can be told; here it was told. Returns
        False without an engine.
        """
        try:
            with self._containers() as left:
                for each in left:
                    remove(each)
        except EngineError as error:
            say(
                f"WARNING: the worker's container could not be removed ({error}); `hgt down`"
                " removes it."
            )
            return False
        return True


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
            f"The CPU worker's run was cancelled in Prefect ({said}). Resume when you like."
        )
    if killed or memory_death(ProgramEnd(said=said)):
        how = (
            f"container {killed}" if killed else f"run was killed, most likely for memory ({said})"
        )
        return killed_for_memory(
            "train", folder, f"The CPU worker's {how}. Resume with more, --docker-memory.", "cpu"
        )
    if run.run_count == 0:  # prefect 3.8.8 gives a crashed run a start time, too
        return NotStarted(f"The CPU worker could not start the run ({said}).")
    return HgtError(
        f"The CPU worker's run ended without a word of the trainer ({said}). See the worker's log"
        " (`hgt status` names it)."
    )
