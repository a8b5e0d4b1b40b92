"""The optimizer of a run: AdamW, its learning rate from epoch to epoch, and one update.

In: a model's parameters with their gradients. Out: changed parameters. It does not know where the
gradients come from.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from hgt.config import OptimizerConfig
from hgt.device.traits import traits_of
from hgt.model.hgt_model import HGTModel
from hgt.model.shallow import ShallowModel

_LEAST_RATE = 0.02  # of the learning rate, once it has fallen


def adam(model: nn.Module, config: OptimizerConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW without weight decay of its own, see `update`.

    Fused: this kernel is known to run on MPS.
    """
    return torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        weight_decay=0.0,
        fused=True,
        capturable=traits_of(device.type).records_steps,
    )


def learning_rate(config: OptimizerConfig, epoch: int, num_batches: int) -> float:
    """It falls along half a cosine (Loshchilov & Hutter 2017, without restarts).

    A function of its arguments alone: a run that is resumed, also with more epochs or on another
    device, continues as it would have.

    epoch: counted from 0.
    num_batches: steps of an epoch.
    """
    num_steps = max(config.rate_decay_epochs * num_batches, config.min_rate_decay_steps)
    passed = min(1.0, epoch * num_batches / num_steps) if config.rate_decay_epochs else 0.0
    left = (1 + math.cos(math.pi * passed)) / 2
    return config.learning_rate * (_LEAST_RATE + (1 - _LEAST_RATE) * left)


@torch.no_grad()
def update(
    model: HGTModel | ShallowModel, optimizer: torch.optim.AdamW, config: OptimizerConfig
) -> None:
    """Weight decay of the attention's matrices, then Adam's step.

    The decay is decoupled (Loshchilov & Hutter 2019).     AdamW itself would decay whole
    parameters, and a layer's values lie in one tensor with its keys and queries.
    """
    if config.weight_decay:
        kept = 1 - config.weight_decay * optimizer.param_groups[0]["lr"]
        for matrices in model.encoder.attention_maps():
            matrices.mul_(kept)
    optimizer.step()
