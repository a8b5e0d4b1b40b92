"""The acceptance of an embedding table: checks with value, threshold, verdict and meaning.

In: what was measured. Out: a `ValidationReport`. Geometry alone passes random noise and ranking
alone passes collapsed types, so both are required. Which checks are required is configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from hgt.config import ValidationConfig
from hgt.evaluation.edge_classification import ClassificationMetrics, ClassificationReport
from hgt.evaluation.geometry import Geometry
from hgt.evaluation.neighbourhoods import Neighbourhoods
from hgt.evaluation.ranking import RankingMetrics, RankingReport
from hgt.graph.facts import edge_type_name

_FEW_RANKS = 100
_MOST_ROWS, _WORST_ROWS = 40, 5  # of a table for people


@dataclass(frozen=True)
class Check:
    """One figure against its threshold. `required` checks decide; the others advise.

    key: what `required_checks` calls it; value: None where the graph or the table leaves nothing to
        measure, which decides nothing but for the ranks: where they are required and nothing was
        ranked, nothing says that the embeddings know the graph
    """

    key: str
    name: str
    value: float | int | None
    threshold: str
    passed: bool
    required: bool
    meaning: str

    @property
    def verdict(self) -> str:
        if self.passed:
            return "pass"
        return "FAIL" if self.required else "advice"


@dataclass(frozen=True)
class Measured:
    """All that is known of a table. ranking, classification: None where there was nothing to rank,
    or no negative to draw.
    """

    geometry: Geometry
    neighbourhoods: Neighbourhoods
    ranking: RankingReport | None
    classification: ClassificationReport | None


@dataclass(frozen=True)
class ValidationReport:
    """accepted: every required check passed."""

    checks: tuple[Check, ...]
    measured: Measured

    @property
    def geometry(self) -> Geometry:
        return self.measured.geometry

    @property
    def ranking(self) -> RankingReport | None:
        return self.measured.ranking

    @property
    def accepted(self) -> bool:
        return all(c.passed for c in self.checks if c.required)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON; figures of every edge type and node type included."""
        return {
            "accepted": self.accepted,
            "checks": [{**asdict(c), "verdict": c.verdict} for c in self.checks],
            "mean_cosine_by_type": self.geometry.mean_cosine_by_type,
            "spread_by_type": self.geometry.spread_by_type,
            "explained_variance": self.geometry.explained_variance.tolist(),
            "ranking": None if self.ranking is None else _ranking_dict(self.ranking),
            "classification": (
                None
                if self.measured.classification is None
                else _classification_dict(self.measured.classification)
            ),
        }

    def table(self) -> str:
        """The report for people."""
        lines = [f"{'check':<34}{'value':>10}  {'threshold':<18}{'verdict':<9}meaning"]
        for c in self.checks:
            value = (
                "-"
                if c.value is None
                else f"{c.value:,}"
                if isinstance(c.value, int)
                else f"{c.value:.4f}"
            )
            lines.append(f"{c.name:<34}{value:>10}  {c.threshold:<18}{c.verdict:<9}{c.meaning}")
        if within := sorted(self.geometry.mean_cosine_by_type.items(), key=lambda i: -i[1]):
            types = [f"  {t[:32]:<32}{cosine:>10.4f}" for t, cosine in within]
            lines += [
                "",
                f"{'mean cosine within a type':<34}{'cosine':>10}",
                *shortened(types, "node types", "highest"),
            ]
        if self.ranking is not None:
            lines += ["", *_ranking_lines(self.ranking, self.measured.classification)]
        lines += [
            "",
            (
                "ACCEPTED"
                if self.accepted
                else "REJECTED: "
                + "; ".join(c.name for c in self.checks if c.required and not c.passed)
            ),
        ]
        return "\n".join(lines)


