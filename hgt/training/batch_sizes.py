"""How large a run's batches are, from counts alone.

In: a graph and a configuration, before the split. Out: `BatchSizes`, for the memory plan. It draws
nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from hgt.config import RunConfig
from hgt.graph.holdout import least_held_out
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.training.contrast import MAX_ANCHORS, MAX_POOL


@dataclass(frozen=True)
class BatchSizes:
    """How large a run's batches are.

    per_batch: {relation: facts}.
    ends: {relation: types of its heads and of its tails}.
    pools, others: {node type: nodes}, as `build_layout` takes them.
    contrast: anchors of a batch, and nodes of the contrastive pool; None without.
    """

    num_batches: int
    per_batch: dict[int, int]
    ends: dict[int, tuple[str, str]]
    pools: dict[str, int]
    others: dict[str, int]
    contrast: tuple[int, int] | None

    @property
    def num_shared(self) -> int:
        """See `Layout`."""
        return sum(self.pools.values())

    def facts(self, num_parts: int) -> int:
        """Facts of one micro-batch."""
        return sum(math.ceil(n / num_parts) for n in self.per_batch.values())

    def competing(self, num_parts: int) -> int:
        """Most facts of one micro-batch that compete with the same pool."""
        by_pool: Counter[tuple[int, str]] = Counter()
        for relation, n in self.per_batch.items():
            by_pool.update(
                {side: math.ceil(n / num_parts) for side in enumerate(self.ends[relation])}
            )
        return max(by_pool.values(), default=0)

    def rows(self, num_parts: int) -> int:
        """Embeddings that one micro-batch needs."""
        contrast = 0
        if self.contrast is not None:
            contrast = 2 * math.ceil(self.contrast[0] / num_parts) + self.contrast[1]
        return self.num_shared + 2 * self.facts(num_parts) + contrast

    @property
    def width(self) -> int:
        """Nodes that a fact's end competes with."""
        return max(self.pools.values(), default=0) + sum(self.others.values())

    def projects_first(self, num_nodes: int) -> bool:
        """Whether projecting all nodes once is less work than projecting a batch's rows."""
        return self.rows(1) >= num_nodes


def batch_sizes(graph: KnowledgeGraph, config: RunConfig) -> BatchSizes:
    """The sizes that `Batches` will draw, or a little more."""
    losses, held_out = config.losses, least_held_out(graph, config.split)
    counts = {r: n - int(n * held_out[e]) for r, (e, n) in enumerate(graph.num_facts.items())}
    num_batches = num_batches_per_epoch(max(counts.values(), default=0), config)
    contrasted = graph.num_nodes.get(losses.contrastive_node_type, 0)
    contrasted = contrasted if losses.contrastive_weight else 0
    used = {t for e in graph.edge_types for t in (e[0], e[2])}
    pools = pool_sizes(graph.num_nodes, used, losses.num_negatives)
    return BatchSizes(
        num_batches,
        {r: math.ceil(n / num_batches) for r, n in counts.items() if n},
        {r: (e[0], e[2]) for r, e in enumerate(graph.num_facts)},
        pools,
        other_sizes(pools, losses.num_other_negatives),
        (min(MAX_ANCHORS, contrasted), min(MAX_POOL, contrasted)) if contrasted else None,
    )


def pool_sizes(num_nodes: Mapping[str, int], used: Collection[str], most: int) -> dict[str, int]:
    """{node type: sampled nodes} of the types that facts have ends of, in the graph's order."""
    return {t: min(most, n) for t, n in num_nodes.items() if t in used}


def other_sizes(pools: Mapping[str, int], most: int) -> dict[str, int]:
    """{node type: how many nodes of its pool facts of other types compete with as well}."""
    return {t: min(most, n) for t, n in pools.items()} if most and len(pools) > 1 else {}


def num_batches_per_epoch(largest_edge_type: int, config: RunConfig) -> int:
    """Optimizer steps of an epoch, which supervises every training fact once.

    Each edge type is spread evenly over them, at most `edge_sample_size` of its facts in a batch.

    largest_edge_type: training facts of the edge type that has most.
    """
    batches = config.batches
    least = batches.min_batches_per_epoch
    return max(math.ceil(largest_edge_type / batches.edge_sample_size), least)
