"""Dropout (Srivastava et al. 2014) that drops the same on every device: what is kept is a function of a seed and of the place alone.

torch's generators give CPU, CUDA and MPS different numbers for one seed. A run that is handed from one device to another, or two runs
that are compared, would train differently for no reason but that. Here the numbers are a hash of each place's number, in 32-bit integers,
which all devices compute alike; the seeds come from the CPU's generator.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hgt.kernels.edges import has_triton

# Hashed at a time: 1 MB on the CPU, which its cache holds and several threads share (a third of the time that 128 KB take), 8 MB of
# scratch memory elsewhere.
_CHUNK = {"cpu": 1 << 18}
_LARGE_CHUNK = 1 << 20


def draw_seeds(*shape: int) -> Int[Tensor, "*shape 2"]:
    """int32, on the CPU, from torch's generator there."""
    return torch.randint(-(1 << 31), 1 << 31, (*shape, 2), dtype=torch.int32)


def kept_elements(shape: tuple[int, ...], share: float, seed: Int[Tensor, " 2"]) -> Bool[Tensor, "*shape"]:
    """What dropout of `share` leaves, on the seed's device. The share is kept to 16 bits: to 1 / 65536."""
    size = torch.Size(shape).numel()
    half = -(-size // 2)  # one hash for two elements: its upper bits for one in the first half, its lower ones for one in the second
    kept = torch.empty(2 * half, dtype=torch.bool, device=seed.device)
    least = (min(round(share * (1 << 16)), (1 << 16) - 1) - (1 << 15)) << 16
    _formulation(seed.device.type)(kept, seed, least)
    return kept[:size].view(shape)


@functools.cache
def _formulation(device_type: str) -> Callable[[Tensor, Tensor, int], None]:
    if device_type == "cuda" and has_triton():
        from hgt.kernels.triton_dropout import fill

        return fill
    return _fill


def _fill(kept: Bool[Tensor, " places"], seed: Int[Tensor, " 2"], least: int) -> None:
    """Whether each element's 16 bits, as the upper ones of a signed number, are `least` or more."""
    half = len(kept) // 2
    chunk = _CHUNK.get(seed.device.type, _LARGE_CHUNK)
    for begin in range(0, half, chunk):
        end = min(begin + chunk, half)
        hashes = _hash_(torch.arange(begin, end, dtype=torch.int32, device=seed.device), seed)
        torch.ge(hashes, least, out=kept[begin:end])
        hashes <<= 16
        torch.ge(hashes, least, out=kept[half + begin : half + end])


def dropped(x: Float[Tensor, "*shape"], share: float, seed: Int[Tensor, " 2"]) -> Float[Tensor, "*shape"]:
    """x with dropout."""
    return (x * kept_elements(tuple(x.shape), share, seed)).mul_(1 / (1 - share))


def _hash_(numbers: Int[Tensor, " n"], seed: Int[Tensor, " 2"]) -> Int[Tensor, " n"]:
    """Different numbers get different hashes. In place.

    Two rounds of the mixer "lowbias32" (C. Wellons, "Prospecting for Hash Functions", 2018), another half of the seed before each.
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
