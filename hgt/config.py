"""Every parameter of a run, declared once.

The command line, the flow's parameters, MLflow's parameters and the README's table are all derived
from these frozen dataclasses through `parameters()`. Names are the field's; a default that was
measured says so in tests/bench.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hgt.device.traits import DEVICES
from hgt.errors import InputError, quoted
from hgt.input_file import read_json
from hgt.parameter import Parameter, Range, coerced, parameter, parameters_of, unknown_names
from hgt.whole_file import written_whole

DOCKER_CPU = "docker-cpu"  # the CPU worker in Docker
DEVICE_CHOICES = (*DEVICES, DOCKER_CPU)

_SHARE = Range(0, 1)
_SHARE_BELOW_1 = Range(0, 1, open_high=True)
_HELD_OUT = Range(0, 0.4, open_low=True)
_WIDTH = Range(1, 65_536)
_EPOCHS = Range(1, 1_000_000)
_COUNT = Range(1, 1_000_000_000)  # of nodes, edges or steps
_FACTOR = Range(0, 1_000_000_000)


_HOLDOUT = "-holdout"


@dataclass(frozen=True)
class GraphConfig:
    """Which part of the file is learned from, and how its relations are read."""

    include_node_types: tuple[str, ...] | None = parameter(
        None, "keep only these node types; all when not given"
    )
    limit_nodes: int | None = parameter(
        None, "keep a connected, type-balanced sample of this size", "nodes", range=_COUNT
    )
    symmetric_relations: tuple[str, ...] = parameter(
        (), "relations to read as symmetric, whatever their rows say"
    )
    directed_relations: tuple[str, ...] = parameter(
        (), "relations to read as directed: a row and its mirror are two facts"
    )
    min_mirrored_share: float = parameter(
        0.9,
        "share of rows with a mirror row from which a row and its mirror are one fact",
        range=_SHARE,
    )


@dataclass(frozen=True)
class SplitConfig:
    """What is held out of training."""

    val_fraction: float = parameter(
        0.05,
        "share of each edge type that steers early stopping; of a holdout split, of its nodes and"
        " of other edge types",
        range=_HELD_OUT,
    )
    test_fraction: float = parameter(
        0.05,
        "share of each edge type for the final figures; of a holdout split, of its nodes alone",
        range=_HELD_OUT,
    )
    seed: int = parameter(
        0, "seed of the split, the weights, the batches and the dropout", range=Range(0, 2**31 - 1)
    )
    split: str = parameter(
        "random",
        "what is held out: random facts of each edge type, or all facts of some nodes with drugs"
        " (zero-shot): disease-holdout",
    )
    holdout_relations: tuple[str, ...] = parameter(
        (),
        "relations whose facts a holdout split holds out; all between its node type and drug (drug:"
        " disease) when not given",
    )

    @property
    def holdout_type(self) -> str | None:
        """The node type of a holdout split; None where random facts are held out."""
        return None if self.split == "random" else self.split.removesuffix(_HOLDOUT)


@dataclass(frozen=True)
class ModelConfig:
    """The encoder and the decoder."""

    embedding_dim: int = parameter(
        512, "size of the final embeddings; never changed automatically", "dimensions", range=_WIDTH
    )
    hidden_dim: int = parameter(
        256, "size of the input embeddings and of the HGT layers", "dimensions", range=_WIDTH
    )
    num_layers: int = parameter(3, "HGT layers", "layers", range=Range(1, 100))
    num_heads: int = parameter(
        8, "attention heads; divides hidden_dim", "heads", range=Range(1, 1_024)
    )
    dropout: float = parameter(
        0.2, "dropout on the output of each HGT layer while training", range=_SHARE_BELOW_1
    )
    input_dropout: float = parameter(
        0.4,
        "dropout on the input embeddings while training: nodes must be told by their"
        " neighbours, too",
        range=_SHARE_BELOW_1,
    )
    edge_dropout: float = parameter(
        0.1,
        "share of the facts whose messages each training step leaves out at random",
        range=_SHARE_BELOW_1,
    )
    mixed_precision: bool = parameter(
        False,
        "compute dense products and gathered rows in bfloat16; sums and softmax stay in float32",
    )
    decoder: str = parameter(
        "complex", "relation decoder on the final embeddings", choices=("distmult", "complex")
    )


@dataclass(frozen=True)
class TrainConfig:
    """Batches, losses, optimizer and where to run."""

    num_epochs: int = parameter(
        100,
        "epochs; one supervises every training edge exactly once",
        "epochs",
        changes_result=False,
        range=_EPOCHS,
    )
    learning_rate: float = parameter(
        0.003, "Adam's learning rate", range=Range(0, 10, open_low=True)
    )
    rate_decay_epochs: int = parameter(
        75,
        "epochs over which the learning rate falls to a fiftieth, along half a cosine; 0 keeps it"
        " as it is",
        "epochs",
        range=Range(0, 1_000_000),
    )
    min_rate_decay_steps: int = parameter(
        2500,
        "least number of optimizer steps over which it falls, however few an epoch has",
        "batches",
        range=_COUNT,
    )
    weight_decay: float = parameter(
        0.3,
        "decoupled weight decay (AdamW's) of the layers' maps of keys, queries and relations: no"
        " head should read one neighbour alone",
        range=Range(0, 100),
    )
    average_decay: float = parameter(
        0.99,
        "decay per step of the moving average of the weights, which is what is evaluated and kept;"
        " 0 keeps the last weights",
        range=_SHARE_BELOW_1,
    )
    device: str | None = parameter(
        None,
        "mps, cuda or cpu of this machine, or docker-cpu, the CPU worker in Docker; found"
        " automatically when not given",
        choices=DEVICE_CHOICES,
        changes_result=False,
    )
    edge_sample_size: int = parameter(
        5000, "most edges of each edge type that one batch supervises", "edges", range=_COUNT
    )
    node_batch_size: int = parameter(
        2048, "nodes per chunk of layer-wise inference", "nodes", changes_result=False, range=_COUNT
    )
    accumulation_steps: int = parameter(
        4,
        "micro-batches whose gradients add up to one batch",
        "micro-batches",
        changes_result=False,
        range=Range(1, 1_024),
    )
    recompute_layers: bool = parameter(
        False,
        "keep only each HGT layer's input for the backward pass (gradient checkpointing): less"
        " memory, more time",
        changes_result=False,
    )
    num_neighbors: int | None = parameter(
        None,
        "most edges of each message edge type into each node in a training step, drawn anew for"
        " each; all when not given",
        "edges",
        range=_COUNT,
    )
    memory: str | None = parameter(
        None,
        "most memory that the run may use, such as 16GB; all that the device can give when not"
        " given",
        changes_result=False,
    )
    max_shrinks: int = parameter(
        2,
        "times that training out of memory is made smaller on its device before it goes on"
        " elsewhere",
        "times",
        changes_result=False,
        range=Range(0, 100),
    )
    fallback: str = parameter(
        "docker",
        "where training goes on when memory runs out for good: docker (the CPU where there is"
        " none), cpu or none",
        choices=("docker", "cpu", "none"),
        changes_result=False,
    )
    docker_memory: str | None = parameter(
        None,
        "memory of the CPU worker's container, such as 16GB; nine tenths of what Docker has when"
        " not given",
        changes_result=False,
    )
    min_batches_per_epoch: int = parameter(
        10, "least number of optimizer steps per epoch", "batches", range=Range(1, 10_000)
    )
    num_negatives: int = parameter(
        1024,
        "sampled nodes of the right type that a true tail (and head) competes with",
        "nodes",
        range=Range(1, 1_000_000),
    )
    softmax_correction: float = parameter(
        0.0,
        "how far sampled nodes of the right type stand for all of it: each counts as (nodes /"
        " sampled) to this power; 0: for itself",
        range=_SHARE,
    )
    num_other_negatives: int = parameter(
        16,
        "sampled nodes of every other type that it competes with besides",
        "nodes",
        range=Range(0, 1_000_000),
    )
    contrastive_weight: float = parameter(
        0.0,
        "share of the contrastive loss in the loss; it costs ranks (README, measured)",
        range=_SHARE,
    )
    isotropy_weight: float = parameter(
        10.0,
        "weight in the loss of what the embeddings' mean cosine and their concentration on few"
        " components have too much",
        range=Range(0, 1_000_000),
    )
    contrastive_node_type: str = parameter(
        "disease", "node type of the contrastive loss; ignored when the graph lacks it"
    )
    contrastive_temperature: float = parameter(
        0.1, "temperature of InfoNCE", range=Range(0.001, 1_000)
    )
    similarity_threshold: float = parameter(
        0.1, "Jaccard similarity of neighbour sets from which two nodes attract", range=_SHARE
    )
    max_grad_norm: float = parameter(
        1.0, "gradients are clipped to this norm", range=Range(0, 1_000_000_000, open_low=True)
    )
    patience: int = parameter(
        10,
        "epochs without a better validation MRR before training stops",
        "epochs",
        changes_result=False,
        range=_EPOCHS,
    )
    num_val_edges: int = parameter(
        5000, "most held-out edges ranked after each epoch", "edges", range=_COUNT
    )
    checkpoint_minutes: float = parameter(
        10.0,
        "longest time between two checkpoints within an epoch",
        "minutes",
        changes_result=False,
        range=Range(0, 10_080, open_low=True),
    )

    @property
    def compute_device(self) -> str | None:
        """`device` as the library knows it: in the worker, too, it is the CPU that computes."""
        return "cpu" if self.device == DOCKER_CPU else self.device


# The checks of `hgt/evaluation/validation.py`, those that decide by default first.
REQUIRED_CHECKS = (
    *(
        "finite",
        "mean_cosine",
        "components_90",
        "effective_rank",
        "distinct_rows",
        "dead_dimensions",
        "type_spread",
        "tiny_norms",
    ),
    *("type_accuracy", "mrr"),
)
CHECKS = (
    *REQUIRED_CHECKS,
    *(
        "norm_ratio",
        "plane_accuracy",
        "silhouette",
        "disease_cosine",
        "similarity_correlation",
        "untrained_nodes",
    ),
)


@dataclass(frozen=True)
class BaselineConfig:
    """What the embeddings' ranks are compared with; it does not touch them."""

    baselines: tuple[str, ...] = parameter(
        ("random", "degree", "complex"),
        "what the ranks are compared with: random vectors, degrees in training, shallow models"
        " (distmult, complex); or none",
        choices=("random", "degree", "distmult", "complex", "none"),
        changes_result=False,
    )
    baseline_time: float = parameter(
        0.25,
        "most training time of each shallow baseline, as a share of HGT's; 1 gives it the same",
        changes_result=False,
        range=Range(0, 10, open_low=True),
    )


