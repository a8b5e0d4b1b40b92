"""The acceptance of an embedding table.

In: the measured figures. Out: a `ValidationReport`. Geometry alone accepts random noise, and
ranking alone accepts collapsed types. So both are required. The configuration says which checks are
required.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hgt.config import ValidationConfig
from hgt.evaluation.check import Check
from hgt.evaluation.edge_classification import ClassificationReport
from hgt.evaluation.geometry import Geometry
from hgt.evaluation.geometry_checks import collapse_checks, row_checks, type_checks
from hgt.evaluation.graph_checks import graph_checks
from hgt.evaluation.neighbourhoods import Neighbourhoods
from hgt.evaluation.ranking import RankingReport
from hgt.evaluation.ranking_table import ranking_lines, shortened


@dataclass(frozen=True)
class Measured:
    """All figures of a table of embeddings.

    ranking: None where no fact was held out.
    classification: None where no fact has a negative.
    """

    geometry: Geometry
    neighbourhoods: Neighbourhoods
    ranking: RankingReport | None
    classification: ClassificationReport | None


@dataclass(frozen=True)
class ValidationReport:
    """The checks of a table, and the figures that they come from."""

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
        """Whether every required check passed."""
        return all(c.passed for c in self.checks if c.required)

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON, with the figures of every edge type and node type."""
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
        """The report as a table for people."""
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
            lines += ["", *ranking_lines(self.ranking, self.measured.classification)]
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
    """Compare the figures with the thresholds."""
    checks = [
        *row_checks(measured.geometry, config),
        *collapse_checks(measured.geometry, config),
        *type_checks(measured.geometry, measured.neighbourhoods.node_type, config),
        *graph_checks(measured.neighbourhoods, measured.ranking, config),
    ]
    return ValidationReport(tuple(checks), measured)
