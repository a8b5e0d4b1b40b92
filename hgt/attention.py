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

from hgt.edge_kernels import edge_kernels
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
        blocks = (self.key_transform * self._scale).to(query.dtype)
        for group in self.graph.groups:
            part = scores[slice(*group.edges)]
            if group.transforms_source:
                table = _as_rows(_transformed(key, group, blocks))
                kernels.edge_dot(query, table, group.by_target, part)
            else:
                table = _as_rows(_transformed(query, group, blocks.transpose(2, 3)))
                kernels.edge_dot(table, key, group.by_target, part)
            if self.removed is not None:
                part.masked_fill_(self.removed[slice(*group.edges)].unsqueeze(1), _MASKED)
            highest.scatter_reduce_(0, _expanded(group.targets(), part), part, "amax")
        return scores, highest

    def messages(self, scores: Tensor, highest: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Messages [num_targets, hidden] and totals [num_targets, H]. Overwrites the scores with the weights."""
        kernels = edge_kernels(value.device.type)
        total = torch.zeros_like(highest)
        message = highest.new_zeros(len(highest), value.shape[1])
        blocks = self.value_transform.to(value.dtype)
        all_values = kernels.summands(value, highest.shape[1])
        for group in self.graph.groups:
            weights = scores[slice(*group.edges)]
            target = group.targets()
            weights.sub_(highest.index_select(0, target)).exp_()
            if self.removed is not None:
                weights.masked_fill_(self.removed[slice(*group.edges)].unsqueeze(1), 0.0)
            total.scatter_add_(0, _expanded(target, weights), weights)
            if group.transforms_source:
                summands = kernels.summands(_as_rows(_transformed(value, group, blocks)), highest.shape[1])
                kernels.add_weighted_sum(message, summands, weights, group.by_target)
            else:
                sums = message.new_zeros(len(group.nodes), message.shape[1])
                kernels.add_weighted_sum(sums, all_values, weights, group.by_target)
                _add_rows(message, group, _by_blocks(sums.to(value.dtype), group, blocks))
        total += _EMPTY
        message.view(len(message), total.shape[1], -1).div_(total.unsqueeze(-1))
        return message, total

    def message_backward(self, weights: Tensor, grad_sum: Tensor, through_total: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of value and value_transform from `sum_backward`'s. Overwrites the weights with the gradient of the scores."""
        num_heads = weights.shape[1]
        kernels = edge_kernels(value.device.type)
        grad_value = grad_sum.new_zeros(value.shape)
        grad_transform = torch.zeros_like(self.value_transform)
        blocks = self.value_transform.to(value.dtype)
        grad_sum_rows = grad_sum.to(value.dtype)
        grad_sums, values = kernels.summands(grad_sum_rows, num_heads), kernels.summands(value, num_heads)
        for group in self.graph.groups:
            part = weights[slice(*group.edges)]
            grad_weights = torch.empty_like(part)
            if group.transforms_source:
                rows = _gathered(value, group)
                table = _as_rows(_by_blocks(rows, group, blocks))
                kernels.edge_dot(grad_sum_rows, table, group.by_target, grad_weights)
                grad_table = grad_sum.new_zeros(len(group.nodes), value.shape[1])
                kernels.add_weighted_sum(grad_table, grad_sums, part, group.by_source)
                grad_table = grad_table.to(value.dtype)
                _add_outer(grad_transform, rows, grad_table, group)
                _add_rows(grad_value, group, _by_blocks(grad_table, group, blocks.transpose(2, 3)))
            else:
                rows = _gathered(grad_sum_rows, group)
                table = _as_rows(_by_blocks(rows, group, blocks.transpose(2, 3)))
                kernels.edge_dot(table, value, group.by_target, grad_weights)
                sums = grad_sum.new_zeros(len(group.nodes), value.shape[1])
                kernels.add_weighted_sum(sums, values, part, group.by_target)
                _add_outer(grad_transform, sums.to(value.dtype), rows, group)
                kernels.add_weighted_sum(grad_value, kernels.summands(table, num_heads), part, group.by_source)
            grad_weights -= through_total.index_select(0, group.targets())
            part.mul_(grad_weights)
        return grad_value, grad_transform

    def score_backward(self, grad_scores: Tensor, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of query, key, key_transform and prior."""
        num_heads = grad_scores.shape[1]
        kernels = edge_kernels(query.device.type)
        grad_query, grad_key = (grad_scores.new_zeros(t.shape) for t in (query, key))
        grad_scaled = torch.zeros_like(self.key_transform)
        blocks = (self.key_transform * self._scale).to(query.dtype)
        queries, keys = kernels.summands(query, num_heads), kernels.summands(key, num_heads)
        for group in self.graph.groups:
            part = grad_scores[slice(*group.edges)]
            grad_table = grad_scores.new_zeros(len(group.nodes), query.shape[1])
            if group.transforms_source:
                rows = _gathered(key, group)
                summands = kernels.summands(_as_rows(_by_blocks(rows, group, blocks)), num_heads)
                kernels.add_weighted_sum(grad_query, summands, part, group.by_target)
                kernels.add_weighted_sum(grad_table, queries, part, group.by_source)
                grad_table = grad_table.to(query.dtype)
                _add_outer(grad_scaled, rows, grad_table, group)
                _add_rows(grad_key, group, _by_blocks(grad_table, group, blocks.transpose(2, 3)))
            else:
                rows = _gathered(query, group)
                summands = kernels.summands(_as_rows(_by_blocks(rows, group, blocks.transpose(2, 3))), num_heads)
                kernels.add_weighted_sum(grad_key, summands, part, group.by_source)
                kernels.add_weighted_sum(grad_table, keys, part, group.by_target)
                grad_table = grad_table.to(query.dtype)
                _add_outer(grad_scaled, grad_table, rows, group)
                _add_rows(grad_query, group, _by_blocks(grad_table, group, blocks))
        grad_prior = (grad_scaled * self.key_transform).sum((2, 3)) / math.sqrt(self.key_transform.shape[-1])
        return grad_query, grad_key, grad_scaled * self._scale, grad_prior


def sum_backward(grad_message: Tensor, message: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the sums before they are divided by their totals [N, hidden], and of the totals [N, H]. Overwrites grad_message."""
    num_heads = total.shape[1]
    grad_message.view(len(total), num_heads, -1).div_(total.unsqueeze(-1))
    return grad_message, (grad_message * message).view(len(total), num_heads, -1).sum(-1)


def _expanded(target: Tensor, like: Tensor) -> Tensor:
    return target.unsqueeze(1).expand_as(like)


def _gathered(x: Tensor, group: EdgeGroup) -> Tensor:
    return x.index_select(0, group.nodes)


def _transformed(x: Tensor, group: EdgeGroup, blocks: Tensor) -> Tensor:
    return _by_blocks(_gathered(x, group), group, blocks)


def _by_blocks(rows: Tensor, group: EdgeGroup, matrices: Tensor) -> Tensor:
    """`rows[n, h] @ matrices[relation of n, h]`: [table_rows, hidden] -> [num_blocks, H, block_rows, D]."""
    return _heads_first(rows, group, matrices.shape[1]) @ matrices.index_select(0, group.relation)


def _heads_first(rows: Tensor, group: EdgeGroup, num_heads: int) -> Tensor:
    return rows.view(len(group.relation), group.block_rows, num_heads, -1).transpose(1, 2)


def _as_rows(blocks: Tensor) -> Tensor:
    """[num_blocks, H, block_rows, D] -> [table_rows, hidden]."""
    num_blocks, num_heads, block_rows, head_dim = blocks.shape
    return blocks.transpose(1, 2).reshape(num_blocks * block_rows, num_heads * head_dim)


def _add_rows(out: Tensor, group: EdgeGroup, blocks: Tensor) -> None:
    out.index_add_(0, group.nodes, _as_rows(blocks).to(out.dtype))


def _add_outer(out: Tensor, left: Tensor, right: Tensor, group: EdgeGroup) -> None:
    """`out[r, h] += sum over the relation's table rows n of left[n, h]^T right[n, h]`."""
    left, right = (_heads_first(t, group, out.shape[1]) for t in (left, right))
    out.index_add_(0, group.relation, (left.transpose(2, 3) @ right).to(out.dtype))
