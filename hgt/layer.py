"""One Heterogeneous Graph Transformer layer (Hu et al., "Heterogeneous Graph Transformer", WWW 2020, equations 3-5).

Computes exactly what PyG's `HGTConv` computes with the same parameters. Forward and backward are written out by hand, so that
nothing is kept from one to the other but the layer's input, its messages and one number per edge and head; keys, queries and
values are computed again. The attention over groups of edges is in `attention.py`. Knows nothing of facts, losses or devices.

Shapes: N nodes (global numbering), E edges, T node types, R message edge types, H heads, D = hidden_dim / H.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from hgt.attention import Attention
from hgt.message_graph import MessageGraph

if TYPE_CHECKING:
    from torch_geometric.nn import HGTConv

# MPS on M1/M2 returns wrong products where the reduction reaches 32,767 rows (pytorch 177116, torch 2.7 - 2.13).
MAX_REDUCTION_ROWS = 32_000
_KEY, _QUERY, _VALUE = 0, 1, 2


class HGTLayer(nn.Module):
    """hidden_dim -> hidden_dim. A node without incoming edges gets `out(gelu(0))`, mixed with its input by the skip.

    projection: [T, 3, hidden, hidden] keys, queries, values (K-, Q-, V-Linear of equation 3); out: [T, hidden, hidden] (A-Linear)
    skip: [T]; prior: [R, H] (mu); key_transform, value_transform: [R, H, D, D] (W_ATT, W_MSG)
    """

    def __init__(self, node_types: list[str], num_edge_types: int, hidden_dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        num_types, head_dim = len(node_types), hidden_dim // num_heads
        self.num_heads = num_heads
        self.dropout = dropout
        self.node_types = list(node_types)
        self.projection = nn.Parameter(_xavier((num_types, 3, hidden_dim, hidden_dim), 1 / math.sqrt(2)))  # as one map to 3 hidden_dim
        self.projection_bias = nn.Parameter(torch.zeros(num_types, 3, hidden_dim))
        self.out = nn.Parameter(_xavier((num_types, hidden_dim, hidden_dim), 2.0))  # messages are means, through gelu
        self.out_bias = nn.Parameter(torch.zeros(num_types, hidden_dim))
        self.skip = nn.Parameter(torch.ones(num_types))
        self.prior = nn.Parameter(torch.ones(num_edge_types, num_heads))
        self.key_transform = nn.Parameter(_xavier((num_edge_types, num_heads, head_dim, head_dim), 1.0))
        self.value_transform = nn.Parameter(_xavier((num_edge_types, num_heads, head_dim, head_dim), 1.0))

    def forward(
        self, x: Float[Tensor, "num_nodes hidden"], graph: MessageGraph, removed: Bool[Tensor, " num_edges"] | None = None
    ) -> Float[Tensor, "num_nodes hidden"]:
        """removed: edges that take no part; None for none."""
        kept = _dropout_mask(x, self.dropout) if self.training and self.dropout else None
        return _Layer.apply(x, *self._weights(), graph, removed, kept, self.dropout)

    @torch.no_grad()
    def infer(
        self, x: Float[Tensor, "num_nodes hidden"], graph: MessageGraph, targets: tuple[int, int], key_value: tuple[Tensor, Tensor]
    ) -> Float[Tensor, "num_targets hidden"]:
        """Outputs of nodes targets[0]..targets[1] alone, without dropout. `graph` holds the edges into them, numbered from 0;
        key_value: `keys_and_values` of all nodes."""
        w = _Weights(*self._weights())
        span = slice(*targets)
        ranges = _clipped(graph, targets)
        attention = Attention(graph, w.key_transform, w.value_transform, w.prior, None)
        query = _project(x[span], w, _QUERY, ranges)
        scores, highest = attention.scores(query, key_value[0])
        message, _ = attention.messages(scores, highest, key_value[1])
        return _update(x[span], message, w, ranges, None, 1.0)

    @torch.no_grad()
    def keys_and_values(self, x: Float[Tensor, "num_nodes hidden"], graph: MessageGraph) -> tuple[Tensor, Tensor]:
        """Of every node; what `infer` reads."""
        w = _Weights(*self._weights())
        return _project(x, w, _KEY, graph.ranges), _project(x, w, _VALUE, graph.ranges)

    def _weights(self) -> tuple[Tensor, ...]:
        return (
            *(self.projection, self.projection_bias, self.out, self.out_bias, self.skip),
            *(self.prior, self.key_transform, self.value_transform),
        )

    @torch.no_grad()
    def load_pyg(self, conv: HGTConv) -> None:
        """Take the parameters of a PyG `HGTConv` with the same node types, edge types, width and heads."""
        blocks = (self.num_heads, len(self.prior), -1, self.key_transform.shape[-1])
        self.key_transform.copy_(conv.k_rel.weight.view(*blocks).transpose(0, 1))
        self.value_transform.copy_(conv.v_rel.weight.view(*blocks).transpose(0, 1))
        for i, node_type in enumerate(self.node_types):
            linear = conv.kqv_lin.lins[node_type]
            self.projection[i] = linear.weight.view_as(self.projection[i])
            self.projection_bias[i] = linear.bias.view_as(self.projection_bias[i])
            self.out[i], self.out_bias[i] = conv.out_lin.lins[node_type].weight, conv.out_lin.lins[node_type].bias
            self.skip[i] = conv.skip[node_type].item()
        for i, edge_type in enumerate(conv.edge_types):
            self.prior[i] = conv.p_rel["__".join(edge_type)][0]


class _Weights:
    """A layer's parameters as plain tensors."""

    def __init__(self, *parameters: Tensor):
        self.projection, self.projection_bias, self.out, self.out_bias, self.skip = parameters[:5]
        self.prior, self.key_transform, self.value_transform = parameters[5:]


