"""The memory plan of a run, computed from counts before anything is allocated.

In: a graph, the configuration, the device's limit. Out: a `MemoryPlan` with the largest form of the
step that fits. A `StepForm` has all sizes that may shrink without a change of the result.
`embedding_dim` never changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hgt.config import RunConfig, parse_bytes
from hgt.device.probe import DeviceProbe, probe_device
from hgt.device.traits import DEVICES
from hgt.errors import InputError, quoted
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.input_file import read_json
from hgt.memory.counts import Counts
from hgt.memory.moments import worst_moments
from hgt.training.step_form import StepForm
from hgt.whole_file import written_whole

_PHASES = {
    "step": "forward, loss and backward of one optimizer step",
    "optimizer": "Adam's update",
    "inference": "embeddings of all nodes, layer by layer",
    "evaluation": "ranks of held-out facts",
}
_PLAN_ANEW = "Remove it, then resume: the run is planned anew."


@dataclass(frozen=True)
class MemoryPlan:
    """What a run takes on a device. All sizes are in bytes.

    limit_bytes: memory that the device may give.
    phases: {phase: bytes at its worst moment}.
    parts: {part: bytes} of the step's worst moment.
    form: chunk sizes, recomputation and micro-batches of a step.
    required_bytes: bytes of the largest phase.
    """

    device: str
    limit_bytes: int
    phases: dict[str, int]
    parts: dict[str, int]
    form: StepForm
    required_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the plan leaves a tenth of the limit free. No allocator packs without gaps (8 %
        on an H100).
        """
        return self.required_bytes <= 0.9 * self.limit_bytes

    def save(self, path: Path) -> None:
        """Write the plan as JSON, whole or not at all."""
        with written_whole(path) as new:
            new.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> MemoryPlan:
        """Read the plan. Raises InputError for a file that is missing or is no plan."""
        values: dict[str, Any] = read_json(path, dict, _PLAN_ANEW)
        try:
            plan = cls(**{**values, "form": StepForm.from_dict(values["form"])})
            plan._check_types()
        except (LookupError, TypeError, ValueError) as error:
            raise InputError(f"{path}: is no memory plan ({error}). {_PLAN_ANEW}") from error
        return plan

    def _check_types(self) -> None:
        if self.device not in DEVICES:
            raise ValueError(f"device {quoted(self.device)}")
        for name in ("limit_bytes", "required_bytes"):
            if type(getattr(self, name)) is not int:
                raise ValueError(f"{name} {quoted(getattr(self, name))}")
        for name in ("phases", "parts"):
            sizes = getattr(self, name)
            if not isinstance(sizes, dict) or not all(type(n) is int for n in sizes.values()):
                raise ValueError(f"{name} {quoted(sizes)}")

    def table(self) -> str:
        """The plan as a table for people."""
        lines = [f"memory plan for {self.device}: {self.form}"]
        lines += [
            f"  {n / 2**20:>10,.0f} MiB  {name:<12}{_PHASES[name]}"
            for name, n in self.phases.items()
        ]
        lines.append("of the step")
        lines += [f"  {n / 2**20:>10,.0f} MiB  {name}" for name, n in self.parts.items()]
        lines.append(
            f"  {self.required_bytes / 2**20:>10,.0f} MiB  at the peak, of"
            f" {self.limit_bytes / 2**20:,.0f} MiB available"
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class Planner:
    """Plans one run for several devices. It holds counts alone, so it is small and does not need
    the graph.

    counts: {type of device: counts}.
    """

    config: RunConfig
    counts: Mapping[str, Counts]

    @classmethod
    def of(cls, graph: KnowledgeGraph, config: RunConfig, *devices: str) -> Planner:
        """devices: types of all devices that the run may be planned for."""
        return cls(config, {device: Counts.of(graph, config, device) for device in {*devices}})

    def plan(self, probe: DeviceProbe, form: StepForm | None = None) -> MemoryPlan:
        """The plan for a device.

        form: plan this form, whether it fits or not. None: the largest form that fits, or the
            smallest one where none does.
        """
        counts, candidate = self.counts[probe.type], form or StepForm.of(self.config)
        while True:
            plan = _plan(counts, candidate, probe)
            smaller = candidate.smaller()
            if form is not None or plan.fits or smaller is None:
                return plan
            candidate = smaller


def plan_memory(graph: KnowledgeGraph, config: RunConfig, probe: DeviceProbe) -> MemoryPlan:
    """The plan with the largest form that fits, or with the smallest form where none does."""
    return Planner.of(graph, config, probe.type).plan(probe)


def _plan(counts: Counts, form: StepForm, probe: DeviceProbe) -> MemoryPlan:
    phases, parts = worst_moments(counts, form)
    return MemoryPlan(probe.type, probe.limit_bytes, phases, parts, form, max(phases.values()))


def refuse_what_cannot_fit(
    plan: MemoryPlan,
    graph: KnowledgeGraph,
    config: RunConfig,
    probe: DeviceProbe,
    otherwise: str = "another device",
) -> None:
    """Raise InputError for a plan that does not fit. The message has required and available bytes,
    and the smallest changes that would fit. `embedding_dim` is never among these.

    otherwise: what else would help.
    """
    if plan.fits:
        return
    changes = [_change(name, value) for name, value in _fitting_changes(graph, config, probe)]
    would_fit = f"What would fit: {', or '.join(changes)}; or {otherwise}."
    raise InputError(
        f"This run needs {plan.required_bytes:,} bytes on {plan.device} ({probe.name}) in its"
        f" smallest form ({plan.form}), and a tenth more for gaps; {plan.limit_bytes:,} are"
        f" available. {would_fit if changes else f'Take {otherwise}, or a smaller graph.'}"
    )


def _change(name: str, value: int) -> str:
    return f"--{name.replace('_', '-')} {value}"


def _fitting_changes(
    graph: KnowledgeGraph, config: RunConfig, probe: DeviceProbe
) -> Iterator[tuple[str, int]]:
    """For each parameter that may shrink, the largest smaller value with which the run fits."""
    heads = config.model.num_heads
    steps = {
        "hidden_dim": [
            h for h in (192, 128, 96, 64, 32) if h < config.model.hidden_dim and h % heads == 0
        ],
        "num_layers": list(range(config.model.num_layers - 1, 0, -1)),
    }
    for name, values in steps.items():
        for value in values:
            changed: dict[str, Any] = {name: value}
            smaller = replace(config, model=replace(config.model, **changed))
            if plan_memory(graph, smaller, probe).fits:
                yield name, value
                break
    counts = Counts.of(graph, config, probe.type)
    low, high = 0, graph.total_nodes
    form = replace(
        StepForm.of(config),
        accumulation_steps=64,
        table_rows=4_096,
        group_edges=65_536,
        recompute_layers=True,
        keep_projections=False,
    )
    # a sample of nodes has about its share of the facts
    while high - low > graph.total_nodes // 100 + 1:
        middle = (low + high) // 2
        fits = _plan(counts.scaled(middle / graph.total_nodes), form, probe).fits
        low, high = (middle, high) if fits else (low, middle)
    # a sample's share of the facts is a little larger than that of the nodes
    low = int(0.9 * low) // 100 * 100
    if low:
        yield "limit_nodes", low


def memory_limit(config: RunConfig) -> int | None:
    """Bytes of the parameter `memory`; None for all memory."""
    return None if config.execution.memory is None else parse_bytes(config.execution.memory)


def probe_for_plan(config: RunConfig) -> DeviceProbe:
    """The device of a run. A device that this machine lacks can be planned for when `memory` gives
    its size.

    Raises InputError as `probe_device` does.
    """
    device, limit = config.execution.compute_device, memory_limit(config)
    try:
        return probe_device(device, limit)
    except InputError:
        if device is None or limit is None:
            raise
        return DeviceProbe(device, "elsewhere", limit, "asked for", torch.__version__, "")
