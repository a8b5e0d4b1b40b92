"""Heterogeneous mutual attention and messages (Hu et al. 2020, equations 3 and 4) over groups of edges, forward and backward.

    score[e, h]  = prior[r, h] / sqrt(D) * query[target, h] . (key[source, h] @ key_transform[r, h])
    weight[e, h] = exp(score - highest of the target),  total[t, h] = sum of the weights into t
    message[t, h] = sum over e of weight[e, h] * (value[source, h] @ value_transform[r, h]) / total[t, h]

Keys and values are transformed on the side of an edge type that has fewer nodes; on the target's side that means queries before
the inner product and sums of values after the sum. The softmax runs over all edges into a node, of whatever type.

Shapes: N nodes, E edges, R message edge types, H heads, D dimensions per head; hidden = H * D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hgt.edge_kernels import edge_kernels, heads, in_blocks
from hgt.message_graph import EdgeGroup, MessageGraph

_MASKED = -1e30  # finite, so that a node whose every edge is removed does not give inf - inf
_EMPTY = 1e-16  # as PyG: a node without incoming edges gets 0 / 1e-16


@dataclass(frozen=True)
class Attention:
    """The edges of a step with one layer's relation matrices.

    key_transform, value_transform: [R, H, D, D]; prior: [R, H]; removed: [E] edges that take no part, or None
    """

    graph: MessageGraph
    key_transform: Tensor
    value_transform: Tensor
    prior: Tensor
    removed: Tensor | None

    @property
    def _scale(self) -> Tensor:
        return (self.prior / math.sqrt(self.key_transform.shape[-1]))[:, :, None, None]

    def scores(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [E, H] and the highest of each target [num_targets, H]."""
        num_heads = self.prior.shape[1]
        kernels = edge_kernels(query.device.type)
        scores = torch.empty(self.graph.num_edges, num_heads, dtype=self.prior.dtype, device=query.device)
        highest = torch.full((len(query), num_heads), _MASKED, dtype=self.prior.dtype, device=query.device)
        blocks = _by_head(self.key_transform * self._scale, query.dtype)
        for group in self.graph.groups:
            part = scores[slice(*group.edges)]
            if group.transforms_source:
                table = _by_blocks(kernels.table(key, group, num_heads), group, blocks)
                kernels.edge_dot(heads(query, num_heads), table, group, part)
            else:
                table = _by_blocks(kernels.table(query, group, num_heads), group, blocks.transpose(2, 3))
                kernels.edge_dot(heads(key, num_heads), table, group, part)
            if self.removed is not None:
                part.masked_fill_(self.removed[slice(*group.edges)].unsqueeze(1), _MASKED)
            highest.scatter_reduce_(0, _expanded(group.targets(), part), part, "amax")
        return scores, highest

    def messages(self, scores: Tensor, highest: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Messages [num_targets, hidden] and totals [num_targets, H]. Overwrites the scores with the weights."""
        num_heads = highest.shape[1]
        kernels = edge_kernels(value.device.type)
        total = torch.zeros_like(highest)
        message = highest.new_zeros(len(highest), value.shape[1])
        blocks = _by_head(self.value_transform, value.dtype)
        for group in self.graph.groups:
            weights = scores[slice(*group.edges)]
            target = group.targets()
            weights.sub_(kernels.per_edge(highest, target)).exp_()
            if self.removed is not None:
                weights.masked_fill_(self.removed[slice(*group.edges)].unsqueeze(1), 0.0)
            total.scatter_add_(0, _expanded(target, weights), weights)
            if group.transforms_source:
                table = _by_blocks(kernels.table(value, group, num_heads), group, blocks)
                kernels.add_weighted_sum(heads(message, num_heads), table, weights, group.by_target)
            else:
                sums = kernels.weighted_table(len(group.nodes), heads(value, num_heads), weights, group.by_target)
                kernels.add_table(message, group, _by_blocks(sums.to(value.dtype), group, blocks))
        total += _EMPTY
        message.view(*total.shape, -1).div_(total.unsqueeze(-1))
        return message, total

    def message_backward(self, weights: Tensor, grad_sum: Tensor, through_total: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of value and value_transform from `sum_backward`'s. Overwrites the weights with the gradient of the scores."""
        num_heads = weights.shape[1]
        kernels = edge_kernels(value.device.type)
        grad_value = grad_sum.new_zeros(value.shape)
        grad_transform = torch.zeros_like(self.value_transform)
        blocks = _by_head(self.value_transform, value.dtype)
        grad_sum = grad_sum.to(value.dtype)
        for group in self.graph.groups:
            part = weights[slice(*group.edges)]
            grad_weights = torch.empty_like(part)
            if group.transforms_source:
                rows = kernels.table(value, group, num_heads)
                kernels.edge_dot(heads(grad_sum, num_heads), _by_blocks(rows, group, blocks), group, grad_weights)
                grad_table = kernels.weighted_table(len(group.nodes), heads(grad_sum, num_heads), part, group.by_source)
                grad_table = grad_table.to(value.dtype)
                kernels.add_outer(grad_transform, rows, grad_table, group)
                kernels.add_table(grad_value, group, _by_blocks(grad_table, group, blocks.transpose(2, 3)))
            else:
                rows = kernels.table(grad_sum, group, num_heads)
                table = _by_blocks(rows, group, blocks.transpose(2, 3))
                kernels.edge_dot(heads(value, num_heads), table, group, grad_weights)
                kernels.add_weighted_sum(heads(grad_value, num_heads), table, part, group.by_source)
                sums = kernels.weighted_table(len(group.nodes), heads(value, num_heads), part, group.by_target)
                kernels.add_outer(grad_transform, sums.to(value.dtype), rows, group)
            grad_weights -= kernels.per_edge(through_total, group.targets())
            part.mul_(grad_weights)
        return grad_value, grad_transform

    def score_backward(self, grad_scores: Tensor, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of query, key, key_transform and prior."""
        num_heads = grad_scores.shape[1]
        kernels = edge_kernels(query.device.type)
        grad_query, grad_key = (grad_scores.new_zeros(t.shape) for t in (query, key))
        grad_scaled = torch.zeros_like(self.key_transform)
        blocks = _by_head(self.key_transform * self._scale, query.dtype)
        for group in self.graph.groups:
            part = grad_scores[slice(*group.edges)]
            if group.transforms_source:
                rows = kernels.table(key, group, num_heads)
                table = _by_blocks(rows, group, blocks)
                kernels.add_weighted_sum(heads(grad_query, num_heads), table, part, group.by_target)
                del table
                grad_table = kernels.weighted_table(len(group.nodes), heads(query, num_heads), part, group.by_source).to(query.dtype)
                kernels.add_outer(grad_scaled, rows, grad_table, group)
                kernels.add_table(grad_key, group, _by_blocks(grad_table, group, blocks.transpose(2, 3)))
            else:
                rows = kernels.table(query, group, num_heads)
                table = _by_blocks(rows, group, blocks.transpose(2, 3))
                kernels.add_weighted_sum(heads(grad_key, num_heads), table, part, group.by_source)
                del table
                grad_table = kernels.weighted_table(len(group.nodes), heads(key, num_heads), part, group.by_target).to(query.dtype)
                kernels.add_outer(grad_scaled, grad_table, rows, group)
                kernels.add_table(grad_query, group, _by_blocks(grad_table, group, blocks))
        grad_prior = (grad_scaled * self.key_transform).sum((2, 3)) / math.sqrt(self.key_transform.shape[-1])
        return grad_query, grad_key, grad_scaled * self._scale, grad_prior


def sum_backward(grad_message: Tensor, message: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the sums before they are divided by their totals [N, hidden], and of the totals [N, H]. Overwrites grad_message."""
    by_head = grad_message.view(*total.shape, -1).div_(total.unsqueeze(-1))
    return grad_message, (by_head * message.view_as(by_head)).sum(-1)


def _expanded(target: Tensor, like: Tensor) -> Tensor:
    return target.unsqueeze(1).expand_as(like)


def _by_head(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """[R, H, D, D] -> [H, R, D, D]."""
    return matrices.to(dtype).transpose(0, 1).contiguous()


def _by_blocks(table: Tensor, group: EdgeGroup, matrices: Tensor) -> Tensor:
    """`table[h, n] @ matrices[h, relation of n]`, [H, table_rows, D]. matrices: [H, R, D, D]"""
    return (in_blocks(table, group) @ matrices.index_select(1, group.relation)).view(table.shape)
