"""Shortens the rows of a matrix that are much longer than the typical row.

In: rows, one for a node. Out: the same rows, none longer than a multiple of their geometric mean
length. The arithmetic mean would grow with the rows that are to be shortened. It knows no layer.

Why: a step masks the messages of the facts that it supervises. An attention head that has given all
its weight to one neighbour then gives it to another, whose values nothing has shaped. The node
becomes long, its long key draws the attention of its neighbours in the next layer, and these become
long too. A fact's score is a product of two embeddings, so a few such nodes raised the loss of a
step to 90 times the usual one (tests/bench/README.md, "Steps that explode").
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

MOST = 1.5  # times the typical length, of an embedding
MOST_BETWEEN_LAYERS = 2.0  # of what one HGT layer hands to the next
# Of the mean length: shorter rows count as that long, or a row of zeros would make the typical
# length 0.
_LEAST = 1e-3
_TINY = 1e-30
_ROWS = 4096  # at a time, so that intermediate results stay small


def longest_length(rows: Float[Tensor, "rows dim"], most: float = MOST) -> Float[Tensor, ""]:
    """`most` times the geometric mean of the rows' lengths."""
    lengths = _lengths(rows)
    return most * torch.maximum(lengths, _LEAST * lengths.mean()).log().mean().exp()


def shorten_(rows: Float[Tensor, "rows dim"], longest: Float[Tensor, ""]) -> Float[Tensor, " rows"]:
    """Shortens rows to that length, in place. Returns each row's factor: 1 for most."""
    factors = (longest / _lengths(rows).clamp_min(_TINY)).clamp_max(1.0)
    rows.mul_(factors.unsqueeze(1))
    return factors


def gradient_before_(
    grad: Float[Tensor, "rows dim"],
    rows: Float[Tensor, "rows dim"],
    factors: Float[Tensor, " rows"],
) -> Float[Tensor, "rows dim"]:
    """The backward pass of `shorten_`, in place. `longest` counts as a constant.

    A shortened row may still become shorter, not longer: of its gradient along itself the
    lengthening part is left out. Without the shortening part such rows drift away for good
    (measured). With the lengthening part they grow without bound. A step calls this for each part's
    rows, so a node that several parts contain is judged in each.

    grad: by the shortened rows.
    rows, factors: as `shorten_` left and returned them.
    """
    along = _products(grad, rows)
    left_out = torch.where(
        (factors < 1) & (along < 0), along / _products(rows, rows).clamp_min(_TINY), 0.0
    )
    return grad.addcmul_(rows, left_out.unsqueeze(1), value=-1).mul_(factors.unsqueeze(1))


def bounded(
    rows: Float[Tensor, "rows dim"], most: float = MOST, spend_gradient: bool = False
) -> Float[Tensor, "rows dim"]:
    """Shortens rows in place, with a gradient. The typical length is that of these rows.

    most: the greatest length, in typical ones.
    spend_gradient: see `HGTLayer`.
    """
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
        grad = grad if ctx.spend_gradient else grad.clone()
        return gradient_before_(grad, *ctx.saved_tensors), None, None


def _lengths(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """[rows] inner products."""
    pairs = zip(a.split(_ROWS), b.split(_ROWS), strict=True)
    return torch.cat([(left * right).sum(1) for left, right in pairs])
