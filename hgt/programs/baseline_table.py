"""HGT against its baselines, as a table and as one sentence.

In: MRR by scope. Out: text, and a dictionary for JSON. Knows no run folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hgt.evaluation.ranking_table import shortened
from hgt.programs.mrr_by_scope import Mrr


@dataclass(frozen=True)
class Baseline:
    """One baseline's figures.

    mrr: MRR on the test facts by scope.
    num_steps: number of training steps; 0 for a baseline without training.
    seconds: time of these steps.
    ended: why the training ended.
    """

    name: str
    mrr: Mrr
    num_steps: int = 0
    seconds: float = 0.0
    ended: str = ""


@dataclass(frozen=True)
class Comparison:
    """HGT and its baselines on the same facts.

    hgt: HGT's MRR by scope.
    training_seconds: time of HGT's steps.
    """

    hgt: Mrr
    training_seconds: float
    baselines: tuple[Baseline, ...]

    def as_dict(self) -> dict[str, Any]:
        """The comparison for JSON. `ratio` is HGT's MRR over the baseline's, above 1 where HGT is
        ahead.
        """
        told = [
            {**vars(b), "ratio": {scope: self.hgt[scope] / mrr for scope, mrr in b.mrr.items()}}
            for b in self.baselines
        ]
        return {"hgt": self.hgt, "training_seconds": self.training_seconds, "baselines": told}

    def table(self) -> str:
        """The table for people: MRR by scope, and its ratio to the best baseline there."""
        names = [b.name for b in self.baselines]
        lines = [
            f"{'MRR against baselines on the same facts':<50}{'HGT':>9}"
            + "".join(f"{n:>10}" for n in names)
            + f"{'HGT / best':>12}"
        ]
        ratios, rows = [], []
        for scope, mrr in self.hgt.items():
            others = [b.mrr[scope] for b in self.baselines]
            title = {"all nodes": "among all nodes", "typed": "among nodes of the right type"}.get(
                scope, f"  {scope}"
            )
            ratios.append(mrr / max(others))
            rows.append(
                f"{title[:50]:<50}{mrr:>9.4f}"
                + "".join(f"{o:>10.4f}" for o in others)
                + f"{ratios[-1]:>10.2f} x"
            )
        worst = [rows[i] for i in sorted(range(2, len(rows)), key=lambda i: ratios[i])]
        lines += rows[:2] + shortened(rows[2:], "edge types", "with most ranks", worst)
        lines += [
            f"{b.name}: {b.num_steps} steps in {b.seconds:.0f} s "
            f"(HGT: {self.training_seconds:.0f} s), {b.ended}"
            for b in self.baselines
            if b.ended
        ]
        return "\n".join([*lines, self.verdict()])

    def verdict(self) -> str:
        """One sentence: HGT against the best baseline among nodes of the right type, among all
        nodes, and on each edge type.
        """
        told = []
        for scope, title in (("typed", "nodes of the right type"), ("all nodes", "all nodes")):
            best = max(self.baselines, key=lambda b: b.mrr[scope])
            ratio = self.hgt[scope] / best.mrr[scope]
            told.append(
                f"{ratio:.2f} x the MRR of {best.name} among {title}"
                f" ({'ahead' if ratio > 1 else 'not ahead'})"
            )
        edge_types = [scope for scope in self.hgt if scope not in ("typed", "all nodes")]
        ahead = sum(
            self.hgt[scope] > max(b.mrr[scope] for b in self.baselines) for scope in edge_types
        )
        return (
            f"against the best baseline: HGT has {told[0]}, {told[1]}, and is ahead on {ahead} of"
            f" {len(edge_types)} edge types"
        )
