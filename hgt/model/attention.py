"""Heterogeneous mutual attention and messages (Hu et al. 2020, equations 3 and 4), group by group.

In: queries, keys and values of all nodes. Out: their messages, and in the backward pass the
gradients. It knows no projection and no dropout.

    score[e, h]  = prior[r, h] / sqrt(D) * query[target, h] . (key[source, h] @ key_transform[r, h])
    weight[e, h] = exp(score - highest of the target),  total[t, h] = sum of the weights into t
    message[t, h] = sum over e of weight[e, h] * (value[source, h] @ value_transform[r, h])
                    / total[t, h]

Keys and values are transformed on the side of an edge type that has fewer nodes. On the target's
side that means queries before the inner product, and sums of values after the sum. The softmax runs
over all edges into a node, of all edge types.

Shapes: N nodes, E edges, R message edge types, H heads, D dimensions per head; hidden = H * D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hgt.kernels.choice import edge_kernels
from hgt.kernels.edges import ChunkedKernels, heads
from hgt.messages.message_graph import EdgeGroup, MessageGraph

_MASKED = -1e30  # finite, so that a node whose every edge is removed does not give inf - inf
Tables = tuple[Tensor, ...]  # of one group, each [H, table_rows, D]
_EMPTY = 1e-16  # as PyG: a node without incoming edges gets 0 / 1e-16


@dataclass(frozen=True)
class Attention:
    """The edges of a step with one layer's relation matrices.

    key_transform, value_transform: [R, H, D, D].
    prior: [R, H].
    removed: [E] True for edges that are masked; None for no edge.
    keep: whether `scores` and `messages` return the tables of each group, so that their backward
        passes need not compute them again. Only where the device's kernels do so.
    """

    graph: MessageGraph
    key_transform: Tensor
    value_transform: Tensor
    prior: Tensor
    removed: Tensor | None
    keep: bool = False

    @property
    def _scale(self) -> Tensor:
        return (self.prior / math.sqrt(self.key_transform.shape[-1]))[:, :, None, None]

    def _keeps(self, kernels: ChunkedKernels) -> bool:
        return self.keep and kernels.keeps_tables(self.graph)

    def _tables(
        self, x: Tensor, group: EdgeGroup, blocks: Tensor, kept: Tables | None = None
    ) -> Tables:
        """A group's rows of x [N, hidden] on its transformed side: as they are, and transformed."""
        if kept is not None:
            return kept
        kernels = edge_kernels(x.device.type)
        rows = kernels.table(x, group, self.prior.shape[1])
        return rows, kernels.transformed(
            rows, group, blocks, transposed=not group.transforms_source
        )

    def _sums(
        self, value: Tensor, group: EdgeGroup, weights: Tensor, kept: Tables | None = None
    ) -> Tables:
        """The weighted sums of values into a group's targets, not yet transformed."""
        if kept is not None:
            return kept
        of_heads = heads(value, self.prior.shape[1])
        sums = edge_kernels(value.device.type).weighted_table(
            len(group.nodes), of_heads, weights, group.by_target
        )
        return (sums.to(value.dtype),)

    def scores(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, list[Tables]]:
        """Scores [E, H], the highest of each target [num_targets, H], and the tables to keep.

        These hold keys or queries, as they are and transformed.
        """
        num_heads = self.prior.shape[1]
        kernels = edge_kernels(query.device.type)
        scores = kernels.per_edge_and_head(self.graph.num_edges, self.prior)
        highest = torch.full(
            (len(query), num_heads), _MASKED, dtype=self.prior.dtype, device=query.device
        )
        blocks = _by_head(self.key_transform * self._scale, query.dtype)
        keeps = self._keeps(kernels)
        tables: list[Tables] = []
        for group in self.graph.groups:
            part = scores[slice(*group.edges)]
            by_source = group.transforms_source
            rows, table = self._tables(key if by_source else query, group, blocks)
            if keeps:
                tables.append((rows, table))
            del rows
            kernels.edge_dot(heads(query if by_source else key, num_heads), table, group, part)
            if self.removed is not None:
                part.masked_fill_(self.removed[slice(*group.edges)].unsqueeze(1), _MASKED)
            highest.scatter_reduce_(0, _expanded(group.targets(), part), part, "amax")
        return scores, highest, tables

    def messages(
        self, scores: Tensor, highest: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor, list[Tables]]:
        """Messages [num_targets, hidden], totals [num_targets, H], and the tables to keep.

        These hold values, as they are and transformed, or sums of values. Overwrites the scores
        with the weights.
        """
        num_heads = highest.shape[1]
        kernels = edge_kernels(value.device.type)
        total = torch.zeros_like(highest)
        message = highest.new_zeros(len(highest), value.shape[1])
        blocks = _by_head(self.value_transform, value.dtype)
        keeps = self._keeps(kernels)
        tables: list[Tables] = []
        for group in self.graph.groups:
            weights = scores[slice(*group.edges)]
            target = group.targets()
            weights.sub_(kernels.per_edge(highest, target)).exp_()
            if self.removed is not None:
                weights.masked_fill_(self.removed[slice(*group.edges)].unsqueeze(1), 0.0)
            total.scatter_add_(0, _expanded(target, weights), weights)
            if group.transforms_source:
                rows, table = self._tables(value, group, blocks)
                if keeps:
                    tables.append((rows, table))
                del rows
                kernels.add_weighted_sum(heads(message, num_heads), table, weights, group.by_target)
            else:
                (table,) = self._sums(value, group, weights)
                if keeps:
                    tables.append((table,))
                kernels.add_table(message, group, kernels.transformed(table, group, blocks))
        total += _EMPTY
        message.view(*total.shape, -1).div_(total.unsqueeze(-1))
        return message, total, tables

    def message_backward(
        self,
        weights: Tensor,
        grad_sum: Tensor,
        through_total: Tensor,
        value: Tensor,
        tables: list[Tables],
    ) -> tuple[Tensor, Tensor]:
        """Gradients of value and value_transform. Overwrites the weights with the scores' gradient.

        grad_sum, through_total: what `sum_backward` returned.
        tables: what `messages` returned.
        """
        num_heads = weights.shape[1]
        kernels = edge_kernels(value.device.type)
        grad_value = grad_sum.new_zeros(value.shape)
        grad_transform = torch.zeros_like(self.value_transform)
        blocks = _by_head(self.value_transform, value.dtype)
        grad_sum = grad_sum.to(value.dtype)
        none_kept = [None] * len(self.graph.groups)
        for group, kept in zip(self.graph.groups, tables or none_kept, strict=True):
            part = weights[slice(*group.edges)]
            grad_weights = torch.empty_like(part)
            if group.transforms_source:
                rows, table = self._tables(value, group, blocks, kept)
                kernels.edge_dot(heads(grad_sum, num_heads), table, group, grad_weights)
                del table
                grad_table = kernels.weighted_table(
                    len(group.nodes), heads(grad_sum, num_heads), part, group.by_source
                )
                grad_table = grad_table.to(value.dtype)
                kernels.add_outer(grad_transform, rows, grad_table, group)
                kernels.add_table(
                    grad_value,
                    group,
                    kernels.transformed(grad_table, group, blocks, transposed=True),
                )
            else:
                rows, table = self._tables(grad_sum, group, blocks)
                kernels.edge_dot(heads(value, num_heads), table, group, grad_weights)
                kernels.add_weighted_sum(heads(grad_value, num_heads), table, part, group.by_source)
                (sums,) = self._sums(value, group, part, kept)
                kernels.add_outer(grad_transform, sums, rows, group)
            grad_weights -= kernels.per_edge(through_total, group.targets())
            part.mul_(grad_weights)
        return grad_value, grad_transform

    def score_backward(
        self, grad_scores: Tensor, query: Tensor, key: Tensor, tables: list[Tables]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of query, key, key_transform and prior. tables: what `scores` returned."""
        num_heads = grad_scores.shape[1]
        kernels = edge_kernels(query.device.type)
        grad_query, grad_key = (grad_scores.new_zeros(t.shape) for t in (query, key))
        grad_scaled = torch.zeros_like(self.key_transform)
        blocks = _by_head(self.key_transform * self._scale, query.dtype)
        none_kept = [None] * len(self.graph.groups)
        for group, kept in zip(self.graph.groups, tables or none_kept, strict=True):
            part = grad_scores[slice(*group.edges)]
            if group.transforms_source:
                rows, table = self._tables(key, group, blocks, kept)
                kernels.add_weighted_sum(heads(grad_query, num_heads), table, part, group.by_target)
                del table
                grad_table = kernels.weighted_table(
                    len(group.nodes), heads(query, num_heads), part, group.by_source
                ).to(query.dtype)
                kernels.add_outer(grad_scaled, rows, grad_table, group)
                kernels.add_table(
                    grad_key, group, kernels.transformed(grad_table, group, blocks, transposed=True)
                )
            else:
                rows, table = self._tables(query, group, blocks, kept)
                kernels.add_weighted_sum(heads(grad_key, num_heads), table, part, group.by_source)
                del table
                grad_table = kernels.weighted_table(
                    len(group.nodes), heads(key, num_heads), part, group.by_target
                ).to(query.dtype)
                kernels.add_outer(grad_scaled, grad_table, rows, group)
                kernels.add_table(grad_query, group, kernels.transformed(grad_table, group, blocks))
        grad_prior = (grad_scaled * self.key_transform).sum((2, 3)) / math.sqrt(
            self.key_transform.shape[-1]
        )
        return grad_query, grad_key, grad_scaled * self._scale, grad_prior


def sum_backward(grad_message: Tensor, message: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the sums before they are divided by their totals, and that of the totals.

    Overwrites grad_message. Returns [N, hidden] and [N, H].
    """
    by_head = grad_message.view(*total.shape, -1).div_(total.unsqueeze(-1))
    return grad_message, (by_head * message.view_as(by_head)).sum(-1)


def _expanded(target: Tensor, like: Tensor) -> Tensor:
    return target.unsqueeze(1).expand_as(like)


def _by_head(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """[R, H, D, D] -> [H, R, D, D]."""
    return matrices.to(dtype).transpose(0, 1).contiguous()
