"""The forward and the backward pass of an HGT layer, written out by hand.

In: a layer's input and parameters. Out: its output, and in the backward pass all gradients. Only
the input, the messages and one number per edge and head are kept in between; keys, queries and
values are kept too or computed again. It does not know how parameters are initialised.
Shapes: N nodes, E edges, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hgt.kernels.choice import node_kernels
from hgt.kernels.nodes import KEY, QUERY, VALUE, Nodes, Weights
from hgt.messages.message_graph import MessageGraph
from hgt.model.attention import Attention, Tables, sum_backward


@dataclass(frozen=True)
class InputDropout:
    """Dropout of a layer's input. The backward pass applies it again, so only `kept` is kept.

    kept: [N, hidden] True for elements that stay.
    scale: their factor.
    """

    kept: Tensor
    scale: float

    def of(self, x: Tensor) -> Tensor:
        return (x * self.kept).mul_(self.scale)

    def gradient_(self, grad: Tensor) -> Tensor:
        """Turns the gradient by the dropped input into that by x, in place."""
        return grad.mul_(self.kept).mul_(self.scale)


@dataclass(frozen=True)
class LayerPass:
    """What a pass through a layer depends on, apart from its input and parameters."""

    graph: MessageGraph
    nodes: Nodes
    removed: Tensor | None
    recompute: bool
    keep_projections: bool
    dropped: InputDropout | None

    def input(self, x: Tensor) -> Tensor:
        return x if self.dropped is None else self.dropped.of(x)


def layer_pass(x: Tensor, how: LayerPass, *parameters: Tensor) -> Tensor:
    """The output [N, hidden] of a layer. parameters: in the order of `Weights`."""
    return _LayerPass.apply(x, how, *parameters)


class _LayerPass(torch.autograd.Function):
    """Keeps x and, unless `recompute`, an `_Attended`. The backward pass may run once only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, how: LayerPass, *parameters: Tensor) -> Tensor:
        w, read = Weights(*parameters), how.input(x)
        attended = _attend(read, w, how)
        out = node_kernels(x.device.type).update(read, attended.message, w, how.nodes)
        ctx.how = how
        ctx.save_for_backward(x, *parameters)
        # Not by save_for_backward: the backward pass overwrites some and frees the rest early.
        ctx.spent = [None if how.recompute else attended]
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.spent:
            raise RuntimeError(
                "The backward pass of an HGT layer can run once only; call the layer again."
            )
        x, *parameters = ctx.saved_tensors
        how, nodes, kernels = ctx.how, ctx.how.nodes, node_kernels(x.device.type)
        x = how.input(x)
        w, grads = Weights(*parameters), Weights(*map(torch.zeros_like, parameters))
        attended = ctx.spent.pop() or _attend(x, w, how)
        attention = Attention(how.graph, w.key_transform, w.value_transform, w.prior, how.removed)
        grad_x, grad_message = kernels.update_backward(
            grad_out, x, attended.message, w, grads, nodes
        )
        grad_sum, through_total = sum_backward(grad_message, attended.message, attended.total)
        del grad_message, attended.message
        value = kernels.project(x, w, VALUE, nodes) if attended.value is None else attended.value
        tables = attended.value_tables
        grad_value, grads.value_transform = attention.message_backward(
            attended.weights, grad_sum, through_total, value, tables
        )
        del grad_sum, value, attended.value, tables, attended.value_tables
        joined = kernels.joins and how.keep_projections
        if not joined:
            kernels.project_backward(grad_value, x, w, grads, VALUE, nodes, grad_x)
            del grad_value
        query = kernels.project(x, w, QUERY, nodes) if attended.query is None else attended.query
        key = kernels.project(x, w, KEY, nodes) if attended.key is None else attended.key
        grad_query, grad_key, grads.key_transform, grads.prior = attention.score_backward(
            attended.weights, query, key, attended.key_tables
        )
        del query, key, attended
        if joined:
            kernels.project_backward_joined(
                (grad_key, grad_query, grad_value), x, w, grads, nodes, grad_x
            )
        else:
            kernels.project_backward(grad_query, x, w, grads, QUERY, nodes, grad_x)
            kernels.project_backward(grad_key, x, w, grads, KEY, nodes, grad_x)
        if how.dropped is not None:
            how.dropped.gradient_(grad_x)
        of_parameters = (
            *(grads.projection, grads.projection_bias, grads.out, grads.out_bias, grads.skip),
            *(grads.prior, grads.key_transform, grads.value_transform),
        )
        return (grad_x, None, *of_parameters)


@dataclass
class _Attended:
    """What the attention of a layer leaves for the backward pass.

    weights: [E, H].
    message: [N, hidden].
    total: [N, H].
    query, key, value: [N, hidden], or None where they are computed again.
    key_tables, value_tables: the tables that `Attention.scores` and `Attention.messages` return.
    """

    weights: Tensor
    message: Tensor
    total: Tensor
    query: Tensor | None
    key: Tensor | None
    value: Tensor | None
    key_tables: list[Tables]
    value_tables: list[Tables]


def _attend(x: Tensor, w: Weights, how: LayerPass) -> _Attended:
    kernels, keep = node_kernels(x.device.type), how.keep_projections
    attention = Attention(how.graph, w.key_transform, w.value_transform, w.prior, how.removed, keep)
    query, key = kernels.project(x, w, QUERY, how.nodes), kernels.project(x, w, KEY, how.nodes)
    weights, highest, key_tables = attention.scores(query, key)
    kept_query, kept_key = (query, key) if keep else (None, None)
    del query, key
    value = kernels.project(x, w, VALUE, how.nodes)
    message, total, value_tables = attention.messages(weights, highest, value)
    kept_value = value if keep else None
    kept = (kept_query, kept_key, kept_value, key_tables, value_tables)
    return _Attended(weights, message, total, *kept)