class _Layer(torch.autograd.Function):
    """Keeps x, the messages, the totals per node and the weights per edge; the backward pass may run once only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> Tensor:
        *parameters, graph, removed, kept, dropout = rest
        w = _Weights(*parameters)
        attention = Attention(graph, w.key_transform, w.value_transform, w.prior, removed)
        scores, highest = attention.scores(_project(x, w, _QUERY, graph.ranges), _project(x, w, _KEY, graph.ranges))
        message, total = attention.messages(scores, highest, _project(x, w, _VALUE, graph.ranges))
        ctx.graph, ctx.removed, ctx.kept, ctx.keep_scale = graph, removed, kept, 1 / (1 - dropout)
        ctx.spent = [scores, message]  # the backward pass overwrites the one and frees the other, so not for save_for_backward
        ctx.save_for_backward(x, total, *parameters)
        return _update(x, message, w, graph.ranges, kept, ctx.keep_scale)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.spent:
            raise RuntimeError("The backward pass of an HGT layer can run once only; call the layer again.")
        x, total, *parameters = ctx.saved_tensors
        message, weights = ctx.spent.pop(), ctx.spent.pop()
        w, grads = _Weights(*parameters), _Weights(*map(torch.zeros_like, parameters))
        ranges = ctx.graph.ranges
        attention = Attention(ctx.graph, w.key_transform, w.value_transform, w.prior, ctx.removed)
        grad_x, grad_message = _update_backward(grad_out, x, message, w, grads, ranges, ctx.kept, ctx.keep_scale)
        grad_value, grads.value_transform = attention.message_backward(
            weights, total, message, grad_message, _project(x, w, _VALUE, ranges)
        )
        del message, grad_message
        _project_backward(grad_value, x, w, grads, _VALUE, ranges, grad_x)
        del grad_value
        grad_query, grad_key, grads.key_transform, grads.prior = attention.score_backward(
            weights, _project(x, w, _QUERY, ranges), _project(x, w, _KEY, ranges)
        )
        _project_backward(grad_query, x, w, grads, _QUERY, ranges, grad_x)
        _project_backward(grad_key, x, w, grads, _KEY, ranges, grad_x)
        of_parameters = (
            *(grads.projection, grads.projection_bias, grads.out, grads.out_bias, grads.skip),
            *(grads.prior, grads.key_transform, grads.value_transform),
        )
        return (grad_x, *of_parameters, None, None, None, None)


_Ranges = tuple[tuple[int, int], ...]


def _parts(ranges: _Ranges) -> Iterator[tuple[int, slice]]:
    """Each type's rows, at most MAX_REDUCTION_ROWS at a time, so that no gradient of weights reduces over more."""
    for i, (start, stop) in enumerate(ranges):
        for first in range(start, stop, MAX_REDUCTION_ROWS):
            yield i, slice(first, min(first + MAX_REDUCTION_ROWS, stop))


