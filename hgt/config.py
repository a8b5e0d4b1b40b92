"""Every parameter of a run, declared once.

The command line, the flow's parameters, MLflow's parameters and the README's table are all derived from these
frozen dataclasses through `parameters()`. Defaults and names are those of DESIGN.md section 4.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hgt.errors import InputError
from hgt.whole_file import written_whole


def _parameter(default: Any, help: str, unit: str = "", choices: tuple[str, ...] = (), changes_result: bool = True) -> Any:
    """A dataclass field that carries what a user must know of it.

    `changes_result=False` marks what only says where and how fast: a checkpoint may be continued with another value.
    """
    return field(default=default, metadata={"help": help, "unit": unit, "choices": choices, "changes_result": changes_result})


_HOLDOUT = "-holdout"


@dataclass(frozen=True)
class GraphConfig:
    """Which part of the file is learned from, and how its relations are read."""

    include_node_types: tuple[str, ...] | None = _parameter(None, "keep only these node types; all when not given")
    limit_nodes: int | None = _parameter(None, "keep a connected, type-balanced sample of this size", "nodes")
    symmetric_relations: tuple[str, ...] = _parameter((), "relations to read as symmetric, whatever their rows say")
    directed_relations: tuple[str, ...] = _parameter((), "relations to read as directed: a row and its mirror are two facts")
    min_mirrored_share: float = _parameter(0.9, "share of rows with a mirror row from which a relation within one type counts as symmetric")


@dataclass(frozen=True)
class SplitConfig:
    """What is held out of training."""

    val_fraction: float = _parameter(
        0.05, "share of each edge type that steers early stopping; of a holdout split, of its nodes and of other edge types"
    )
    test_fraction: float = _parameter(0.05, "share of each edge type for the final figures; of a holdout split, of its nodes alone")
    seed: int = _parameter(0, "seed of the split, the weights, the batches and the dropout")
    split: str = _parameter(
        "random", "what is held out: random facts of each edge type, or all facts of some nodes with drugs (zero-shot): disease-holdout"
    )
    holdout_relations: tuple[str, ...] = _parameter(
        (), "relations whose facts a holdout split holds out; all between its node type and drug (drug: disease) when not given"
    )

    @property
    def holdout_type(self) -> str | None:
        """The node type of a holdout split; None where random facts are held out."""
        return None if self.split == "random" else self.split.removesuffix(_HOLDOUT)


@dataclass(frozen=True)
class ModelConfig:
    """The encoder and the decoder (DESIGN.md 5)."""

    embedding_dim: int = _parameter(512, "size of the final embeddings; never changed automatically", "dimensions")
    hidden_dim: int = _parameter(256, "size of the input embeddings and of the HGT layers", "dimensions")
    num_layers: int = _parameter(3, "HGT layers", "layers")
    num_heads: int = _parameter(8, "attention heads; divides hidden_dim", "heads")
    dropout: float = _parameter(0.2, "dropout on the output of each HGT layer while training")
    input_dropout: float = _parameter(0.4, "dropout on the input embeddings while training: nodes must be told by their neighbours, too")
    edge_dropout: float = _parameter(0.1, "share of the facts whose messages each training step leaves out at random")
    mixed_precision: bool = _parameter(False, "compute dense products and gathered rows in bfloat16; sums and softmax stay in float32")
    decoder: str = _parameter("complex", "relation decoder on the final embeddings", choices=("distmult", "complex"))


@dataclass(frozen=True)
class TrainConfig:
    """Batches, losses, optimizer and where to run."""

    num_epochs: int = _parameter(100, "epochs; one supervises every training edge exactly once", "epochs", changes_result=False)
    learning_rate: float = _parameter(0.003, "Adam's learning rate")
    rate_decay_epochs: int = _parameter(
        75, "epochs over which the learning rate falls to a fiftieth, along half a cosine; 0 keeps it as it is", "epochs"
    )
    min_rate_decay_steps: int = _parameter(2500, "least number of optimizer steps over which it falls, however few an epoch has", "batches")
    weight_decay: float = _parameter(
        0.3, "decoupled weight decay (AdamW's) of the layers' maps of keys, queries and relations: no head should read one neighbour alone"
    )
    average_decay: float = _parameter(
        0.99, "decay per step of the moving average of the weights, which is what is evaluated and kept; 0 keeps the last weights"
    )
    device: str | None = _parameter(
        None,
        "mps, cuda or cpu of this machine, or docker-cpu, the CPU worker in Docker; found automatically when not given",
        choices=("mps", "cuda", "cpu", "docker-cpu"),
        changes_result=False,
    )
    edge_sample_size: int = _parameter(5000, "most edges of each edge type that one batch supervises", "edges")
    node_batch_size: int = _parameter(2048, "nodes per chunk of layer-wise inference", "nodes", changes_result=False)
    accumulation_steps: int = _parameter(4, "micro-batches whose gradients add up to one batch", "micro-batches", changes_result=False)
    recompute_layers: bool = _parameter(
        False,
        "keep only each HGT layer's input for the backward pass (gradient checkpointing): less memory, more time",
        changes_result=False,
    )
    num_neighbors: int | None = _parameter(
        None,
        "most edges of each message edge type into each node in a training step, drawn anew for each; all when not given",
        "edges",
    )
    memory: str | None = _parameter(
        None, "most memory that the run may use, such as 16GB; all that the device can give when not given", changes_result=False
    )
    max_shrinks: int = _parameter(
        2, "times that training out of memory is made smaller on its device before it goes on elsewhere", "times", changes_result=False
    )
    fallback: str = _parameter(
        "docker",
        "where training goes on when memory runs out for good: docker (the CPU where there is none), cpu or none",
        choices=("docker", "cpu", "none"),
        changes_result=False,
    )
    docker_memory: str | None = _parameter(
        None, "memory of the CPU worker's container, such as 16GB; nine tenths of what Docker has when not given", changes_result=False
    )
    min_batches_per_epoch: int = _parameter(10, "least number of optimizer steps per epoch", "batches")
    num_negatives: int = _parameter(1024, "sampled nodes of the right type that a true tail (and head) competes with", "nodes")
    softmax_correction: float = _parameter(
        0.0, "how far sampled nodes of the right type stand for all of it: each counts as (nodes / sampled) to this power; 0: for itself"
    )
    num_other_negatives: int = _parameter(16, "sampled nodes of every other type that it competes with besides", "nodes")
    contrastive_weight: float = _parameter(0.0, "share of the contrastive loss in the loss; it costs ranks (README, measured)")
    isotropy_weight: float = _parameter(
        10.0, "weight in the loss of what the embeddings' mean cosine and their concentration on few components have too much"
    )
    contrastive_node_type: str = _parameter("disease", "node type of the contrastive loss; ignored when the graph lacks it")
    contrastive_temperature: float = _parameter(0.1, "temperature of InfoNCE")
    similarity_threshold: float = _parameter(0.1, "Jaccard similarity of neighbour sets from which two nodes attract")
    max_grad_norm: float = _parameter(1.0, "gradients are clipped to this norm")
    patience: int = _parameter(10, "epochs without a better validation MRR before training stops", "epochs", changes_result=False)
    num_val_edges: int = _parameter(5000, "most held-out edges ranked after each epoch", "edges")
    checkpoint_minutes: float = _parameter(10.0, "longest time between two checkpoints within an epoch", "minutes", changes_result=False)

    @property
    def compute_device(self) -> str | None:
        """`device` as the library knows it: in the worker, too, it is the CPU that computes."""
        return "cpu" if self.device == "docker-cpu" else self.device


# The checks of `hgt/validation.py`, those that decide by default first.
REQUIRED_CHECKS = (
    *("finite", "mean_cosine", "components_90", "effective_rank", "distinct_rows", "dead_dimensions", "type_spread", "tiny_norms"),
    *("type_accuracy", "mrr"),
)
CHECKS = (
    *REQUIRED_CHECKS,
    *("norm_ratio", "plane_accuracy", "silhouette", "disease_cosine", "similarity_correlation", "untrained_nodes"),
)


@dataclass(frozen=True)
class BaselineConfig:
    """What the embeddings' ranks are compared with; it does not touch them."""

    baselines: tuple[str, ...] = _parameter(
        ("random", "degree", "complex"),
        "what the ranks are compared with: random vectors, degrees in training, shallow models (distmult, complex); or none",
        choices=("random", "degree", "distmult", "complex", "none"),
        changes_result=False,
    )
    baseline_time: float = _parameter(
        0.25, "most training time of each shallow baseline, as a share of HGT's; 1 gives it the same", changes_result=False
    )


