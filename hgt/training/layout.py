"""The shapes of all micro-batches of a run: which rows hold which facts and which pools.

In: the sizes of relations and pools. Out: a `Layout`. It knows no batch and no embedding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hgt.kernels.nodes import MAX_REDUCTION_ROWS
from hgt.training.deal import RelationDeal

_DIRECTIONS = 128  # nodes of each type that the isotropy loss compares


@dataclass(frozen=True)
class RelationRows:
    """Where one relation's rows stand in every micro-batch.

    facts: range among the micro-batch's facts.
    tail_pool, head_pool: sections of `nodes` with the sampled nodes of the tail's and the head's
        type.
    """

    relation: int
    facts: slice
    tail_pool: int
    head_pool: int

    @property
    def num_facts(self) -> int:
        return self.facts.stop - self.facts.start


@dataclass(frozen=True)
class ContrastRows:
    """The sections of `nodes` that hold the contrastive loss's rows."""

    anchor: int
    positive: int
    pool: int


@dataclass(frozen=True)
class Layout:
    """The shapes that all micro-batches of a run share.

    relations: in the order of their facts, which is that of their tails' types.
    tail_groups: (pool, number of facts) of consecutive facts that compete with the same pool of
        tails.
    head_groups: the same for heads, of the facts in `MicroBatch.head_order`.
    contrast: None without a contrastive loss.
    sections: the lengths into which `nodes` splits, pools first.
    head, tail: the sections with the facts' two ends.
    num_facts: rows of facts, padding among them.
    pool_width: nodes of the largest pool.
    log_weights: of each section. A pool's node counts exp(log weight) times in the softmax, for the
        nodes of its type that were not sampled.
    others: (pool, number of its first nodes) of every type. Every fact competes with these as well;
        those of its own type are filtered out, as it has their whole pool.
    directions: (pool, number of its first nodes, the type's share of all nodes) of every type. The
        isotropy loss compares their directions.
    """

    relations: tuple[RelationRows, ...]
    tail_groups: tuple[tuple[int, int], ...]
    head_groups: tuple[tuple[int, int], ...]
    contrast: ContrastRows | None
    sections: tuple[int, ...]
    head: int
    tail: int
    num_facts: int
    pool_width: int
    log_weights: tuple[float, ...]
    others: tuple[tuple[int, int], ...]
    directions: tuple[tuple[int, int, float], ...]

    @property
    def width(self) -> int:
        """Nodes that a fact's end competes with, filtered ones among them."""
        return self.pool_width + sum(n for _, n in self.others)

    @property
    def num_rows(self) -> int:
        """Embeddings that one micro-batch needs."""
        return sum(self.sections)

    @property
    def num_shared(self) -> int:
        """The first rows of all micro-batches of a batch: the pools, the same nodes in each."""
        return sum(self.sections[: self.head])

    @property
    def shared_and_own(self) -> list[int]:
        """How many of a micro-batch's rows are shared, and how many its own."""
        return [self.num_shared, self.num_rows - self.num_shared]

    def rows_of_batch(self, num_parts: int) -> int:
        """Rows of a whole batch, those that its micro-batches share counted once."""
        return self.num_shared + num_parts * (self.num_rows - self.num_shared)

    @property
    def relation_of_fact(self) -> np.ndarray:
        """[num_facts] each fact's relation."""
        return np.repeat(
            [r.relation for r in self.relations], [r.num_facts for r in self.relations]
        )

    @property
    def head_order(self) -> np.ndarray:
        """[num_facts] the facts sorted by their heads' types."""
        spans = [r.facts for r in _by_head(self.relations)]
        return np.concatenate([np.arange(span.start, span.stop) for span in spans])


def build_layout(
    relations: Sequence[RelationDeal],
    num_nodes: Mapping[str, int],
    pools: Mapping[str, int],
    others: Mapping[str, int],
    contrast: tuple[int, int] | None,
    softmax_correction: float,
) -> Layout:
    """The layout of a run's micro-batches.

    relations: in the order of their tails' types.
    num_nodes: {node type: nodes of the graph}.
    pools: {node type: sampled nodes}.
    others: {node type: the first nodes of its pool that facts of other types compete with}.
    contrast: a micro-batch's anchors, and nodes of the contrastive pool; None without.
    softmax_correction: exponent x of a sampled node's weight (nodes / sampled)^x.
    """
    pool = {t: place for place, t in enumerate(pools)}
    rows = _relation_rows(relations, pool)
    num_facts, num_pools = sum(r.num_facts for r in rows), len(pools)
    sections = [*pools.values(), num_facts, num_facts]
    if contrast is not None:
        sections += [contrast[0], contrast[0], contrast[1]]
    weights = [softmax_correction * math.log(num_nodes[t] / n) for t, n in pools.items()]
    total_nodes = sum(num_nodes[t] for t in pools)
    shares = {t: num_nodes[t] / total_nodes for t in pools}
    return Layout(
        relations=rows,
        tail_groups=_groups([(r.tail_pool, r.num_facts) for r in rows]),
        head_groups=_groups([(r.head_pool, r.num_facts) for r in _by_head(rows)]),
        contrast=None if contrast is None else ContrastRows(*range(num_pools + 2, num_pools + 5)),
        sections=tuple(sections),
        head=num_pools,
        tail=num_pools + 1,
        num_facts=num_facts,
        pool_width=max(pools.values()),
        log_weights=tuple(weights) + (0.0,) * (len(sections) - num_pools),
        others=tuple((pool[t], n) for t, n in others.items()),
        directions=tuple((pool[t], min(n, _DIRECTIONS), shares[t]) for t, n in pools.items()),
    )


def no_negatives(layout: Layout, wanted: Sequence[str], others: Mapping[str, int]) -> np.ndarray:
    """[num_facts, width] True for nodes that never count as negatives, whatever is drawn.

    These are all places of the pool, until a draw fills them: so what a small pool lacks counts as
    known. Of the other types' nodes they are those of the fact's own type.

    wanted: each relation's node type of the end that is predicted.
    others: as `build_layout` takes them.
    """
    never = np.ones((layout.num_facts, layout.width), dtype=bool)
    types = np.repeat(list(others), list(others.values()))
    for node_type, rows in zip(wanted, layout.relations, strict=True):
        never[rows.facts, layout.pool_width :] = types == node_type
    return never


def _relation_rows(
    relations: Sequence[RelationDeal], pool: Mapping[str, int]
) -> tuple[RelationRows, ...]:
    rows, start = [], 0
    for r in relations:
        span = slice(start, start + r.part_size)
        rows.append(RelationRows(r.number, span, pool[r.tail_type], pool[r.head_type]))
        start = span.stop
    return tuple(rows)


def _by_head(relations: Sequence[RelationRows]) -> list[RelationRows]:
    return sorted(relations, key=lambda r: r.head_pool)


def _groups(sizes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Joins neighbours that share a pool, up to MAX_REDUCTION_ROWS facts.

    sizes: (pool, number of facts), as the result.
    """
    groups: list[tuple[int, int]] = []
    for pool, members in itertools.groupby(sizes, key=lambda pool_and_facts: pool_and_facts[0]):
        num_facts = sum(n for _, n in members)
        starts = range(0, num_facts, MAX_REDUCTION_ROWS)
        groups += [(pool, min(MAX_REDUCTION_ROWS, num_facts - start)) for start in starts]
    return tuple(groups)
