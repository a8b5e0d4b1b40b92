"""What the ranks of the embeddings are compared with."""

from __future__ import annotations

from dataclasses import dataclass

from hgt.config.model import ModelConfig
from hgt.errors import InputError
from hgt.parameter import Range, check_values, parameter, require


def _check_baselines(name: str, baselines: tuple[str, ...]) -> None:
    each_once = len(set(baselines)) == len(baselines) > 0
    require(each_once, name, "one or several, each once", baselines)
    alone = "none" not in baselines or len(baselines) == 1
    require(alone, name, "none alone, or others", baselines)


@dataclass(frozen=True)
class BaselineConfig:
    """What the embeddings' ranks are compared with; it does not touch them."""

    baselines: tuple[str, ...] = parameter(
        ("random", "degree", "complex"),
        "baselines that the ranks are compared with: random vectors, degrees in the training"
        " graph, shallow models (distmult, complex), or none",
        choices=("random", "degree", "distmult", "complex", "none"),
        changes_result=False,
        check=_check_baselines,
    )
    baseline_time: float = parameter(
        0.25,
        "maximum training time of each shallow baseline, as a share of HGT's. 1 gives it as much"
        " time as HGT",
        changes_result=False,
        range=Range(0, 10, open_low=True),
    )

    def __post_init__(self) -> None:
        check_values(self)


def check_complex_baseline(baseline: BaselineConfig, model: ModelConfig) -> None:
    """InputError where the ComplEx baseline is asked for in an odd number of dimensions."""
    if "complex" in baseline.baselines and model.embedding_dim % 2:
        raise InputError(
            f"The complex baseline needs an even embedding_dim, not {model.embedding_dim}. Give"
            " baselines without complex."
        )