@dataclass(frozen=True)
class ValidationConfig:
    """Which checks decide, and their thresholds; they do not touch training."""

    required_checks: tuple[str, ...] = parameter(
        REQUIRED_CHECKS,
        "checks that must pass; all others advise",
        choices=CHECKS,
        changes_result=False,
    )
    max_mean_cosine: float = parameter(
        0.5, "mean pairwise cosine must stay below", changes_result=False, range=_SHARE
    )
    min_components_90: int = parameter(
        15,
        "PCA components for 90 % of the variance must reach",
        "components",
        changes_result=False,
        range=_WIDTH,
    )
    min_effective_rank: float = parameter(
        10.0,
        "effective rank (exp of the entropy of the explained variance) must reach",
        "components",
        changes_result=False,
        range=Range(0, 65_536),
    )
    min_distinct_rows: float = parameter(
        0.99,
        "number of different rows over the number of rows must reach",
        changes_result=False,
        range=_SHARE,
    )
    max_dead_dimensions: float = parameter(
        0.05,
        "share of dimensions with nearly no variance must not exceed",
        changes_result=False,
        range=_SHARE,
    )
    min_type_spread: float = parameter(
        0.05,
        "least spread of a type's directions, over the mean of all types, must reach",
        changes_result=False,
        range=_SHARE,
    )
    max_tiny_norms: float = parameter(
        0.01, "share of rows near zero must not exceed", changes_result=False, range=_SHARE
    )
    max_norm_ratio: float = parameter(
        100.0,
        "largest norm over the median norm must not exceed",
        "times",
        changes_result=False,
        range=_FACTOR,
    )
    min_type_accuracy: float = parameter(
        0.7,
        "nearest-neighbour type accuracy in PCA space (90 % of the variance), mean over types, must"
        " reach",
        changes_result=False,
        range=_SHARE,
    )
    min_plane_accuracy_over_chance: float = parameter(
        3.0,
        "the same in the PCA plot over what guessing reaches, at most 0.9 in all, must reach",
        "times",
        changes_result=False,
        range=_FACTOR,
    )
    min_silhouette: float = parameter(
        0.0,
        "mean silhouette of the types in PCA space must reach",
        changes_result=False,
        range=_SHARE,
    )
    min_disease_cosine: float = parameter(
        0.5, "mean cosine among diseases must reach", changes_result=False, range=_SHARE
    )
    max_disease_cosine: float = parameter(
        0.8, "mean cosine among diseases must not exceed", changes_result=False, range=_SHARE
    )
    min_similarity_correlation: float = parameter(
        0.1,
        "rank correlation of shared neighbours and cosines among contrastive_node_type must reach",
        changes_result=False,
        range=_SHARE,
    )
    max_untrained_nodes: float = parameter(
        0.05,
        "share of nodes without training facts must not exceed",
        changes_result=False,
        range=_SHARE,
    )
    min_mrr_over_chance: float = parameter(
        3.0,
        "typed MRR over the MRR of random ranks must reach",
        "times",
        changes_result=False,
        range=_FACTOR,
    )


