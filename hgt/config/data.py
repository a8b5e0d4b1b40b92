"""Which facts of the file a run learns from, and which of them it holds out."""

from __future__ import annotations

from dataclasses import dataclass

from hgt.config.ranges import COUNT, SHARE
from hgt.errors import InputError
from hgt.parameter import Range, check_values, parameter, require

_HELD_OUT = Range(0, 0.4, open_low=True)
_HOLDOUT = "-holdout"


@dataclass(frozen=True)
class GraphConfig:
    """Which part of the file is learned from, and how its relations are read."""

    include_node_types: tuple[str, ...] | None = parameter(
        None, "keep only nodes of these types. Keeps all types when not given"
    )
    limit_nodes: int | None = parameter(
        None,
        "train on a connected sample of this size, in which node types keep their shares. Takes"
        " the whole graph when not given",
        "nodes",
        range=COUNT,
    )
    symmetric_relations: tuple[str, ...] = parameter(
        (),
        "relations that hold in both directions. Overrides what their rows suggest",
    )
    directed_relations: tuple[str, ...] = parameter(
        (),
        "relations that hold in one direction. A row and its mirror row count as two facts",
    )
    min_mirrored_share: float = parameter(
        0.9,
        "a relation is symmetric when at least this share of its rows has a mirror row. A row and"
        " its mirror row then count as one fact",
        range=SHARE,
    )

    def __post_init__(self) -> None:
        check_values(self)
        both = set(self.symmetric_relations) & set(self.directed_relations)
        if both:
            raise InputError(
                f"Relation(s) {', '.join(sorted(both))} cannot be both symmetric and directed."
            )


def _check_split(name: str, split: str) -> None:
    of_type = split.endswith(_HOLDOUT) and split != _HOLDOUT
    need = "random or <node type>-holdout, such as disease-holdout"
    require(split == "random" or of_type, name, need, split)


@dataclass(frozen=True)
class SplitConfig:
    """Which facts are held out of training."""

    val_fraction: float = parameter(
        0.05,
        "share of each edge type's facts held out for early stopping. A holdout split takes this"
        " share of its nodes and of the other edge types' facts",
        range=_HELD_OUT,
    )
    test_fraction: float = parameter(
        0.05,
        "share of each edge type's facts held out for the final figures. A holdout split takes"
        " this share of its nodes and no other facts",
        range=_HELD_OUT,
    )
    seed: int = parameter(
        0,
        "seed of the split, the initial weights, the batches and the dropout",
        range=Range(0, 2**31 - 1),
    )
    split: str = parameter(
        "random",
        "which facts are held out. random: facts of each edge type, drawn at random."
        " disease-holdout: all drug facts of some diseases (zero-shot). Other node types work"
        " alike",
        check=_check_split,
    )
    holdout_relations: tuple[str, ...] = parameter(
        (),
        "relations whose facts a holdout split holds out. When not given, all relations between"
        " its node type and drug (for drug itself: disease)",
    )

    def __post_init__(self) -> None:
        check_values(self)

    @property
    def holdout_type(self) -> str | None:
        """The node type of a holdout split; None where random facts are held out."""
        return None if self.split == "random" else self.split.removesuffix(_HOLDOUT)
