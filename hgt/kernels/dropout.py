"""Dropout (Srivastava et al. 2014) that drops the same on every device: what is kept is a function
of a seed and of the place alone.

torch's generators give CPU, CUDA and MPS different numbers for one seed. A run that is handed from
one device to another, or two runs that are compared, would train differently for no reason but
that. Here the numbers are a hash of each place's number (`dropout_mask.py`). The seeds come from
the CPU's generator.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hgt.kernels.choice import mask_kernel


def draw_seeds(*shape: int) -> Int[Tensor, "*shape 2"]:
    """int32, on the CPU, from torch's generator there."""
    return torch.randint(-(1 << 31), 1 << 31, (*shape, 2), dtype=torch.int32)


def kept_elements(
    shape: tuple[int, ...], share: float, seed: Int[Tensor, " 2"]
) -> Bool[Tensor, "*shape"]:
    """What dropout of `share` leaves, on the seed's device. The share is kept to 16 bits: to
    1 / 65536."""
    size = torch.Size(shape).numel()
    half = -(-size // 2)  # one hash for two elements
    kept = torch.empty(2 * half, dtype=torch.bool, device=seed.device)
    least = (min(round(share * (1 << 16)), (1 << 16) - 1) - (1 << 15)) << 16
    mask_kernel(seed.device.type)(kept, seed, least)
    return kept[:size].view(shape)


def dropped(
    x: Float[Tensor, "*shape"], share: float, seed: Int[Tensor, " 2"]
) -> Float[Tensor, "*shape"]:
    """x with dropout."""
    return (x * kept_elements(tuple(x.shape), share, seed)).mul_(1 / (1 - share))
