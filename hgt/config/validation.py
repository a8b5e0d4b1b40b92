"""Which validation checks decide, and their thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hgt.config.model import ModelConfig
from hgt.config.ranges import FACTOR, SHARE, WIDTH
from hgt.errors import InputError
from hgt.parameter import Range, check_values, parameter, require

# The checks of `hgt/evaluation/`, those that decide by default first.
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


def _check_required(name: str, checks: tuple[str, ...]) -> None:
    require(bool(checks), name, "one check or more", checks)


@dataclass(frozen=True)
class ValidationConfig:
    """Which checks decide, and their thresholds; they do not touch training."""

    required_checks: tuple[str, ...] = parameter(
        REQUIRED_CHECKS,
        "checks that must pass. All others only advise",
        choices=CHECKS,
        changes_result=False,
        check=_check_required,
    )
    max_mean_cosine: float = parameter(
        0.5, "upper limit of the mean cosine between embeddings", changes_result=False, range=SHARE
    )
    min_components_90: int = parameter(
        15,
        "minimum number of PCA components for 90 % of the variance",
        "components",
        changes_result=False,
        range=WIDTH,
    )
    min_effective_rank: float = parameter(
        10.0,
        "minimum effective rank, which is exp of the entropy of the explained variance",
        "components",
        changes_result=False,
        range=Range(0, 65_536),
    )
    min_distinct_rows: float = parameter(
        0.99,
        "minimum share of embeddings that differ from one another",
        changes_result=False,
        range=SHARE,
    )
    max_dead_dimensions: float = parameter(
        0.05,
        "maximum share of dimensions with almost no variance",
        changes_result=False,
        range=SHARE,
    )
    min_type_spread: float = parameter(
        0.05,
        "minimum spread of each node type's directions, as a share of the mean spread of all types",
        changes_result=False,
        range=SHARE,
    )
    max_tiny_norms: float = parameter(
        0.01, "maximum share of embeddings with a norm near zero", changes_result=False, range=SHARE
    )
    max_norm_ratio: float = parameter(
        100.0,
        "maximum ratio of the largest norm to the median norm",
        "times",
        changes_result=False,
        range=FACTOR,
    )
    min_type_accuracy: float = parameter(
        0.7,
        "minimum accuracy of the nearest neighbour's node type, as the mean over types. Computed on"
        " the PCA components for 90 % of the variance",
        changes_result=False,
        range=SHARE,
    )
    min_plane_accuracy_over_chance: float = parameter(
        3.0,
        "minimum ratio of the nearest-neighbour accuracy in the PCA plot to that of guessing. An"
        " accuracy of 0.9 always passes",
        "times",
        changes_result=False,
        range=FACTOR,
    )
    min_silhouette: float = parameter(
        0.0,
        "minimum mean silhouette of the node types in PCA space",
        changes_result=False,
        range=SHARE,
    )
    min_disease_cosine: float = parameter(
        0.5, "minimum mean cosine between diseases", changes_result=False, range=SHARE
    )
    max_disease_cosine: float = parameter(
        0.8, "maximum mean cosine between diseases", changes_result=False, range=SHARE
    )
    min_similarity_correlation: float = parameter(
        0.1,
        "minimum rank correlation between shared neighbours and cosines of nodes of"
        " contrastive_node_type",
        changes_result=False,
        range=SHARE,
    )
    max_untrained_nodes: float = parameter(
        0.05,
        "maximum share of nodes without training facts",
        changes_result=False,
        range=SHARE,
    )
    min_mrr_over_chance: float = parameter(
        3.0,
        "minimum ratio of the typed MRR to the MRR of random ranks",
        "times",
        changes_result=False,
        range=FACTOR,
    )

    def __post_init__(self) -> None:
        check_values(self)
        if self.min_disease_cosine > self.max_disease_cosine:
            raise InputError(
                f"min_disease_cosine {self.min_disease_cosine:g} exceeds max_disease_cosine"
                f" {self.max_disease_cosine:g}."
            )


def most_components_90(directions: int) -> int:
    """Most components that 90 % of a variance in so many directions can need: where all are
    alike.
    """
    return math.ceil(0.9 * directions - 1e-9)


def check_reachable(validation: ValidationConfig, model: ModelConfig) -> None:
    """InputError where a required check cannot pass in the dimensions of the embeddings."""
    dim = model.embedding_dim
    for check, name, least, reached in (
        (
            "components_90",
            "min_components_90",
            validation.min_components_90,
            most_components_90(dim),
        ),
        ("effective_rank", "min_effective_rank", validation.min_effective_rank, dim),
    ):
        if check in validation.required_checks and least > reached:
            raise InputError(
                f"{name} {least:g} cannot be reached in {dim} dimensions: lower"
                f" it, raise embedding_dim, or leave {check} out of required_checks."
            )
