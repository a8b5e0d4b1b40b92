"""The flow `train-on-cpu`, run by the CPU worker in Docker: the trainer on a run folder that
exists, from its newest checkpoint on.

It knows no MLflow: the epochs are in the run folder's `events.jsonl`, from where the flow that
dispatched this one, or the next `hgt train --resume`, logs them.
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
    """Train a run that exists on the CPU, from its newest checkpoint to the end.

    Args:
        run: id or folder of the run
    """
    try:
        name = find_run(Path(run).name)  # a folder is the host's path: here the run lies elsewhere
        folder = run_folder(name)
        with contextlib.ExitStack() as held:
            known = folder.load_plan()
            # nobody handed the run over: it was planned for the device of another machine
            if known is None or known.device != "cpu":
                held.enter_context(folder.led())
                plan = plan_memory(folder.load_graph(), folder.load_config(), probe_device("cpu"))
                plan.save(folder.plan)
            progress = held.enter_context(TrainingProgress())
            run_child("train", folder, progress)
    except OutOfMemory as error:
        # the name tells the one that dispatched it
        return Failed(name=OutOfMemory.__name__, message=str(error))
    except HgtError as error:
        return Failed(message=str(error))
    return Completed(message=f"run {name} trained")
