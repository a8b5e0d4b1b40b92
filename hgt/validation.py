"""The acceptance of an embedding table: checks with value, threshold, verdict and meaning.

In: geometry and ranking figures. Out: a `ValidationReport`. Geometry alone passes random noise and ranking alone passes
collapsed types, so both are required (FACTS.md 1, DESIGN.md 5.5).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hgt.config import ValidationConfig
from hgt.geometry import Geometry
from hgt.ranking import RankingMetrics, RankingReport

_DISEASE_BAND = (0.5, 0.8)  # seed.md's success criterion; it describes that model, so here it advises


@dataclass(frozen=True)
class Check:
    """One figure against its threshold. `required` checks decide; the others advise."""

    name: str
    value: float | None
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
class ValidationReport:
    """accepted: every required check passed. ranking: None where there was nothing to rank."""

    checks: tuple[Check, ...]
    geometry: Geometry
    ranking: RankingReport | None

    @property
    def accepted(self) -> bool:
        return all(c.passed for c in self.checks if c.required)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON; figures of every edge type included."""
        return {
            "accepted": self.accepted,
            "checks": [{**asdict(c), "verdict": c.verdict} for c in self.checks],
            "mean_cosine_by_type": self.geometry.mean_cosine_by_type,
            "explained_variance": self.geometry.explained_variance.tolist(),
            "ranking": None if self.ranking is None else _ranking_dict(self.ranking),
        }

    def table(self) -> str:
        """The report for people."""
        lines = [f"{'check':<34}{'value':>10}  {'threshold':<18}{'verdict':<9}meaning"]
        for c in self.checks:
            value = "-" if c.value is None else f"{c.value:,.0f}" if c.value == int(c.value) and abs(c.value) > 1 else f"{c.value:.4f}"
            lines.append(f"{c.name:<34}{value:>10}  {c.threshold:<18}{c.verdict:<9}{c.meaning}")
        if self.ranking is not None:
            lines += ["", f"{'ranked on held-out facts':<50}{'ranks':>8}{'MRR':>9}{'Hits@1':>9}{'Hits@3':>9}{'Hits@10':>9}{'chance':>9}"]
            rows = [("among all nodes", self.ranking.all_nodes), ("among nodes of the right type", self.ranking.typed)]
            rows += [("  " + " - ".join(e), m) for e, m in sorted(self.ranking.by_edge_type.items(), key=lambda i: -i[1].num_ranks)]
            lines += [_ranking_line(name, m) for name, m in rows]
        lines += ["", "ACCEPTED" if self.accepted else "REJECTED: " + "; ".join(c.name for c in self.checks if c.required and not c.passed)]
        return "\n".join(lines)


def _ranking_line(name: str, m: RankingMetrics) -> str:
    hits = "".join(f"{m.hits[k]:>9.4f}" for k in (1, 3, 10))
    return f"{name[:50]:<50}{m.num_ranks:>8,}{m.mrr:>9.4f}{hits}{m.chance_mrr:>9.4f}"


def _ranking_dict(report: RankingReport) -> dict[str, Any]:
    return {
        "all_nodes": asdict(report.all_nodes),
        "typed": asdict(report.typed),
        "by_edge_type": [{"edge_type": list(e), **asdict(m)} for e, m in report.by_edge_type.items()],
    }


def validate(geometry: Geometry, ranking: RankingReport | None, config: ValidationConfig) -> ValidationReport:
    """Hold the figures against the thresholds."""
    checks = [
        Check(
            "rows not finite", float(geometry.num_not_finite), "= 0", geometry.num_not_finite == 0, True,
            "a NaN or infinite vector is of no use to anyone",
        ),
        Check(
            "mean pairwise cosine", geometry.mean_cosine, f"< {config.max_mean_cosine:g}",
            geometry.mean_cosine < config.max_mean_cosine, True, "high: all nodes point the same way (collapse)",
        ),
        Check(
            "components for 90 % of variance", float(geometry.components_90), f">= {config.min_components_90}",
            geometry.components_90 >= config.min_components_90, True, "low: the vectors fill few of their dimensions (collapse)",
        ),
        Check(
            "type accuracy in PCA space", geometry.type_accuracy, f">= {config.min_type_accuracy:g}",
            geometry.type_accuracy >= config.min_type_accuracy, True, "low: nodes of different types are mixed up",
        ),
        _plane_check(geometry),
        *_disease_check(geometry),
        _ranking_check(ranking, config),
    ]  # fmt: skip
    return ValidationReport(tuple(checks), geometry, ranking)


def _plane_check(geometry: Geometry) -> Check:
    threshold = min(3 / max(len(set(geometry.plane_types.tolist())), 1), 0.9)  # three times what guessing reaches
    value = geometry.plane_type_accuracy
    meaning = "how clearly the PCA plot shows the types; two of many dimensions"
    return Check("type accuracy in the PCA plot", value, f">= {threshold:.2f}", value >= threshold, False, meaning)


def _disease_check(geometry: Geometry) -> list[Check]:
    value = geometry.mean_cosine_by_type.get("disease")
    if value is None:
        return []
    low, high = _DISEASE_BAND
    meaning = "seed.md's band; the contrastive loss spreads diseases wider"
    return [Check("mean cosine among diseases", value, f"{low} - {high}", low <= value <= high, False, meaning)]


def _ranking_check(ranking: RankingReport | None, config: ValidationConfig) -> Check:
    name, meaning = "typed MRR over chance", "held-out facts rank above others: the vectors know the graph"
    threshold = f">= {config.min_mrr_over_chance:g} x"
    if ranking is None:
        return Check(name, None, threshold, False, False, "the graph is too small to hold out facts: nothing could be ranked")
    ratio = ranking.typed.mrr / ranking.typed.chance_mrr
    return Check(name, ratio, threshold, ratio >= config.min_mrr_over_chance, True, meaning)
