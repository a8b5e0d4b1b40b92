"""Differences between the results of two devices, and their tolerances.

In: two tensors or numbers. Out: their relative difference. Knows no step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Largest differences, relative to the norm of the reference: at least ten times the differences by
# rounding alone at these sizes. Measured with torch 2.13 on the CPU, float32 against float64 (and
# other orders of summation, always less), and with 2.11 on an H100 against its CPU, our two
# formulations: embeddings 4.5e-7 and 5.5e-7, losses 1.5e-7 and 2.9e-7, gradients 4.3e-6 and 9.2e-6.
# MPS's defect of long products, emulated, gives 3e-2 in gradients; users report 0.1 and more
# (pytorch 193487).
TOLERANCES = {
    "embeddings": 1e-5,
    "losses": 1e-5,
    "gradients": 1e-4,
    # the CPU's other implementations 1.2e-6, the H100's at most 2.4e-4: parameters are rounded
    # after it
    "Adam's step": 1e-3,
    "losses of the next step": 1e-5,
    # where a gradient is near 0, two devices' steps of Adam may go apart
    "losses of the third step": 1e-4,
}


@dataclass(frozen=True)
class Difference:
    """A difference between two devices.

    case: the case in which it was measured.
    quantity: a key of `TOLERANCES`.
    value: relative to the norm of the reference.
    where: the parameter or loss with the largest difference.
    """

    case: str
    quantity: str
    value: float
    where: str = ""

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.quantity]

    @property
    def agrees(self) -> bool:
        return self.value <= self.tolerance  # NaN does not


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected| in float64; NaN where a value is NaN."""
    norm = float(torch.linalg.vector_norm(expected, dtype=torch.float64))
    return _over(float(torch.linalg.vector_norm(found.double() - expected.double())), norm)


def relative(found: float, expected: float) -> float:
    """|found - expected| / |expected| of two numbers."""
    return _over(abs(found - expected), abs(expected))


def _over(difference: float, norm: float) -> float:
    return difference / norm if norm else (0.0 if difference == 0 else float("inf"))