def _ranking_lines(
    ranking: RankingReport, classification: ClassificationReport | None
) -> list[str]:
    """Ranks, and AUROC and AUPRC where candidates are of the right type. Edge types, those with the
    most ranks first, are ranked among nodes of the right type; the last column is their MRR among
    all nodes.
    """
    micro, macro, pairs = (
        (classification.micro, classification.macro, classification.by_edge_type)
        if classification
        else (None, None, {})
    )
    titles = ("MRR", "Hits@1", "Hits@3", "Hits@10", "chance", "AUROC", "AUPRC")
    lines = [
        f"{'held-out facts':<50}{'ranks':>8}"
        + "".join(f"{title:>8}" for title in titles)
        + f"{'MRR all':>9}",
        _ranking_line("among all nodes", ranking.all_nodes, None).rstrip(),
        _ranking_line("the same, mean over edge types", ranking.all_nodes_macro, None).rstrip(),
        _ranking_line("among nodes of the right type", ranking.typed, micro),
        _ranking_line("the same, mean over edge types", ranking.typed_macro, macro),
    ]
    by_size = sorted(ranking.by_edge_type.items(), key=lambda i: -i[1].num_ranks)
    everywhere = ranking.by_edge_type_all_nodes
    told = [
        _ranking_line("  " + edge_type_name(e), m, pairs.get(e)) + f"{everywhere[e].mrr:>9.4f}"
        for e, m in by_size
    ]
    worst = sorted(range(len(told)), key=lambda i: by_size[i][1].mrr / by_size[i][1].chance_mrr)
    return lines + shortened(told, "edge types", "with most ranks", [told[i] for i in worst])


def shortened(rows: list[str], what: str, first: str, worst: Sequence[str] = ()) -> list[str]:
    """A long table's first rows and the five worst of the others, with a line that says so; every
    figure is in the JSON report.
    """
    if len(rows) <= _MOST_ROWS:
        return rows
    head = rows[: _MOST_ROWS - _WORST_ROWS - 1] if worst else rows[: _MOST_ROWS - 1]
    last = [row for row in worst if row not in head][:_WORST_ROWS]
    also = f", and below the {len(last)} worst of the others" if last else ""
    return [
        *head,
        f"  the {len(head)} {first} of {len(rows):,} {what}{also}; report/validation.json has all",
        *last,
    ]


def _ranking_line(name: str, m: RankingMetrics, pairs: ClassificationMetrics | None) -> str:
    figures = [m.mrr, *(m.hits[k] for k in (1, 3, 10)), m.chance_mrr]
    against_false = f"{pairs.auroc:>8.4f}{pairs.auprc:>8.4f}" if pairs else " " * 16
    return (
        f"{name[:50]:<50}{m.num_ranks:>8,}" + "".join(f"{f:>8.4f}" for f in figures) + against_false
    )


def _ranking_dict(report: RankingReport) -> dict[str, Any]:
    return {
        "all_nodes": asdict(report.all_nodes),
        "all_nodes_macro": asdict(report.all_nodes_macro),
        "typed": asdict(report.typed),
        "typed_macro": asdict(report.typed_macro),
        "by_edge_type": [
            {
                "edge_type": list(e),
                **asdict(m),
                "all_nodes": asdict(report.by_edge_type_all_nodes[e]),
            }
            for e, m in report.by_edge_type.items()
        ],
    }


def _classification_dict(report: ClassificationReport) -> dict[str, Any]:
    return {
        "micro": asdict(report.micro),
        "macro": asdict(report.macro),
        "by_edge_type": [
            {"edge_type": list(e), **asdict(m)} for e, m in report.by_edge_type.items()
        ],
        "num_without_negative": report.num_without_negative,
    }


def validate(measured: Measured, config: ValidationConfig) -> ValidationReport:
    """Hold the figures against the thresholds."""
    checks = [
        *_row_checks(measured.geometry, config),
        *_collapse_checks(measured.geometry, config),
        *_type_checks(measured.geometry, measured.neighbourhoods.node_type, config),
        *_graph_checks(measured, config),
    ]
    return ValidationReport(tuple(checks), measured)


def _collapse_checks(g: Geometry, config: ValidationConfig) -> list[Check]:
    """All nodes alike, or in few directions."""
    least, spread, meaning = (
        config.min_type_spread,
        None,
        "no type has 5 nodes, so none can be told to be dead",
    )
    if g.spread_by_type:
        flattest, spread = min(g.spread_by_type.items(), key=lambda i: i[1])
        meaning = f"low: the nodes of a type cannot be told apart (dead type); flattest: {flattest}"
    return [
        _check(
            config,
            "mean_cosine",
            "mean pairwise cosine",
            g.mean_cosine,
            f"< {config.max_mean_cosine:g}",
            g.mean_cosine < config.max_mean_cosine,
            "high: all nodes point the same way (collapse)",
        ),
        _at_least(
            config,
            "components_90",
            "components for 90 % of variance",
            g.components_90,
            config.min_components_90,
            "low: the vectors fill few of their dimensions (collapse)",
        ),
        _at_least(
            config,
            "effective_rank",
            "effective rank",
            g.effective_rank,
            config.min_effective_rank,
            "low: a few directions carry nearly all of the variance (collapse)",
        ),
        _at_most(
            config,
            "dead_dimensions",
            "dead dimensions",
            g.dead_dimensions,
            config.max_dead_dimensions,
            "share of dimensions in which all nodes have nearly the same value",
        ),
        _at_least(config, "type_spread", "spread of the flattest type", spread, least, meaning),
    ]


