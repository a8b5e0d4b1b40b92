"""The weights of a model in training, as tensors of a checkpoint.

In: a `Trainee`. Out: named tensors, and the way back. Knows no files.
"""

from __future__ import annotations

from torch import Tensor

from hgt.run.checkpoint import (
    load_model,
    state_of,
    state_tensors,
)
from hgt.training.trainee import Trainee


def weight_tensors(trainee: Trainee) -> dict[str, Tensor]:
    """The weights for a checkpoint.

    `model.*` is the model that the run keeps. Where that is an average, `training.*` is the model
    in training.
    """
    if trainee.average is None:
        return state_tensors("model", trainee.model.state_dict())
    return state_tensors("model", trainee.average.tensors) | state_tensors(
        "training", trainee.model.state_dict()
    )


def load_weights(trainee: Trainee, tensors: dict[str, Tensor]) -> None:
    """Load the tensors of `weight_tensors`."""
    if trainee.average is not None:
        trainee.average.load(state_of("model", tensors))
    load_model(trainee.model, "model" if trainee.average is None else "training", tensors)
