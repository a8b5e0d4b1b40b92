"""One check: a figure, its threshold, the verdict and the meaning.

In: a figure and its threshold. Out: a `Check`. It does not know how the figure was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from hgt.config import ValidationConfig


@dataclass(frozen=True)
class Check:
    """One figure and its threshold. Required checks decide; the others are advice.

    key: the name of the check in `required_checks`.
    value: the figure. None where the graph or the table leaves nothing to measure. Such a check
        decides nothing, with one exception: without ranks, a required `mrr` fails, because nothing
        shows that the embeddings know the graph.
    threshold: as text, with its sign and unit.
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
    """A check that passes from `threshold` upwards."""
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
    """A check that passes up to `threshold`."""
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
    """A check whose verdict is known. It is required only where its value could be measured."""
    required = key in config.required_checks and value is not None
    return Check(key, name, value, threshold, passed, required, meaning)
