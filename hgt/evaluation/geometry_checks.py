"""Checks of the vectors alone: rows, collapse, separation of the node types.

In: a `Geometry` and the thresholds. Out: `Check`s. Knows no graph and no ranks.
"""

from __future__ import annotations

from hgt.config import ValidationConfig
from hgt.evaluation.check import Check, at_least, at_most, check
from hgt.evaluation.geometry import Geometry


def collapse_checks(g: Geometry, config: ValidationConfig) -> list[Check]:
    """Checks whether all vectors are alike, or lie in few directions."""
    least, spread, meaning = (
        config.min_type_spread,
        None,
        "no type has 5 nodes, so none can be told to be dead",
    )
    if g.spread_by_type:
        flattest, spread = min(g.spread_by_type.items(), key=lambda i: i[1])
        meaning = f"low: the nodes of a type cannot be told apart (dead type); flattest: {flattest}"
    return [
        check(
            config,
            "mean_cosine",
            "mean pairwise cosine",
            g.mean_cosine,
            f"< {config.max_mean_cosine:g}",
            g.mean_cosine < config.max_mean_cosine,
            "high: all nodes point the same way (collapse)",
        ),
        at_least(
            config,
            "components_90",
            "components for 90 % of variance",
            g.components_90,
            config.min_components_90,
            "low: the vectors fill few of their dimensions (collapse)",
        ),
        at_least(
            config,
            "effective_rank",
            "effective rank",
            g.effective_rank,
            config.min_effective_rank,
            "low: a few directions carry nearly all of the variance (collapse)",
        ),
        at_most(
            config,
            "dead_dimensions",
            "dead dimensions",
            g.dead_dimensions,
            config.max_dead_dimensions,
            "share of dimensions in which all nodes have nearly the same value",
        ),
        at_least(config, "type_spread", "spread of the flattest type", spread, least, meaning),
    ]


def row_checks(g: Geometry, config: ValidationConfig) -> list[Check]:
    """Checks of single rows: finite, distinct, and of a usual length."""
    return [
        check(
            config,
            "finite",
            "rows not finite",
            g.num_not_finite,
            "= 0",
            g.num_not_finite == 0,
            "a NaN or infinite vector is of no use to anyone",
        ),
        at_least(
            config,
            "distinct_rows",
            "distinct rows",
            g.distinct_share,
            config.min_distinct_rows,
            "low: nodes share one vector and cannot be told apart",
        ),
        at_most(
            config,
            "tiny_norms",
            "rows near zero",
            g.tiny_norms,
            config.max_tiny_norms,
            "share of vectors that say next to nothing: at most a thousandth of the median norm",
        ),
        at_most(
            config,
            "norm_ratio",
            "largest norm over the median",
            g.norm_ratio,
            config.max_norm_ratio,
            "high: a few nodes outweigh all others in sums and inner products",
            unit=" x",
        ),
    ]


def type_checks(g: Geometry, node_type: str, config: ValidationConfig) -> list[Check]:
    """Checks whether the vectors separate the node types.

    node_type: the type that `disease_cosine` is computed for.
    """
    in_plane = min(
        config.min_plane_accuracy_over_chance / max(len(set(g.plane_types.tolist())), 1), 0.9
    )
    apart = "there are too few types, or nodes of them"
    cosine, low, high = (
        g.mean_cosine_by_type.get(node_type),
        config.min_disease_cosine,
        config.max_disease_cosine,
    )
    checks = [
        at_least(
            config,
            "type_accuracy",
            "type accuracy in PCA space",
            g.type_accuracy,
            config.min_type_accuracy,
            apart if g.type_accuracy is None else "low: nodes of different types are mixed up",
        ),
        check(
            config,
            "plane_accuracy",
            "type accuracy in the PCA plot",
            g.plane_type_accuracy,
            f">= {in_plane:.2f}",
            g.plane_type_accuracy is not None and g.plane_type_accuracy >= in_plane,
            (
                apart
                if g.plane_type_accuracy is None
                else "how clearly the PCA plot shows the types; two of many dimensions"
            ),
        ),
        at_least(
            config,
            "silhouette",
            "silhouette of the types",
            g.silhouette,
            config.min_silhouette,
            (
                apart
                if g.silhouette is None
                else "below 0: nodes lie nearer to another type than to their own"
            ),
        ),
    ]
    if cosine is None:
        return checks
    meaning = "the band that was hoped for; advice: sound vectors may lie outside it"
    band = f"{low} - {high}"
    return [
        *checks,
        check(
            config,
            "disease_cosine",
            f"mean cosine among {node_type} nodes",
            cosine,
            band,
            low <= cosine <= high,
            meaning,
        ),
    ]
