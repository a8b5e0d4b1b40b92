"""The score of a registered version, and which of two versions is better."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from hgt.config import RunConfig
from tasks.tracking.tracked_name import MAX_TAG


@dataclass(frozen=True)
class Score:
    """The figure that decides between versions of one graph.

    mrr: filtered MRR of the test facts among nodes of the right type; None when none were ranked
    held_out: kind of the split; versions with different kinds are not comparable. The seed of the
        split is no part of it: random facts are equally hard on average.
    """

    mrr: float | None
    held_out: str

    @classmethod
    def of(cls, config: RunConfig, report: dict[str, Any]) -> Score:
        """The filtered MRR of the test facts among nodes of the right type."""
        s, ranking = config.split, report["ranking"]
        held_out = json.dumps(
            [s.split, s.val_fraction, s.test_fraction, *sorted(s.holdout_relations)]
        )
        if len(held_out) > MAX_TAG:  # too long for a tag; a hash serves comparison as well
            held_out = hashlib.sha256(held_out.encode()).hexdigest()
        return cls(ranking["typed"]["mrr"] if ranking else None, held_out)

    @classmethod
    def from_tags(cls, tags: dict[str, str]) -> Score:
        return cls(
            float(tags["typed_mrr"]) if tags.get("typed_mrr") else None, tags.get("held_out", "")
        )

    def as_tags(self) -> dict[str, str]:
        return {"typed_mrr": "" if self.mrr is None else repr(self.mrr), "held_out": self.held_out}

    def against(self, champion: Score, version: str) -> tuple[bool, str]:
        """Whether it is better than the champion, and the reason in words."""
        if self.held_out != champion.held_out:
            return (
                False,
                (
                    f"version {version}, the champion, was measured on another kind of split"
                    f" ({champion.held_out})"
                ),
            )
        if self.mrr is None or champion.mrr is None:
            return (
                False,
                (
                    f"it cannot be compared with version {version}, the champion: one of them"
                    " ranked no facts"
                ),
            )
        sign = ">" if self.mrr > champion.mrr else "<" if self.mrr < champion.mrr else "="
        return (
            self.mrr > champion.mrr,
            (
                f"typed MRR {self.mrr:.4f} {sign} {champion.mrr:.4f} of version {version}, the"
                " champion until now"
            ),
        )
