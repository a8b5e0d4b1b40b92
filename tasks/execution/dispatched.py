"""A flow run that was dispatched to the work pool, and its container.

In: the flow run. Out: its state, how memory ended its container, an error where both are silent. A
worker, an engine or a server that was killed reports nothing: this module notices the silence.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

from docker.models.containers import Container
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled, Cancelling, Pending

from hgt.device.out_of_memory import MemoryDeath, ProgramEnd, memory_death
from hgt.errors import HgtError
from tasks.execution import readiness
from tasks.execution.engine import EngineError, connect, remove
from tasks.execution.pool import NO_ANSWER, NotStarted, explained_silence, unavailable
from tasks.reporting import say

# from dispatch to a running flow, unless HGT_START_SECONDS is set; a container starts in 5 s
START_SECONDS = 180.0
# a running flow without a container for longer than this has ended, whatever its state says
LOST_SECONDS = 30.0
_LAST_WORD_SECONDS, _LATE_SECONDS = 15.0, 5.0
_POLL_SECONDS, _ASK_SECONDS, _LOOK_SECONDS = 0.5, 2.0, 5.0
_ENGINE_SECONDS = 10.0
_FLOW_RUN_LABEL = "io.prefect.flow-run-id"  # set by prefect-docker


class Dispatched:
    """A dispatched flow run and its container, polled every few seconds."""

    def __init__(self, client: SyncPrefectClient, flow_run: FlowRun):
        self.client, self.flow_run = client, flow_run
        self.state: State[Any] = flow_run.state or Pending()
        self.answers = True  # whether the server answered the last request
        self.dispatched = self.asked = self.looked = self.found = time.monotonic()

    def is_running(self) -> bool:
        """Whether the flow run has not ended.

        Raises NotStarted when no worker starts it, HgtError when its container or server is gone.
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
            with explained_silence():
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
                f" {self.state.name}). See the worker's log (`hgt status` shows its path)."
                " HGT_START_SECONDS sets another limit."
            )
        if self.state.is_scheduled() and (problem := unavailable()):  # since it was dispatched
            raise NotStarted(problem)

    def _expect_container(self, now: float) -> None:
        """Raises HgtError when the container is gone: a killed worker or engine reports no end."""
        problem = (
            "The CPU worker's container is gone, and no worker reports the reason. Run `hgt up`,"
            " then resume."
        )
        try:
            with self._containers(status="running") as running:
                self.found = now if running else self.found
        except EngineError:
            problem = (
                f"{readiness.unavailable() or 'The Docker engine stopped answering.'} Then resume."
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
        """How memory killed the container; None when it did not."""
        with contextlib.suppress(*EngineError), self._containers() as ended:
            states = [each.client.api.inspect_container(each.id)["State"] for each in ended]
            over_limit = any(state["OOMKilled"] for state in states)
            ends = [
                ProgramEnd(s["ExitCode"], in_container=True, over_limit=over_limit) for s in states
            ]
            return next(filter(None, map(memory_death, ends)), None)
        return None

    def cancel(self) -> None:
        """End the run and its container. Worker, server and engine may be gone."""
        tell, begun = contextlib.suppress(HgtError, *NO_ANSWER), self.state.is_running()
        if self.answers:  # otherwise the client would retry for a minute
            with tell:
                self.client.set_flow_run_state(
                    self.flow_run.id, Cancelling(message="the run that dispatched it was stopped")
                )
        removed = self.remove_containers()
        if not self.answers:
            return
        with tell:
            # the worker must stop a container that this process cannot remove
            deadline = time.monotonic() + (0 if removed else _LAST_WORD_SECONDS)
            while not self.state.is_final() and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
                self._ask()
            # the worker may be gone, or take half a minute to report the end
            if not self.state.is_final():
                ended = Cancelled(message="the run that dispatched it was stopped")
                self.client.set_flow_run_state(self.flow_run.id, ended, force=True)
        late = time.monotonic() + (0 if begun else _LATE_SECONDS)
        # a worker that accepted the run may create its container only now
        while removed and time.monotonic() < late:
            time.sleep(_POLL_SECONDS)
            removed = self.remove_containers()

    def remove_containers(self) -> bool:
        """Remove the containers, which the worker keeps until their end is read.

        Returns False without an engine.
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