@dataclass(frozen=True)
class ValidationConfig:
    """Which checks decide, and their thresholds (FACTS.md 1); they do not touch training."""

    required_checks: tuple[str, ...] = _parameter(
        REQUIRED_CHECKS, "checks that must pass; all others advise", choices=CHECKS, changes_result=False
    )
    max_mean_cosine: float = _parameter(0.5, "mean pairwise cosine must stay below", changes_result=False)
    min_components_90: int = _parameter(15, "PCA components for 90 % of the variance must reach", "components", changes_result=False)
    min_effective_rank: float = _parameter(
        10.0, "effective rank (exp of the entropy of the explained variance) must reach", "components", changes_result=False
    )
    min_distinct_rows: float = _parameter(0.99, "number of different rows over the number of rows must reach", changes_result=False)
    max_dead_dimensions: float = _parameter(0.05, "share of dimensions with nearly no variance must not exceed", changes_result=False)
    min_type_spread: float = _parameter(
        0.05, "least spread of a type's directions, over the mean of all types, must reach", changes_result=False
    )
    max_tiny_norms: float = _parameter(0.01, "share of rows near zero must not exceed", changes_result=False)
    max_norm_ratio: float = _parameter(100.0, "largest norm over the median norm must not exceed", "times", changes_result=False)
    min_type_accuracy: float = _parameter(
        0.7, "nearest-neighbour type accuracy in PCA space (90 % of the variance), mean over types, must reach", changes_result=False
    )
    min_plane_accuracy_over_chance: float = _parameter(
        3.0, "the same in the PCA plot over what guessing reaches, at most 0.9 in all, must reach", "times", changes_result=False
    )
    min_silhouette: float = _parameter(0.0, "mean silhouette of the types in PCA space must reach", changes_result=False)
    min_disease_cosine: float = _parameter(0.5, "mean cosine among diseases must reach", changes_result=False)
    max_disease_cosine: float = _parameter(0.8, "mean cosine among diseases must not exceed", changes_result=False)
    min_similarity_correlation: float = _parameter(
        0.1,
        "rank correlation of shared neighbours and cosines among contrastive_node_type must reach",
        changes_result=False,
    )
    max_untrained_nodes: float = _parameter(0.05, "share of nodes without training facts must not exceed", changes_result=False)
    min_mrr_over_chance: float = _parameter(3.0, "typed MRR over the MRR of random ranks must reach", "times", changes_result=False)


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
            raise InputError(f"Unknown parameter(s) {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
        groups: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            groups.setdefault(known[name].group, {})[name] = _coerced(known[name], value)
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
        try:
            values = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: holds no readable configuration ({error}). Start the run anew.") from error
        if not isinstance(values, dict):
            raise InputError(f"{path}: holds no configuration but {str(values)[:40]!r}. Start the run anew.")
        try:
            return cls.from_flat(values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def fingerprint(self) -> str:
        """Hash of every parameter that changes the result; two runs that share it may share checkpoints."""
        decisive = {p.name for p in parameters() if p.changes_result}
        text = json.dumps({k: v for k, v in self.to_flat().items() if k in decisive}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Parameter:
    """One leaf of RunConfig, as the command line, the flow and the README show it."""

    name: str
    group: str
    type: type  # the type of one value: int, float or str
    is_list: bool
    optional: bool
    default: Any
    unit: str
    help: str
    choices: tuple[str, ...]
    changes_result: bool


def parameters() -> Iterator[Parameter]:
    """Every parameter in the order of declaration."""
    for group, kind in typing.get_type_hints(RunConfig).items():
        hints = typing.get_type_hints(kind)
        for f in dataclasses.fields(kind):
            hint, optional = _without_none(hints[f.name])
            is_list = typing.get_origin(hint) is tuple
            yield Parameter(
                name=f.name,
                group=group,
                type=typing.get_args(hint)[0] if is_list else hint,
                is_list=is_list,
                optional=optional,
                default=f.default,
                **f.metadata,
            )


def _without_none(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [a for a in typing.get_args(hint) if a is not type(None)]
        return rest[0], True
    return hint, False


def _coerced(p: Parameter, value: Any) -> Any:
    """The value in the declared type (JSON has lists for tuples and ints for floats), or InputError."""
    if value is None and p.optional:
        return None
    values = list(value) if p.is_list and isinstance(value, (list, tuple)) else [value]
    out = []
    for one in values:
        if p.type is float and isinstance(one, int) and not isinstance(one, bool) and abs(one) < 2**53:
            one = float(one)
        if type(one) is not p.type:
            raise InputError(f"Parameter {p.name} takes {p.type.__name__} values, not {one!r}.")
        if p.choices and one not in p.choices:
            raise InputError(f"Parameter {p.name} takes one of {', '.join(p.choices)}, not {one!r}.")
        out.append(one)
    return tuple(out) if p.is_list else out[0]


_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", re.IGNORECASE)


def parse_bytes(text: str, name: str = "memory") -> int:
    """ "16GB" -> 16 * 10^9, "16GiB" -> 16 * 2^30. Raises InputError, which tells the parameter's name."""
    match = _SIZE.fullmatch(text)
    size = int(float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " ")) if match else 0
    if not size:
        raise InputError(f"Parameter {name} takes a size such as 16GB or 12.5GiB, not {text!r}.")
    return size


_AT_LEAST_ONE = (
    *("limit_nodes", "embedding_dim", "hidden_dim", "num_layers", "num_heads", "num_epochs", "edge_sample_size", "node_batch_size"),
    *("accumulation_steps", "min_batches_per_epoch", "num_negatives", "patience", "num_val_edges", "min_components_90", "num_neighbors"),
    "min_rate_decay_steps",
)
_LEAST_MEMORY = 10**6  # "16" is 16 bytes, and meant are gigabytes
_MOST_LAYERS = 100  # a few are of use; memory is planned layer by layer
_POSITIVE = ("learning_rate", "contrastive_temperature", "max_grad_norm", "checkpoint_minutes")
_SHARES = (
    *("contrastive_weight", "similarity_threshold", "min_mirrored_share", "max_mean_cosine", "min_type_accuracy", "min_distinct_rows"),
    *("max_dead_dimensions", "min_type_spread", "max_tiny_norms", "min_silhouette", "min_disease_cosine", "max_disease_cosine"),
    *("min_similarity_correlation", "max_untrained_nodes", "softmax_correction"),
)
_NOT_NEGATIVE = (
    *("weight_decay", "isotropy_weight", "min_mrr_over_chance", "min_effective_rank", "max_norm_ratio"),
    "min_plane_accuracy_over_chance",
)


def _check_ranges(config: RunConfig) -> None:
    """InputError for the first parameter out of range."""
    flat = config.to_flat()

    def require(good: bool, name: str, need: str) -> None:
        if not good:
            raise InputError(f"Parameter {name} must be {need}, not {flat[name]!r}.")

    for name in _AT_LEAST_ONE:
        require(flat[name] is None or flat[name] >= 1, name, "1 or more")
    require(flat["num_layers"] <= _MOST_LAYERS, "num_layers", f"at most {_MOST_LAYERS}")
    for name in _POSITIVE:
        require(0 < flat[name] < float("inf"), name, "above 0")
    for name in _SHARES:
        require(0 <= flat[name] <= 1, name, "between 0 and 1")
    for name in _NOT_NEGATIVE:
        require(0 <= flat[name] < float("inf"), name, "0 or more")
    for name in ("dropout", "input_dropout", "edge_dropout", "average_decay"):
        require(0 <= flat[name] < 1, name, "at least 0 and below 1")
    require(0 <= flat["seed"] < 2**31, "seed", "between 0 and 2147483647")
    of_type = flat["split"].endswith(_HOLDOUT) and flat["split"] != _HOLDOUT
    require(flat["split"] == "random" or of_type, "split", "random or <node type>-holdout, such as disease-holdout")
    for name in ("val_fraction", "test_fraction"):
        require(0 < flat[name] <= 0.4, name, "above 0 and at most 0.4")
    require(0 < flat["baseline_time"] <= 10, "baseline_time", "above 0 and at most 10")
    require(len(set(flat["baselines"])) == len(flat["baselines"]) > 0, "baselines", "one or several, each once")
    require("none" not in flat["baselines"] or len(flat["baselines"]) == 1, "baselines", "none alone, or others")
    for name in ("max_shrinks", "num_other_negatives", "rate_decay_epochs"):
        require(flat[name] >= 0, name, "0 or more")
    for name in ("memory", "docker_memory"):
        if flat[name] is not None:
            require(parse_bytes(flat[name], name) >= _LEAST_MEMORY, name, "at least 1MB (with a unit: 16GB)")
    m = config.model
    if m.hidden_dim % m.num_heads:
        raise InputError(f"hidden_dim {m.hidden_dim} must be a multiple of num_heads {m.num_heads}.")
    if m.decoder == "complex" and m.embedding_dim % 2:
        raise InputError(f"The complex decoder needs an even embedding_dim, not {m.embedding_dim}.")
    if "complex" in flat["baselines"] and m.embedding_dim % 2:
        raise InputError(f"The complex baseline needs an even embedding_dim, not {m.embedding_dim}. Give baselines without complex.")
    require(bool(flat["required_checks"]), "required_checks", "one check or more")
    for check, least in (("components_90", "min_components_90"), ("effective_rank", "min_effective_rank")):
        if check in flat["required_checks"] and flat[least] > m.embedding_dim:
            raise InputError(
                f"{least} {flat[least]:g} cannot be reached in {m.embedding_dim} dimensions: lower it, raise embedding_dim, or leave "
                f"{check} out of required_checks."
            )
    if flat["min_disease_cosine"] > flat["max_disease_cosine"]:
        raise InputError(f"min_disease_cosine {flat['min_disease_cosine']:g} exceeds max_disease_cosine {flat['max_disease_cosine']:g}.")
    both = set(config.graph.symmetric_relations) & set(config.graph.directed_relations)
    if both:
        raise InputError(f"Relation(s) {', '.join(sorted(both))} cannot be both symmetric and directed.")
