"""How much of a training step is computed and kept at a time.

In: the configuration. Out: a `StepForm`. Smaller forms take less memory and more time and give the
same result. It does not know how much memory there is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hgt.config import RunConfig
from hgt.errors import quoted
from hgt.messages.message_graph import GroupLimits


@dataclass(frozen=True)
class StepForm:
    """How much of a training step is computed and kept at a time.

    accumulation_steps: micro-batches of a batch.
    table_rows, group_edges: see `GroupLimits`.
    recompute_layers, keep_projections: see `HGTLayer`.
    """

    accumulation_steps: int
    table_rows: int
    group_edges: int
    recompute_layers: bool
    keep_projections: bool

    @classmethod
    def from_dict(cls, values: Any) -> StepForm:
        """From `dataclasses.asdict`. Raises TypeError or ValueError for anything else."""
        form = cls(**values)
        for name, value in vars(form).items():
            kind = bool if name in ("recompute_layers", "keep_projections") else int
            if type(value) is not kind or value < (1 if kind is int else 0):
                raise ValueError(f"{name} {quoted(value)}")
        return form

    @classmethod
    def of(cls, config: RunConfig) -> StepForm:
        """The largest form that the configuration allows."""
        limits, recompute = GroupLimits(), config.execution.recompute_layers
        sizes = (config.batches.accumulation_steps, limits.rows, limits.edges)
        return cls(*sizes, recompute, keep_projections=not recompute)

    @property
    def limits(self) -> GroupLimits:
        return GroupLimits(self.table_rows, self.group_edges)

    def smaller(self) -> StepForm | None:
        """The next smaller form; None after the smallest.

        In this order: projections are recomputed, chunks get smaller, layers are recomputed, and
        there are more micro-batches.
        """
        if self.keeps_projections:
            return replace(self, keep_projections=False)
        if self.table_rows > 8_192:
            rows, edges = self.table_rows // 4, self.group_edges // 4
            return replace(self, table_rows=rows, group_edges=edges)
        if not self.recompute_layers:
            return replace(self, recompute_layers=True)
        if self.accumulation_steps < 64:
            return replace(self, accumulation_steps=2 * self.accumulation_steps)
        return None

    @property
    def keeps_projections(self) -> bool:
        return self.keep_projections and not self.recompute_layers

    def __str__(self) -> str:
        layers = "kept with keys, queries and values" if self.keeps_projections else "kept"
        layers = "recomputed" if self.recompute_layers else layers
        sizes = f"tables of {self.table_rows:,} rows, groups of {self.group_edges:,} edges"
        parts = f"{self.accumulation_steps} micro-batches"
        return f"{parts}, {sizes}, layers {layers} for the backward pass"
