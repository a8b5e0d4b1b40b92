"""The flow `train-on-cpu` of the CPU worker in Docker: trains an existing run.

It knows no MLflow. It writes its epochs into the run folder's `events.jsonl`. The flow that
dispatched it, or the next `hgt train --resume`, logs them.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

# `tasks` switches telemetry off before prefect is imported
from tasks.execution.child import run_child  # isort: skip
from prefect import flow
from prefect.client.schemas import State
from prefect.states import Completed, Failed

from hgt.device.probe import probe_device
from hgt.errors import HgtError, OutOfMemory
from hgt.memory.plan import plan_memory
from tasks.home import find_run, run_folder
from tasks.reporting import TrainingProgress


@flow(name="train-on-cpu")
def train_on_cpu(run: str) -> State[None]:
    """Train an existing run on the CPU, from its newest checkpoint to the end.

    Args:
        run: id or folder of the run
    """
    try:
        name = find_run(Path(run).name)  # drops the host's folder, which differs here
        folder = run_folder(name)
        with contextlib.ExitStack() as held:
            known = folder.load_plan()
            # started without a dispatching flow: the plan is for another device
            if known is None or known.device != "cpu":
                held.enter_context(folder.led())
                plan = plan_memory(folder.load_graph(), folder.load_config(), probe_device("cpu"))
                plan.save(folder.plan)
            progress = held.enter_context(TrainingProgress())
            run_child("train", folder, progress)
    except OutOfMemory as error:
        # the dispatching flow reads the name of the state
        return Failed(name=OutOfMemory.__name__, message=str(error))
    except HgtError as error:
        return Failed(message=str(error))
    return Completed(message=f"run {name} trained")
