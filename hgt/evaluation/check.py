"""One check: a figure, its threshold, the verdict and the meaning.

In: a figure and its threshold. Out: a `Check`. Knows nothing of where the figure comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

from hgt.config import ValidationConfig


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


def at_least(
    config: ValidationConfig,
    key: str,
    name: str,
    value: float | int | None,
    threshold: float | int,
    meaning: str,
    unit: str = "",
) -> Check:
    return check(
        config,
        key,
        name,
        value,
        f">= {threshold:g}{unit}",
        value is not None and value >= threshold,
        meaning,
    )


def at_most(
    config: ValidationConfig,
    key: str,
    name: str,
    value: float,
    threshold: float,
    meaning: str,
    unit: str = "",
) -> Check:
    return check(config, key, name, value, f"<= {threshold:g}{unit}", value <= threshold, meaning)


def check(
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
