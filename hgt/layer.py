"""One Heterogeneous Graph Transformer layer (Hu et al., "Heterogeneous Graph Transformer", WWW 2020, equations 3-5).

Computes exactly what PyG's `HGTConv` computes with the same parameters, relation by relation over sorted edges, and
keeps for the backward pass only node-sized tensors and one number per edge and head: everything else is recomputed.
Knows nothing of facts, losses or devices.

Shapes: N nodes (global numbering), E edges, R message edge types, H heads, D = hidden_dim / H.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from hgt.edge_kernels import edge_dot, weighted_sum
from hgt.message_graph import MessageGraph, RelationEdges

if TYPE_CHECKING:
    from torch_geometric.nn import HGTConv

# MPS on M1/M2 returns wrong products where the reduction reaches 32,767 rows (pytorch 177116, torch 2.7 - 2.13).
MAX_REDUCTION_ROWS = 32_000
_MASKED = -1e30  # finite, so that a node whose every edge is masked does not give inf - inf


class HGTLayer(nn.Module):
    """hidden_dim -> hidden_dim. A node without incoming edges gets `out(gelu(0))`, mixed with its input by the skip."""

    def __init__(self, node_types: list[str], num_edge_types: int, hidden_dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        head_dim = hidden_dim // num_heads
        self.num_heads = num_heads
        self.dropout = dropout
        self.node_types = list(node_types)
        self.key_query_value = nn.ModuleList(_linear(hidden_dim, 3 * hidden_dim, gain=1.0) for _ in node_types)
        self.out = nn.ModuleList(_linear(hidden_dim, hidden_dim, gain=2.0) for _ in node_types)  # messages are means, through gelu
        self.skip = nn.Parameter(torch.ones(len(node_types)))
        self.prior = nn.Parameter(torch.ones(num_edge_types, num_heads))
        self.key_transform = nn.Parameter(_glorot_blocks(num_edge_types, num_heads, head_dim))
        self.value_transform = nn.Parameter(_glorot_blocks(num_edge_types, num_heads, head_dim))

    def forward(
        self, x: Float[Tensor, "num_nodes hidden"], graph: MessageGraph, keep: Float[Tensor, " num_edges"] | None = None
    ) -> Float[Tensor, "num_nodes hidden"]:
        """keep: 1 for edges that take part and 0 for those that do not; None for all."""
        key, query, value = self.project(x, graph)
        message = attend(query, key, value, self, graph, keep)
        return self.update(x, message, graph)

    def project(
        self, x: Float[Tensor, "num_nodes hidden"], graph: MessageGraph
    ) -> tuple[Float[Tensor, "num_nodes hidden"], Float[Tensor, "num_nodes hidden"], Float[Tensor, "num_nodes hidden"]]:
        """Keys, queries and values of every node (equation 3's K-, Q- and V-Linear)."""
        parts = [self.project_type(i, part) for i, part in enumerate(_by_type(x, graph))]
        key, query, value = torch.cat(parts).chunk(3, dim=1)
        return key.contiguous(), query.contiguous(), value.contiguous()

    def project_type(self, i: int, x: Float[Tensor, "n hidden"]) -> Float[Tensor, "n three_hidden"]:
        """Keys, queries and values, side by side, of nodes of type number i."""
        return linear_by_rows(x, self.key_query_value[i])

    def update(
        self, x: Float[Tensor, "num_nodes hidden"], message: Float[Tensor, "num_nodes hidden"], graph: MessageGraph
    ) -> Float[Tensor, "num_nodes hidden"]:
        """The target-specific aggregation (equation 5): output projection and gated skip connection."""
        both = zip(_by_type(x, graph), _by_type(message, graph), strict=True)
        return torch.cat([self.update_type(i, *parts) for i, parts in enumerate(both)])

    def update_type(self, i: int, x: Float[Tensor, "n hidden"], message: Float[Tensor, "n hidden"]) -> Float[Tensor, "n hidden"]:
        """`update` for nodes of type number i alone."""
        new = linear_by_rows(functional.gelu(message), self.out[i])
        new = functional.dropout(new, self.dropout, self.training)
        return torch.lerp(x, new, self.skip[i].sigmoid())

    @torch.no_grad()
    def load_pyg(self, conv: HGTConv) -> None:
        """Take the parameters of a PyG `HGTConv` with the same node types, edge types, width and heads."""
        blocks = (self.num_heads, len(self.prior), -1, self.key_transform.shape[-1])
        self.key_transform.copy_(conv.k_rel.weight.view(*blocks).transpose(0, 1))
        self.value_transform.copy_(conv.v_rel.weight.view(*blocks).transpose(0, 1))
        for i, node_type in enumerate(self.node_types):
            self.key_query_value[i].load_state_dict(conv.kqv_lin.lins[node_type].state_dict())
            self.out[i].load_state_dict(conv.out_lin.lins[node_type].state_dict())
            self.skip[i] = conv.skip[node_type].item()
        for i, edge_type in enumerate(conv.edge_types):
            self.prior[i] = conv.p_rel["__".join(edge_type)][0]


def _linear(in_dim: int, out_dim: int, gain: float) -> nn.Linear:
    linear = nn.Linear(in_dim, out_dim)
    nn.init.xavier_uniform_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


def _glorot_blocks(num_edge_types: int, num_heads: int, head_dim: int) -> Tensor:
    bound = math.sqrt(6 / (2 * head_dim))
    return torch.empty(num_edge_types, num_heads, head_dim, head_dim).uniform_(-bound, bound)


def _by_type(x: Tensor, graph: MessageGraph) -> tuple[Tensor, ...]:
    """One part per node type. `split`, not slices: each slice's gradient would be a full-size tensor of zeros."""
    return x.split([stop - start for start, stop in graph.node_ranges.values()])


def linear_by_rows(x: Float[Tensor, "rows in_dim"], linear: nn.Module) -> Float[Tensor, "rows out_dim"]:
    """`linear(x)`, in parts so that the weight's gradient reduces over at most MAX_REDUCTION_ROWS rows."""
    if len(x) <= MAX_REDUCTION_ROWS:
        return linear(x)
    return torch.cat([linear(part) for part in x.split(MAX_REDUCTION_ROWS)])


def attend(
    query: Float[Tensor, "num_targets hidden"],
    key: Float[Tensor, "num_nodes hidden"],
    value: Float[Tensor, "num_nodes hidden"],
    layer: HGTLayer,
    graph: MessageGraph,
    keep: Float[Tensor, " num_edges"] | None = None,
) -> Float[Tensor, "num_targets hidden"]:
    """Mutual attention, messages and their sum per target (equations 3 and 4), softmax over all edges into a node."""
    return _Attention.apply(query, key, value, layer.key_transform, layer.value_transform, layer.prior, graph, keep)


class _Attention(torch.autograd.Function):
    """Forward keeps the exponentiated scores [E, H] and the sums per node; backward recomputes each relation's tables."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, key_transform: Tensor, value_transform: Tensor, prior: Tensor,
        graph: MessageGraph, keep: Tensor | None,
    ) -> Tensor:  # fmt: skip
        num_heads = prior.shape[1]
        scale = (prior / math.sqrt(query.shape[1] // num_heads))[:, :, None, None]
        weights = query.new_empty(graph.num_edges, num_heads)
        highest = query.new_full((len(query), num_heads), _MASKED)
        for relation in graph.relations:
            scores = weights[slice(*relation.edges)]
            tables = _query_and_key(relation, query, key, key_transform * scale)
            scores.copy_(edge_dot(*tables, relation.by_target, num_heads))
            if keep is not None:
                scores.masked_fill_((keep[slice(*relation.edges)] == 0).unsqueeze(1), _MASKED)
            target = _target_rows(relation).unsqueeze(1).expand(-1, num_heads)
            _targets(highest, relation).scatter_reduce_(0, target, scores, "amax")
        total = torch.zeros_like(highest)
        message = torch.zeros_like(query)
        for relation in graph.relations:
            part = weights[slice(*relation.edges)]
            target = _target_rows(relation)
            part.sub_(_targets(highest, relation).index_select(0, target)).exp_()
            if keep is not None:
                part.mul_(keep[slice(*relation.edges)].unsqueeze(1))
            _targets(total, relation).scatter_add_(0, target.unsqueeze(1).expand(-1, num_heads), part)
            _add_messages(relation, value, value_transform, part, _targets(message, relation))
        total += 1e-16  # as PyG: a node without incoming edges gets 0 / 1e-16
        message.view(len(query), num_heads, -1).div_(total.unsqueeze(-1))
        ctx.graph = graph
        ctx.save_for_backward(query, key, value, key_transform, value_transform, prior, weights, total, message)
        return message

    @staticmethod
    def backward(ctx: Any, grad_message: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, key_transform, value_transform, prior, weights, total, message = ctx.saved_tensors
        num_heads, head_dim = prior.shape[1], key_transform.shape[-1]
        scale = (prior / math.sqrt(head_dim))[:, :, None, None]
        grads = [torch.zeros_like(t) for t in (query, key, value, key_transform, value_transform, prior)]
        grad_query, grad_key, grad_value, grad_key_transform, grad_value_transform, grad_prior = grads
        grad_sum = (grad_message.view(-1, num_heads, head_dim) / total.unsqueeze(-1)).view_as(query)
        through_total = (grad_sum * message).view(-1, num_heads, head_dim).sum(-1)  # softmax's own gradient, per node
        for relation in ctx.graph.relations:
            r, part = relation.number, weights[slice(*relation.edges)]
            grad_weights = _message_backward(relation, value, value_transform, part, grad_sum, grad_value, grad_value_transform)
            grad_weights -= _targets(through_total, relation).index_select(0, _target_rows(relation))
            grad_scores = grad_weights.mul_(part)
            grad_scaled = _score_backward(relation, query, key, key_transform[r] * scale[r], grad_scores, grad_query, grad_key)
            grad_key_transform[r] = grad_scaled * scale[r]
            grad_prior[r] = (grad_scaled * key_transform[r]).sum((1, 2)) / math.sqrt(head_dim)
        return (*grads, None, None)


def _targets(rows: Tensor, relation: RelationEdges) -> Tensor:
    return rows[slice(*relation.target_nodes)]


def _sources(rows: Tensor, relation: RelationEdges) -> Tensor:
    return rows[slice(*relation.source_nodes)]


def _target_rows(relation: RelationEdges) -> Tensor:
    """[E] int64 number of each edge's target in its type."""
    row = relation.by_target.row
    return row.to(torch.int64) if relation.transforms_source else relation.nodes.index_select(0, row)


def _by_heads(rows: Tensor, blocks: Tensor) -> Tensor:
    """`rows[n, h] @ blocks[h]`: [n, H * D] x [H, D, D] -> [n, H * D]."""
    heads = rows.view(len(rows), len(blocks), -1).transpose(0, 1)
    return torch.bmm(heads, blocks).transpose(0, 1).reshape(len(rows), -1)


def _outer_by_heads(left: Tensor, right: Tensor, num_heads: int) -> Tensor:
    """`sum over n of left[n, h]^T right[n, h]`: two [n, H * D] -> [H, D, D], at most MAX_REDUCTION_ROWS rows at a time."""
    total = None
    for a, b in zip(left.split(MAX_REDUCTION_ROWS), right.split(MAX_REDUCTION_ROWS), strict=True):
        a, b = (t.view(len(t), num_heads, -1).transpose(0, 1) for t in (a, b))
        part = torch.bmm(a.transpose(1, 2), b)
        total = part if total is None else total + part
    assert total is not None, "a relation has edges, so it has nodes"
    return total


def _query_and_key(relation: RelationEdges, query: Tensor, key: Tensor, transform: Tensor) -> tuple[Tensor, Tensor]:
    """The two tables whose rows' inner products are the scores: the transform stands on the side with fewer nodes."""
    blocks = transform[relation.number]
    q, k = _targets(query, relation), _sources(key, relation)
    if relation.transforms_source:
        return q, _by_heads(k.index_select(0, relation.nodes), blocks)
    return _by_heads(q.index_select(0, relation.nodes), blocks.transpose(1, 2)), k


def _add_messages(relation: RelationEdges, value: Tensor, transform: Tensor, weights: Tensor, out: Tensor) -> None:
    """Add the relation's weighted messages to `out` [num_targets, H * D], transforming before or after the sum."""
    blocks = transform[relation.number]
    v = _sources(value, relation)
    if relation.transforms_source:
        out += weighted_sum(_by_heads(v.index_select(0, relation.nodes), blocks), weights, relation.by_target)
    else:
        out.index_add_(0, relation.nodes, _by_heads(weighted_sum(v, weights, relation.by_target), blocks))


def _message_backward(
    relation: RelationEdges, value: Tensor, transform: Tensor, weights: Tensor,
    grad_sum: Tensor, grad_value: Tensor, grad_transform: Tensor,
) -> Tensor:  # fmt: skip
    """Gradients of `_add_messages`; returns that of the weights [E, H] and adds the others in place."""
    r, num_heads = relation.number, weights.shape[1]
    v, g, grad_v = _sources(value, relation), _targets(grad_sum, relation), _sources(grad_value, relation)
    if relation.transforms_source:
        v = v.index_select(0, relation.nodes)
        grad_weights = edge_dot(g, _by_heads(v, transform[r]), relation.by_target, num_heads)
        grad_transformed = weighted_sum(g, weights, relation.by_source)
        grad_transform[r] = _outer_by_heads(v, grad_transformed, num_heads)
        grad_v.index_add_(0, relation.nodes, _by_heads(grad_transformed, transform[r].transpose(1, 2)))
        return grad_weights
    g = g.index_select(0, relation.nodes)
    grad_summed = _by_heads(g, transform[r].transpose(1, 2))
    grad_transform[r] = _outer_by_heads(weighted_sum(v, weights, relation.by_target), g, num_heads)
    grad_v += weighted_sum(grad_summed, weights, relation.by_source)
    return edge_dot(grad_summed, v, relation.by_target, num_heads)


def _score_backward(
    relation: RelationEdges, query: Tensor, key: Tensor, blocks: Tensor,
    grad_scores: Tensor, grad_query: Tensor, grad_key: Tensor,
) -> Tensor:  # fmt: skip
    """Gradients of the scores; returns that of the scaled key transform [H, D, D] and adds the others in place."""
    num_heads = grad_scores.shape[1]
    q, k = _targets(query, relation), _sources(key, relation)
    grad_q, grad_k = _targets(grad_query, relation), _sources(grad_key, relation)
    if relation.transforms_source:
        k = k.index_select(0, relation.nodes)
        grad_q += weighted_sum(_by_heads(k, blocks), grad_scores, relation.by_target)
        grad_transformed = weighted_sum(q, grad_scores, relation.by_source)
        grad_k.index_add_(0, relation.nodes, _by_heads(grad_transformed, blocks.transpose(1, 2)))
        return _outer_by_heads(k, grad_transformed, num_heads)
    q = q.index_select(0, relation.nodes)
    grad_transformed = weighted_sum(k, grad_scores, relation.by_target)
    grad_k += weighted_sum(_by_heads(q, blocks.transpose(1, 2)), grad_scores, relation.by_source)
    grad_q.index_add_(0, relation.nodes, _by_heads(grad_transformed, blocks))
    return _outer_by_heads(grad_transformed, q, num_heads)
