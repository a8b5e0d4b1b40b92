"""Task `train`: runs the trainer, and logs its events to MLflow and to the screen.

Each attempt is the next rung of the ladder. An attempt that runs out of memory writes the next
segment into the run folder and raises OutOfMemory. Prefect retries only that error.
"""

from __future__ import annotations

from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State, TaskRun

from hgt.device.probe import DeviceProbe
from hgt.errors import OutOfMemory
from hgt.run.events import EventReader
from tasks.execution import container, pool, pool_run
from tasks.execution.child import run_child
from tasks.execution.outcome import OnEvent
from tasks.execution.placement import container_memory, step_down
from tasks.execution.segments import DOCKER, Segment, read_segments
from tasks.led_run import LedRun
from tasks.reporting import TrainingProgress, say
from tasks.tracking.tracker import Tracker

_RUNGS_AFTER_SHRINKS = 2


def only_out_of_memory(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether the task is retried. Any other error would occur on every device."""
    return isinstance(state.result(raise_on_failure=False), OutOfMemory)


@task(name="train", cache_policy=NO_CACHE, retry_condition_fn=only_out_of_memory)
def train(run: LedRun, found: DeviceProbe, tracker: Tracker) -> None:
    """Train the run from its newest checkpoint to the end.

    Raises OutOfMemory when the ladder has a next rung, otherwise MemoryExhausted.
    """
    folder = run.folder
    for event in EventReader(folder.events).new():  # epochs that a killed flow did not log
        if event["event"] == "epoch":
            tracker.epoch(event)
    known = read_segments(folder)
    number, segment = len(known), known[-1]
    tracker.segment(number, segment, folder.plan)
    with TrainingProgress() as progress:

        def on_event(event: dict[str, Any]) -> None:
            progress(event)
            if event["event"] == "epoch":
                tracker.epoch(event)
            if event["event"] == "end":
                tracker.metrics(
                    {
                        "best_epoch": event["best_epoch"],
                        "train_peak_memory_bytes": event["peak_memory_bytes"],
                    }
                )

        try:
            _run(segment, run, on_event)
        except OutOfMemory as error:
            tracker.tags({f"segment.{number}.ended": str(error)[:500]})
            following = step_down(folder, run.planner, error, found)
            say(f"OUT OF MEMORY: {error}\ncontinuing from the last checkpoint {following.where}")
            raise
    tracker.tags({f"segment.{number}.ended": "trained to the end"})
    tracker.artifacts(folder.events)


def attempts(max_shrinks: int) -> int:
    """The largest number of attempts after the first one."""
    return max_shrinks + _RUNGS_AFTER_SHRINKS


def _run(segment: Segment, run: LedRun, on_event: OnEvent) -> None:
    if segment.place != DOCKER:
        run_child("train", run.folder, on_event)
        return
    memory = container_memory(run.config)
    problem = pool.unavailable() if pool.has_server() else "no server"
    if problem is None:
        try:
            pool_run.run_on_pool(run.folder, on_event, memory)
            return
        except pool.NotStarted as error:
            problem = str(error)
    if pool.has_server():
        say(f"WARNING: {problem}\nWARNING: The container starts without the work pool.")
    container.run_container("train", run.folder, on_event, memory)