def _project(x: Tensor, w: _Weights, which: int, ranges: _Ranges) -> Tensor:
    """[N, hidden] keys, queries or values."""
    out = torch.empty_like(x)
    for i, part in _parts(ranges):
        torch.addmm(w.projection_bias[i, which], x[part], w.projection[i, which].T, out=out[part])
    return out


def _project_backward(grad: Tensor, x: Tensor, w: _Weights, grads: _Weights, which: int, ranges: _Ranges, grad_x: Tensor) -> None:
    """Adds to grad_x and to the gradients of the projection."""
    for i, part in _parts(ranges):
        grad_x[part].addmm_(grad[part], w.projection[i, which])
        grads.projection[i, which].addmm_(grad[part].T, x[part])
        grads.projection_bias[i, which] += grad[part].sum(0)


def _update(x: Tensor, message: Tensor, w: _Weights, ranges: _Ranges, kept: Tensor | None, keep_scale: float) -> Tensor:
    """The target-specific aggregation (equation 5): output map and gated skip connection."""
    out = torch.empty_like(x)
    for i, part in _parts(ranges):
        new = torch.addmm(w.out_bias[i], functional.gelu(message[part]), w.out[i].T)
        if kept is not None:
            new.mul_(kept[part]).mul_(keep_scale)
        torch.lerp(x[part], new, w.skip[i].sigmoid(), out=out[part])
    return out


def _update_backward(
    grad_out: Tensor, x: Tensor, message: Tensor, w: _Weights, grads: _Weights, ranges: _Ranges, kept: Tensor | None, keep_scale: float
) -> tuple[Tensor, Tensor]:
    """Gradients of x (the skip's share) and of the messages; adds to those of out and skip."""
    grad_x, grad_message = torch.empty_like(x), torch.empty_like(message)
    for i, part in _parts(ranges):
        gate = w.skip[i].sigmoid()
        hidden = functional.gelu(message[part])
        new = torch.addmm(w.out_bias[i], hidden, w.out[i].T)
        if kept is not None:
            new.mul_(kept[part]).mul_(keep_scale)
        grads.skip[i] += (new.sub_(x[part]) * grad_out[part]).sum() * gate * (1 - gate)
        grad_new = torch.mul(grad_out[part], gate, out=new)
        torch.sub(grad_out[part], grad_new, out=grad_x[part])
        if kept is not None:
            grad_new.mul_(kept[part]).mul_(keep_scale)
        grads.out[i].addmm_(grad_new.T, hidden)
        grads.out_bias[i] += grad_new.sum(0)
        grad_message[part] = torch.ops.aten.gelu_backward(torch.mm(grad_new, w.out[i], out=hidden), message[part])
    return grad_x, grad_message


def _clipped(graph: MessageGraph, targets: tuple[int, int]) -> _Ranges:
    """Each type's share of the targets, numbered from targets[0]."""
    return tuple((max(a, targets[0]) - targets[0], max(min(b, targets[1]), targets[0]) - targets[0]) for a, b in graph.ranges)


def _dropout_mask(x: Tensor, dropout: float) -> Tensor:
    return torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - dropout)


def _xavier(shape: tuple[int, ...], gain: float) -> Tensor:
    """Glorot and Bengio 2010, for stacked [..., out, in] matrices."""
    bound = gain * math.sqrt(6 / (shape[-1] + shape[-2]))
    return torch.empty(shape).uniform_(-bound, bound)


def linear_by_rows(x: Float[Tensor, "rows in_dim"], linear: nn.Module) -> Float[Tensor, "rows out_dim"]:
    """`linear(x)`, in parts so that the weight's gradient reduces over at most MAX_REDUCTION_ROWS rows."""
    if len(x) <= MAX_REDUCTION_ROWS:
        return linear(x)
    return torch.cat([linear(part) for part in x.split(MAX_REDUCTION_ROWS)])
