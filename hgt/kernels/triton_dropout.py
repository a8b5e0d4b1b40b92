"""CUDA formulation of `dropout_mask`: one Triton kernel for a mask, where torch needs some 25 for
every million elements.

Imported on CUDA alone; the same integers, so the same elements are kept.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_HASHES_PER_PROGRAM = 1_024


@triton.jit
def _fill(kept, seed, half, least, BLOCK: tl.constexpr):
    """See `dropout_mask.fill`."""
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = number < half
    hashes = number.to(tl.uint32, bitcast=True)
    for place in tl.static_range(2):
        hashes += tl.load(seed + place).to(tl.uint32, bitcast=True)
        hashes ^= hashes >> 16
        hashes *= 0x7FEB352D
        hashes ^= hashes >> 15
        hashes *= 0x846CA68B
        hashes ^= hashes >> 16
    place_of_upper = kept + number.to(tl.int64)
    tl.store(place_of_upper, hashes.to(tl.int32, bitcast=True) >= least, mask=inside)
    tl.store(place_of_upper + half, (hashes << 16).to(tl.int32, bitcast=True) >= least, mask=inside)


def fill(kept: Tensor, seed: Tensor, least: int) -> None:
    """As `dropout_mask.fill`."""
    half = len(kept) // 2
    if half:
        _fill[(triton.cdiv(half, _HASHES_PER_PROGRAM),)](
            kept.view(torch.int8), seed, half, least, BLOCK=_HASHES_PER_PROGRAM
        )
