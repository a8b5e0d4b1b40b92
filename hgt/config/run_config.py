"""The whole configuration: its sections, its flat form, its file and its fingerprint."""

from __future__ import annotations

import functools
import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hgt.config.comparison import BaselineConfig, check_complex_baseline
from hgt.config.data import GraphConfig, SplitConfig
from hgt.config.execution import ExecutionConfig
from hgt.config.model import ModelConfig
from hgt.config.training import BatchConfig, LossConfig, OptimizerConfig, StoppingConfig
from hgt.config.validation import ValidationConfig, check_reachable
from hgt.errors import InputError
from hgt.input_file import read_json
from hgt.parameter import Parameter, coerced, parameters_of, unknown_names
from hgt.whole_file import written_whole


@dataclass(frozen=True)
class RunConfig:
    """All sections. `from_flat` and `to_flat` are its only outside forms.

    Each section checks its own values. Here only what concerns two sections is checked.
    """

    graph: GraphConfig = field(default_factory=GraphConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    batches: BatchConfig = field(default_factory=BatchConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    stopping: StoppingConfig = field(default_factory=StoppingConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        check_complex_baseline(self.baseline, self.model)
        check_reachable(self.validation, self.model)

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> RunConfig:
        """Build from `{parameter name: value}`; whatever is absent keeps its default.

        Raises InputError for an unknown name, a value of the wrong type or out of range.
        """
        known = {p.name: p for p in parameters()}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise InputError(unknown_names(unknown, list(known)))
        kinds = typing.get_type_hints(cls)
        groups: dict[str, dict[str, Any]] = {group: {} for group in kinds}
        for name, value in values.items():
            groups[known[name].group][name] = coerced(known[name], value)
        return cls(**{group: kinds[group](**members) for group, members in groups.items()})

    def to_flat(self) -> dict[str, Any]:
        """`{parameter name: value}` with tuples as lists, ready for JSON."""
        flat: dict[str, Any] = {}
        for p in parameters():
            value = getattr(getattr(self, p.group), p.name)
            flat[p.name] = list(value) if isinstance(value, tuple) else value
        return flat

    def save(self, path: Path) -> None:
        """Whole or not at all: a full disk leaves what was there."""
        with written_whole(path) as new:
            new.write_text(json.dumps(self.to_flat(), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> RunConfig:
        """Read what `save` wrote. Raises InputError when the file is missing or is no such file."""
        values = read_json(path, dict, "It should hold a configuration: start the run anew.")
        try:
            return cls.from_flat(values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def fingerprint(self) -> str:
        """Hash of every parameter that changes the result; two runs that share it may share
        checkpoints.
        """
        decisive = {p.name for p in parameters() if p.changes_result}
        text = json.dumps(
            {k: v for k, v in self.to_flat().items() if k in decisive}, sort_keys=True
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]


# The parameters of training in the order of config.json, MLflow and `hgt train --help`. It is older
# than the sections. A new parameter follows these, in the order of declaration.
_TRAINING = """
    num_epochs learning_rate rate_decay_epochs min_rate_decay_steps weight_decay average_decay
    device edge_sample_size node_batch_size accumulation_steps recompute_layers num_neighbors
    memory max_shrinks fallback docker_memory min_batches_per_epoch num_negatives
    softmax_correction num_other_negatives contrastive_weight isotropy_weight
    contrastive_node_type contrastive_temperature similarity_threshold max_grad_norm patience
    num_val_edges checkpoint_minutes
"""


@functools.cache
def parameters() -> tuple[Parameter, ...]:
    """Every parameter, in the order of config.json."""
    sections = list(typing.get_type_hints(RunConfig))
    first, last = sections.index("optimizer"), sections.index("execution")
    placed = {name: place for place, name in enumerate(_TRAINING.split())}

    def place(p: Parameter) -> tuple[int, int]:
        section = sections.index(p.group)
        if first <= section <= last:
            return first, placed.get(p.name, len(placed))
        return section, 0

    return tuple(sorted(parameters_of(RunConfig), key=place))
