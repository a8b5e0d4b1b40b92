"""Rows of a matrix, none much longer than the typical one.

A step masks the messages of the facts that it supervises. A node whose attention heads are left
with neighbours that they never weighed gets a message that nothing has shaped, up to ten times as
long as the others'. The score of a fact is a product of two embeddings: one such node once raised
the loss of a whole step to 40 times the usual one (tests/bench/README.md, "Steps that explode").
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

MOST = 2.0  # times the typical length; on three graphs the longest of a trained table had 1.4 to 1.7
_LEAST_SQUARE = 1e-24
_ROWS = 4096  # at a time: what is computed beside the rows stays small


def bounded(x: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
    """x with rows of at most MOST times the mean length of all rows, in x's memory.

    The bound is a constant to the gradient, so a shortened row learns its direction alone.
    """
    return _Bounded.apply(x)


def bound_(x: Float[Tensor, "rows dim"]) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Shorten the rows in place. Returns the factors, 1 for most, and the squared lengths before."""
    squares = _products(x, x).clamp_min_(_LEAST_SQUARE)
    longest = (MOST * squares.sqrt().mean()).square()
    factors = (longest / squares).clamp_max_(1.0).sqrt_()
    x.mul_(factors.unsqueeze(1))
    return factors, squares


def _products(a: Tensor, b: Tensor) -> Tensor:
    """[rows] inner products."""
    parts = zip(a.split(_ROWS), b.split(_ROWS), strict=True)
    return torch.cat([(left * right).sum(1) for left, right in parts])


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        factors, squares = bound_(x)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x, factors, squares)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """A shortened row's gradient loses its part along the row; y = factor x."""
        y, factors, squares = ctx.saved_tensors
        along = _products(y, grad) / (squares * factors)  # of x, in units of x
        along.masked_fill_(factors == 1, 0.0)
        return torch.addcmul(grad * factors.unsqueeze(1), y, along.unsqueeze(1), value=-1)
