"""A rejection in words: why validation rejects the embeddings, and what to do.

In: the checks of a validation report, and how long the run trained. Out: sentences. Knows neither
Prefect nor a run folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hgt.config import StoppingConfig

_VERDICT = "REJECTED: "
_LIMITS = {">= ": "at least ", "<= ": "at most ", "< ": "less than ", "= ": ""}
# Remedies that hold whatever the graph is, for checks that longer training does not change.
_REMEDIES = {
    "untrained_nodes": "Hold out fewer facts: lower --val-fraction and --test-fraction.",
}
_NOTHING_RANKED = "Hold out more facts: raise --test-fraction."
_SEE = "README.md, section Troubleshooting, lists causes and remedies."


def rejection(checks: Sequence[Mapping[str, Any]], num_epochs: int | None = None) -> list[str]:
    """The sentences of a rejection, one a line; [] when every required check passed.

    checks: as `report/validation.json` has them
    num_epochs: epochs that the run trained; None for a table without a run
    """
    failed = [check for check in checks if check["required"] and not check["passed"]]
    if not failed:
        return []
    return [*(f"{_VERDICT}{_reason(check)}." for check in failed), _remedy(failed, num_epochs)]


def with_rejection(table: str, sentences: Sequence[str]) -> str:
    """The report's table with these sentences in place of its last line, the verdict REJECTED."""
    lines = table.rstrip("\n").split("\n")
    if not sentences or not lines[-1].startswith(_VERDICT):
        return table
    return "\n".join([*lines[:-1], *sentences])


def _reason(check: Mapping[str, Any]) -> str:
    value, threshold = check["value"], check["threshold"].removesuffix(" x")
    if check["key"] == "mrr":
        if value is None:
            return "no facts were held out, so none could be ranked"
        times = threshold.removeprefix(">= ")
        shown = f"{math.floor(100 * value) / 100:g}"  # 2.999 is less than 3
        return f"held-out facts rank {shown} times better than chance, {times} times is required"
    sign = next((sign for sign in _LIMITS if threshold.startswith(sign)), "")
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
    limit = f"{_LIMITS.get(sign, '')}{threshold.removeprefix(sign)}"
    return f"{check['name']} is {shown}, {limit} is required"


def _remedy(failed: Sequence[Mapping[str, Any]], num_epochs: int | None) -> str:
    keys = {check["key"] for check in failed}
    if any(check["key"] == "mrr" and check["value"] is None for check in failed):
        return _NOTHING_RANKED
    if keys <= set(_REMEDIES):
        return " ".join(_REMEDIES[key] for key in sorted(keys))
    default = StoppingConfig().num_epochs
    if num_epochs is not None and num_epochs < default and "finite" not in keys:
        epochs = f"{num_epochs} epoch{'' if num_epochs == 1 else 's'}"
        return f"The run trained {epochs}, the default is {default}: train longer (--num-epochs)."
    return _SEE