@dataclass(frozen=True)
class RunConfig:
    """All of the above. `from_flat` and `to_flat` are its only outside forms."""

    graph: GraphConfig = field(default_factory=GraphConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        _check_ranges(self)

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> RunConfig:
        """Build from `{parameter name: value}`; whatever is absent keeps its default.

        Raises InputError for an unknown name, a value of the wrong type or out of range.
        """
        known = {p.name: p for p in parameters()}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise InputError(unknown_names(unknown, list(known)))
        groups: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            groups.setdefault(known[name].group, {})[name] = coerced(known[name], value)
        kinds = typing.get_type_hints(cls)
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


@functools.cache
def parameters() -> tuple[Parameter, ...]:
    """Every parameter in the order of declaration."""
    return tuple(parameters_of(RunConfig))


_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", re.IGNORECASE)


def parse_bytes(text: str, name: str = "memory") -> int:
    """ "16GB" -> 16 * 10^9, "16GiB" -> 16 * 2^30. Raises InputError, which tells the parameter's
    name.
    """
    match = _SIZE.fullmatch(text)
    unit = (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " ") if match else 0
    size = float(match[1]) * unit if match else 0.0
    if not 1 <= size < float("inf"):
        raise InputError(
            f"Parameter {name} takes a size such as 16GB or 12.5GiB, not {quoted(text)}."
        )
    return int(size)


_MEMORY = Range(10**6, 10**15)  # "16" is 16 bytes, and meant are gigabytes


def most_components_90(directions: int) -> int:
    """Most components that 90 % of a variance in so many directions can need: where all are
    alike.
    """
    return math.ceil(0.9 * directions - 1e-9)


def _check_ranges(config: RunConfig) -> None:
    """InputError for the first parameter out of range."""
    flat = config.to_flat()

    def require(good: bool, name: str, need: str) -> None:
        if not good:
            raise InputError(f"Parameter {name} must be {need}, not {quoted(flat[name])}.")

    for p in parameters():
        if p.range is not None and flat[p.name] is not None:
            require(flat[p.name] in p.range, p.name, str(p.range))
    of_type = flat["split"].endswith(_HOLDOUT) and flat["split"] != _HOLDOUT
    require(
        flat["split"] == "random" or of_type,
        "split",
        "random or <node type>-holdout, such as disease-holdout",
    )
    require(
        len(set(flat["baselines"])) == len(flat["baselines"]) > 0,
        "baselines",
        "one or several, each once",
    )
    require(
        "none" not in flat["baselines"] or len(flat["baselines"]) == 1,
        "baselines",
        "none alone, or others",
    )
    for name in ("memory", "docker_memory"):
        if flat[name] is not None:
            size = parse_bytes(flat[name], name)
            require(size in _MEMORY, name, "between 1MB and 1000TB (with a unit: 16GB)")
    m = config.model
    if m.hidden_dim % m.num_heads:
        raise InputError(
            f"hidden_dim {m.hidden_dim} must be a multiple of num_heads {m.num_heads}."
        )
    if m.decoder == "complex" and m.embedding_dim % 2:
        raise InputError(f"The complex decoder needs an even embedding_dim, not {m.embedding_dim}.")
    if "complex" in flat["baselines"] and m.embedding_dim % 2:
        raise InputError(
            f"The complex baseline needs an even embedding_dim, not {m.embedding_dim}. Give"
            " baselines without complex."
        )
    require(bool(flat["required_checks"]), "required_checks", "one check or more")
    for check, least in (
        ("components_90", "min_components_90"),
        ("effective_rank", "min_effective_rank"),
    ):
        reached = (
            m.embedding_dim if check == "effective_rank" else most_components_90(m.embedding_dim)
        )
        if check in flat["required_checks"] and flat[least] > reached:
            raise InputError(
                f"{least} {flat[least]:g} cannot be reached in {m.embedding_dim} dimensions: lower"
                f" it, raise embedding_dim, or leave {check} out of required_checks."
            )
    if flat["min_disease_cosine"] > flat["max_disease_cosine"]:
        raise InputError(
            f"min_disease_cosine {flat['min_disease_cosine']:g} exceeds max_disease_cosine"
            f" {flat['max_disease_cosine']:g}."
        )
    both = set(config.graph.symmetric_relations) & set(config.graph.directed_relations)
    if both:
        raise InputError(
            f"Relation(s) {', '.join(sorted(both))} cannot be both symmetric and directed."
        )