def _row_checks(g: Geometry, config: ValidationConfig) -> list[Check]:
    """Rows of no use."""
    return [
        _check(
            config,
            "finite",
            "rows not finite",
            g.num_not_finite,
            "= 0",
            g.num_not_finite == 0,
            "a NaN or infinite vector is of no use to anyone",
        ),
        _at_least(
            config,
            "distinct_rows",
            "distinct rows",
            g.distinct_share,
            config.min_distinct_rows,
            "low: nodes share one vector and cannot be told apart",
        ),
        _at_most(
            config,
            "tiny_norms",
            "rows near zero",
            g.tiny_norms,
            config.max_tiny_norms,
            "share of vectors that say next to nothing: at most a thousandth of the median norm",
        ),
        _at_most(
            config,
            "norm_ratio",
            "largest norm over the median",
            g.norm_ratio,
            config.max_norm_ratio,
            "high: a few nodes outweigh all others in sums and inner products",
            unit=" x",
        ),
    ]


def _type_checks(g: Geometry, node_type: str, config: ValidationConfig) -> list[Check]:
    """Types told apart. node_type: the one that `disease_cosine` is of"""
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
        _at_least(
            config,
            "type_accuracy",
            "type accuracy in PCA space",
            g.type_accuracy,
            config.min_type_accuracy,
            apart if g.type_accuracy is None else "low: nodes of different types are mixed up",
        ),
        _check(
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
        _at_least(
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
        _check(
            config,
            "disease_cosine",
            f"mean cosine among {node_type} nodes",
            cosine,
            band,
            low <= cosine <= high,
            meaning,
        ),
    ]


def _graph_checks(measured: Measured, config: ValidationConfig) -> list[Check]:
    """Vectors that know the graph."""
    n, ranking = measured.neighbourhoods, measured.ranking
    most = int(config.max_untrained_nodes * n.num_nodes)
    agree = (
        f"rank correlation of {n.node_type} pairs: nodes with the same neighbours have similar"
        " vectors"
    )
    ratio, least = None, config.min_mrr_over_chance
    meaning = (
        "no fact was held out, so nothing could be ranked: hold out more, or do not require it"
    )
    if ranking is not None:
        typed, meaning = (
            ranking.typed,
            "held-out facts rank above others: the vectors know the graph",
        )
        ratio = typed.mrr / typed.chance_mrr
        # of few candidates chance is high, and so many times it may be more than 1; half way from
        # it to 1 is asked for at most
        least = min(least, round((1 + typed.chance_mrr) / 2 / typed.chance_mrr, 2))
        if typed.num_ranks < _FEW_RANKS:
            meaning += f"; of {typed.num_ranks} ranks alone, so chance has a say"
    return [
        _at_least(
            config,
            "similarity_correlation",
            "shared neighbours and cosines",
            n.correlation,
            config.min_similarity_correlation,
            (
                agree
                if n.correlation is not None
                else f"too few pairs of {n.node_type} nodes that differ"
            ),
        ),
        _check(
            config,
            "untrained_nodes",
            "nodes without training facts",
            n.num_untrained,
            f"<= {most:,}",
            n.num_untrained <= most,
            "nothing is known of these nodes but their type",
        ),
        replace(
            _at_least(config, "mrr", "typed MRR over chance", ratio, least, meaning, unit=" x"),
            required="mrr" in config.required_checks,
        ),
    ]


def _at_least(
    config: ValidationConfig,
    key: str,
    name: str,
    value: float | int | None,
    threshold: float | int,
    meaning: str,
    unit: str = "",
) -> Check:
    return _check(
        config,
        key,
        name,
        value,
        f">= {threshold:g}{unit}",
        value is not None and value >= threshold,
        meaning,
    )


def _at_most(
    config: ValidationConfig,
    key: str,
    name: str,
    value: float,
    threshold: float,
    meaning: str,
    unit: str = "",
) -> Check:
    return _check(config, key, name, value, f"<= {threshold:g}{unit}", value <= threshold, meaning)


def _check(
    config: ValidationConfig,
    key: str,
    name: str,
    value: float | int | None,
    threshold: str,
    passed: bool,
    meaning: str,
) -> Check:
    required = key in config.required_checks and value is not None
    return Check(key, name, value, threshold, passed, required, meaning)
