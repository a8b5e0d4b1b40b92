"""The products of an HGT layer that each node type does with matrices of its own, behind one seam
as in `edges.py`.

project, project_backward: keys, queries or values (equation 3 of Hu et al. 2020)
update, update_backward: output map and gated skip connection (equation 5)

Shapes: N nodes in global numbering, type after type; T node types; hidden dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

# MPS on M1/M2 returns wrong products where the reduction reaches 32,767 rows (pytorch 177116, torch
# 2.7 - 2.13).
MAX_REDUCTION_ROWS = 32_000
KEY, QUERY, VALUE = 0, 1, 2  # places in `Weights.projection`


class Weights:
    """An HGT layer's parameters as plain tensors, or their gradients; shapes: see `HGTLayer`."""

    def __init__(self, *parameters: Tensor):
        self.projection, self.projection_bias, self.out, self.out_bias, self.skip = parameters[:5]
        self.prior, self.key_transform, self.value_transform = parameters[5:]


@dataclass(frozen=True)
class Nodes:
    """How a layer goes over its nodes.

    ranges: each type's nodes; kept: [N, hidden] bool, what dropout leaves, or None; keep_scale:
        what it is scaled by
    dtype: of the products; spend_gradient: the backward pass may overwrite the gradient that it is
        given
    """

    ranges: tuple[tuple[int, int], ...]
    kept: Tensor | None
    keep_scale: float
    dtype: torch.dtype
    spend_gradient: bool

    def parts(self) -> Iterator[tuple[int, slice]]:
        """Each type's rows, at most MAX_REDUCTION_ROWS at a time, so that no gradient of weights
        reduces over more.
        """
        for i, (start, stop) in enumerate(self.ranges):
            for first in range(start, stop, MAX_REDUCTION_ROWS):
                yield i, slice(first, min(first + MAX_REDUCTION_ROWS, stop))

    def dropped(self, x: Tensor, part: slice) -> Tensor:
        """Dropout on rows `part`, in place."""
        return x if self.kept is None else x.mul_(self.kept[part]).mul_(self.keep_scale)


class NodeKernels:
    """Type by type: runs on every device. All formulations have these methods.

    joins: the gradients of keys, queries and values go back together, where projections are kept
        and memory is not short
    """

    joins = False

    def project(self, x: Tensor, w: Weights, which: int, nodes: Nodes) -> Tensor:
        """[N, hidden] keys, queries or values."""
        out = torch.empty_like(x, dtype=nodes.dtype)
        for i, part in nodes.parts():
            _affine(
                x[part],
                w.projection[i, which],
                w.projection_bias[i, which],
                nodes.dtype,
                out=out[part],
            )
        return out

    def project_backward(
        self,
        grad: Tensor,
        x: Tensor,
        w: Weights,
        grads: Weights,
        which: int,
        nodes: Nodes,
        grad_x: Tensor,
    ) -> None:
        """Adds to grad_x and to the gradients of the projection."""
        for i, part in nodes.parts():
            _add_product(grad_x[part], grad[part], w.projection[i, which], nodes.dtype)
            _add_product(grads.projection[i, which], grad[part].T, x[part], nodes.dtype)
            grads.projection_bias[i, which] += grad[part].sum(0)

    def project_backward_joined(
        self,
        by_map: tuple[Tensor, Tensor, Tensor],
        x: Tensor,
        w: Weights,
        grads: Weights,
        nodes: Nodes,
        grad_x: Tensor,
    ) -> None:
        """`project_backward` of keys, queries and values at once: a product of three times the size
        instead of three.
        """
        for i, part in nodes.parts():
            grad = torch.cat([of_map[part] for of_map in by_map], 1)
            _add_product(grad_x[part], grad, w.projection[i].flatten(0, 1), nodes.dtype)
            _add_product(grads.projection[i].flatten(0, 1), grad.T, x[part], nodes.dtype)
            grads.projection_bias[i].view(-1).add_(grad.sum(0))

    def update(self, x: Tensor, message: Tensor, w: Weights, nodes: Nodes) -> Tensor:
        """[N, hidden] the layer's output: `x` and `out(gelu(message))` mixed by each type's gate,
        the sigmoid of its skip.
        """
        out = torch.empty_like(x)
        for i, part in nodes.parts():
            new = _affine(functional.gelu(message[part]), w.out[i], w.out_bias[i], nodes.dtype).to(
                message.dtype
            )
            torch.lerp(x[part], nodes.dropped(new, part), w.skip[i].sigmoid(), out=out[part])
        return out

    def update_backward(
        self, grad_out: Tensor, x: Tensor, message: Tensor, w: Weights, grads: Weights, nodes: Nodes
    ) -> tuple[Tensor, Tensor]:
        """Gradients of x (the skip's share) and of the messages; adds to those of out and skip.

        The gate's gradient, the sum of (new - x) grad_out, comes from what is needed anyway: new is
        linear in the activation, so that gate * sum(new * grad_out) = sum(activation *
        grad_activation) + bias . grad_bias. The output map is not computed again.
        """
        grad_x, grad_message = (
            grad_out if nodes.spend_gradient else torch.empty_like(x),
            torch.empty_like(message),
        )
        for i, part in nodes.parts():
            gate = w.skip[i].sigmoid()
            activation = functional.gelu(message[part])
            through_x = (x[part] * grad_out[part]).sum()
            grad_new = grad_out[part] * gate
            torch.sub(grad_out[part], grad_new, out=grad_x[part])
            grad_new = nodes.dropped(grad_new, part)
            _add_product(grads.out[i], grad_new.T, activation, nodes.dtype)
            grad_bias = grad_new.sum(0)
            grads.out_bias[i] += grad_bias
            grad_activation = (grad_new.to(nodes.dtype) @ w.out[i].to(nodes.dtype)).to(
                message.dtype
            )
            through_new = (activation.mul_(grad_activation)).sum() + (
                w.out_bias[i] * grad_bias
            ).sum()
            grads.skip[i] += (1 - gate) * (through_new - gate * through_x)
            torch.ops.aten.gelu_backward.grad_input(
                grad_activation, message[part], grad_input=grad_message[part]
            )
        return grad_x, grad_message


def _affine(
    x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype, out: Tensor | None = None
) -> Tensor:
    return torch.addmm(bias.to(dtype), x.to(dtype), weight.to(dtype).T, out=out)


def _add_product(out: Tensor, left: Tensor, right: Tensor, dtype: torch.dtype) -> None:
    """`out += left @ right`, the product in `dtype`, the sum in out's own."""
    if dtype == out.dtype:
        out.addmm_(left, right)
    else:
        out += left.to(dtype) @ right.to(dtype)


class CpuNodeKernels(NodeKernels):
    """Gradients of keys, queries and values joined: a step at 5,000 nodes of ten types takes 2 %
    less time.
    """

    joins = True
