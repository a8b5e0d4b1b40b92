"""The softmax of true ends among sampled nodes: its loss and its gradients in one pass.

In: queries, the true ends' scores and the pools' embeddings. Out: the loss, with the gradients of
all of these, computed for some facts at a time. It knows no decoder and no model.

As a chain of autograd operations it would keep all scores until the backward pass, take their
exponentials twice and copy them five times: on two CPU cores a quarter of the loss's time, on an
accelerator most of its memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hgt.device.traits import traits_of
from hgt.kernels.nodes import MAX_REDUCTION_ROWS
from hgt.training.layout import Layout

FILTERED = -1e30


def rows_at_a_time(device_type: str) -> int:
    """Most facts whose scores are in memory at a time.

    On the CPU so many that its cache holds their scores. Elsewhere many, for few kernels, but no
    reduction over more rows than MPS computes correctly.
    """
    return traits_of(device_type).facts_at_a_time or MAX_REDUCTION_ROWS


def sampled_softmax_loss(
    tail_query: Float[Tensor, "num_facts dim"],
    head_query: Float[Tensor, "num_facts dim"],
    true: Float[Tensor, " num_facts"],
    shared: Float[Tensor, "num_shared dim"],
    known: tuple[Bool[Tensor, "num_facts width"], Bool[Tensor, "num_facts width"]],
    weight: Float[Tensor, " num_facts"],
    head_order: Int[Tensor, " num_facts"],
    layout: Layout,
) -> Float[Tensor, ""]:
    """Weighted sum over facts of the mean of both sides' -log softmax.

    The backward pass may run once only. Raises RuntimeError when it runs again.

    tail_query: its products with tails' embeddings are scores.
    head_query: the same for heads; its rows are in `head_order`, the order of `Layout.head_groups`.
    true: the facts' scores.
    shared: the pools' embeddings.
    known: True for sampled tails, and heads, that do not count as negatives.
    """
    return _SampledSoftmax.apply(
        tail_query, head_query, true, shared, known, weight, head_order, layout
    )


class _SampledSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        tail_query: Tensor,
        head_query: Tensor,
        true: Tensor,
        shared: Tensor,
        known: tuple[Tensor, Tensor],
        weight: Tensor,
        order: Tensor,
        layout: Layout,
    ) -> Tensor:
        pools, half = _Pools(shared, layout), 0.5 * weight
        tails = _Asked(tail_query, true, known[0], half)
        sorted_by_head = (t.index_select(0, order) for t in (true, known[1], half))
        heads = _Asked(head_query, *sorted_by_head)
        of_tails, grad_tail_query, grad_true = pools.ask(tails, layout.tail_groups)
        of_heads, grad_head_query, grad_true_of_heads = pools.ask(heads, layout.head_groups)
        grad_true.index_add_(0, order, grad_true_of_heads)
        ctx.spent = [(grad_tail_query, grad_head_query, grad_true, pools.gradient())]
        return of_tails + of_heads

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.spent:
            raise RuntimeError(
                "The backward pass of the link loss can run once only; compute the loss again."
            )
        return *(grad.mul_(grad_loss) for grad in ctx.spent.pop()), None, None, None, None


@dataclass(frozen=True)
class _Asked:
    """Facts of which one end is predicted.

    query: [n, dim]; true: [n] scores; known: [n, width]; weight: [n].
    """

    query: Tensor
    true: Tensor
    known: Tensor
    weight: Tensor

    def some(self, part: slice) -> _Asked:
        return _Asked(self.query[part], self.true[part], self.known[part], self.weight[part])


class _Pools:
    """The sampled nodes' embeddings, and their gradient as it adds up.

    rows: of each pool; others: those that every fact competes with.
    """

    def __init__(self, shared: Tensor, layout: Layout):
        sizes = layout.sections[: layout.head]
        self.layout = layout
        self.rows = shared.split(sizes)
        self.grad = torch.zeros_like(shared)
        self.grad_rows = self.grad.split(sizes)
        self.others = (
            torch.cat([self.rows[pool][:n] for pool, n in layout.others])
            if layout.others
            else shared[:0]
        )
        self.grad_others = torch.zeros_like(self.others)

    def ask(
        self, facts: _Asked, groups: tuple[tuple[int, int], ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One side's loss, and its gradients by the queries and by the true ends' scores."""
        loss = facts.true.new_zeros(())
        grad_query, grad_true = torch.empty_like(facts.query), torch.empty_like(facts.true)
        for pool, part in _parts(groups, rows_at_a_time(facts.query.device.type)):
            loss += self._ask(pool, facts.some(part), grad_query[part], grad_true[part])
        return loss, grad_query, grad_true

    def _ask(self, pool: int, facts: _Asked, grad_query: Tensor, grad_true: Tensor) -> Tensor:
        """The loss of facts that compete with one pool.

        Writes their gradients and adds to the pools'.
        """
        width, log_weight = self.layout.pool_width, self.layout.log_weights[pool]
        rows, others, query = self.rows[pool], self.others, facts.query
        scores = (query @ rows.T).masked_fill_(facts.known[:, : len(rows)], FILTERED)
        # Equal to the softmax in which all scores of the pool are raised by the log weight.
        true = facts.true - log_weight
        highest = torch.maximum(true, scores.amax(1))
        if len(others):
            of_others = (query @ others.T).sub_(log_weight)
            of_others.masked_fill_(facts.known[:, width:], FILTERED)
            highest = torch.maximum(highest, of_others.amax(1))
        own = (true - highest).exp_()
        total = own + scores.sub_(highest.unsqueeze(1)).exp_().sum(1)
        if len(others):
            total += of_others.sub_(highest.unsqueeze(1)).exp_().sum(1)
        share = facts.weight / total
        torch.sub(own.mul_(share), facts.weight, out=grad_true)
        # From here on the scores are their gradient.
        torch.mm(scores.mul_(share.unsqueeze(1)), rows, out=grad_query)
        self.grad_rows[pool].addmm_(scores.T, query)
        if len(others):
            grad_query.addmm_(of_others.mul_(share.unsqueeze(1)), others)
            self.grad_others.addmm_(of_others.T, query)
        return (facts.weight * (total.log_() + highest - true)).sum()

    def gradient(self) -> Tensor:
        """The gradient of all pools, with that of the nodes that every fact competes with."""
        parts = self.grad_others.split([n for _, n in self.layout.others])
        for (pool, n), part in zip(self.layout.others, parts, strict=True):
            self.grad_rows[pool][:n] += part
        return self.grad


def _parts(groups: tuple[tuple[int, int], ...], most: int) -> Iterator[tuple[int, slice]]:
    """Each group's pool and facts, at most so many at a time."""
    first = 0
    for pool, n in groups:
        for start in range(first, first + n, most):
            yield pool, slice(start, min(start + most, first + n))
        first += n
