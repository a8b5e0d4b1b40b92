"""Rows of a matrix, none much longer than the typical one.

A step masks the messages of the facts that it supervises. A head that has given all its weight to one neighbour then gives it to another,
whose values nothing has shaped; the node becomes long, its long key draws the attention of its neighbours in the next layer, and these
become long too. A fact's score is a product of two embeddings: a few such nodes raised the loss of a step to 90 times the usual one
(tests/bench/README.md, "Steps that explode").

Typical is the geometric mean: the arithmetic one grows with the rows that are to be shortened.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

MOST = 1.5  # times the typical length, of an embedding
MOST_BETWEEN_LAYERS = 2.0  # of what one HGT layer hands to the next
_LEAST = 1e-3  # of the mean length: shorter rows count as that long, so that a row of zeros does not take the typical length to 0
_TINY = 1e-30
_ROWS = 4096  # at a time: what is computed beside the rows stays small


def longest_length(rows: Float[Tensor, "rows dim"], most: float = MOST) -> Float[Tensor, ""]:
    """`most` times the geometric mean of the rows' lengths."""
    lengths = _lengths(rows)
    return most * torch.maximum(lengths, _LEAST * lengths.mean()).log().mean().exp()


def shorten_(rows: Float[Tensor, "rows dim"], longest: Float[Tensor, ""]) -> Float[Tensor, " rows"]:
    """Rows of at most that length, in place. Returns what each was multiplied with: 1 for most."""
    factors = (longest / _lengths(rows).clamp_min(_TINY)).clamp_max(1.0)
    rows.mul_(factors.unsqueeze(1))
    return factors


def gradient_before_(
    grad: Float[Tensor, "rows dim"], rows: Float[Tensor, "rows dim"], factors: Float[Tensor, " rows"]
) -> Float[Tensor, "rows dim"]:
    """The gradient by the rows before `shorten_` from that by its result, in place; `longest` counts as a constant.

    A shortened row may still become shorter, not longer: of its gradient along itself the lengthening part is left out. Without the
    shortening part such rows drift away for good (measured); without leaving out the other they grow without bound. A step
    asks this of each part's rows: a node that stands in several parts is decided on in each.
    """
    along = _products(grad, rows)
    left_out = torch.where((factors < 1) & (along < 0), along / _products(rows, rows).clamp_min(_TINY), 0.0)
    return grad.addcmul_(rows, left_out.unsqueeze(1), value=-1).mul_(factors.unsqueeze(1))


def bounded(rows: Float[Tensor, "rows dim"], most: float = MOST, spend_gradient: bool = False) -> Float[Tensor, "rows dim"]:
    """All rows of a matrix held against one another, in the matrix' memory. spend_gradient: as of an HGT layer."""
    return _Bounded.apply(rows, most, spend_gradient)


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, most: float, spend_gradient: bool) -> Tensor:
        factors = shorten_(rows, longest_length(rows, most))
        ctx.mark_dirty(rows)
        ctx.save_for_backward(rows, factors)
        ctx.spend_gradient = spend_gradient
        return rows

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return gradient_before_(grad if ctx.spend_gradient else grad.clone(), *ctx.saved_tensors), None, None


def _lengths(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """[rows] inner products."""
    return torch.cat([(left * right).sum(1) for left, right in zip(a.split(_ROWS), b.split(_ROWS), strict=True)])
