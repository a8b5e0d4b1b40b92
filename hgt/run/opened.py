"""A run, opened once per process and then passed on.

In: a run folder. Out: its configuration, graph and split; for a program that computes, also the
memory plan and the device. Code with an opened run does not read these from the folder again.
Knows neither the tasks that lead a run nor MLflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from hgt.config import RunConfig
from hgt.device.limits import prepare_device
from hgt.device.memory_use import DeviceMemory
from hgt.device.probe import probe_device
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import EdgeSplit
from hgt.memory.plan import MemoryPlan, memory_limit
from hgt.run.folder import RunFolder
from hgt.run.identity import Identity
from hgt.training.step_form import StepForm


@dataclass(frozen=True)
class LoadedRun:
    """A run's configuration, graph and split, for the flow that leads it."""

    folder: RunFolder
    config: RunConfig
    graph: KnowledgeGraph
    split: EdgeSplit


@dataclass(frozen=True)
class OpenRun:
    """A run on its device, for one of the four programs.

    plan: None where nothing was planned, as in a folder made by hand.
    memory: measures the device memory of each phase.
    """

    folder: RunFolder
    config: RunConfig
    graph: KnowledgeGraph
    split: EdgeSplit
    plan: MemoryPlan | None
    device: torch.device
    memory: DeviceMemory

    @property
    def form(self) -> StepForm | None:
        """The plan's form of a step; None without a plan."""
        return None if self.plan is None else self.plan.form

    @cached_property
    def identity(self) -> Identity:
        """The hashes that the run's files carry."""
        return Identity.of(self.graph, self.split, self.config)


def open_run(folder: RunFolder) -> OpenRun:
    """Read the run and prepare its device. This is the plan's device; without a plan, the
    configuration's.

    Raises InputError where a file is missing or damaged, or where the machine lacks the device.
    """
    config, graph, plan = folder.load_config(), folder.load_graph(), folder.load_plan()
    split = folder.load_split(graph, config.split)
    limit = memory_limit(config)
    wanted = plan.device if plan else config.execution.compute_device
    device = prepare_device(probe_device(wanted, limit).type, limit)
    memory = DeviceMemory(device.type, plan.phases if plan else {}, limit)
    return OpenRun(folder, config, graph, split, plan, device, memory)
