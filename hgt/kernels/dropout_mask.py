"""Which elements dropout keeps: a hash of each element's number and a seed, in torch's operations.

In: a seed and the least hash that is kept. Out: a mask, the same on every device, since 32-bit
integers are the same on all. Knows no layer.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def fill(
    kept: Bool[Tensor, " places"], seed: Int[Tensor, " 2"], least: int, hashes_at_a_time: int
) -> None:
    """Whether each element's 16 bits, as the upper ones of a signed number, are `least` or more.

    One hash serves two elements: its upper bits one of the first half, its lower bits one of the
    second.
    """
    half = len(kept) // 2
    for begin in range(0, half, hashes_at_a_time):
        end = min(begin + hashes_at_a_time, half)
        numbers = torch.arange(begin, end, dtype=torch.int32, device=seed.device)
        hashes = hash_(numbers, seed)
        torch.ge(hashes, least, out=kept[begin:end])
        hashes <<= 16
        torch.ge(hashes, least, out=kept[half + begin : half + end])


def hash_(numbers: Int[Tensor, " n"], seed: Int[Tensor, " 2"]) -> Int[Tensor, " n"]:
    """Different numbers get different hashes. In place.

    Two rounds of the mixer "lowbias32" (C. Wellons, "Prospecting for Hash Functions", 2018),
    another half of the seed before each.
    """
    for half in seed.unbind():
        numbers += half
        _fold_(numbers, 16)
        numbers *= 0x7FEB352D
        _fold_(numbers, 15)
        numbers *= 0x846CA68B - (1 << 32)
        _fold_(numbers, 16)
    return numbers


def _fold_(numbers: Tensor, bits: int) -> None:
    """numbers ^= numbers >> bits, with zeros from above: torch's shift would repeat the sign."""
    shifted = numbers >> bits
    shifted &= (1 << (32 - bits)) - 1
    numbers ^= shifted
