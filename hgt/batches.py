"""What each optimizer step supervises, drawn so that any batch can be drawn again from (seed, epoch, batch) alone.

In: the training facts. Out: for each batch its micro-batches of node rows, weights and filters, all of the same shapes from
batch to batch. A batch supervises at most `edge_sample_size` facts of each edge type; an epoch supervises every training fact
exactly once. Nothing here runs on the device: random numbers and look-ups stay on the CPU (FACTS.md 2).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hgt.config import RunConfig
from hgt.graph import KnowledgeGraph
from hgt.message_graph import MessageGraph
from hgt.neighbor_sampling import NeighborSampling
from hgt.node_kernels import MAX_REDUCTION_ROWS
from hgt.similarity import jaccard, neighbour_sets, similar_pairs
from hgt.split import TRAIN, EdgeSplit

_MAX_ANCHORS = 256  # anchors of the contrastive loss per batch
_MAX_CONTRAST_POOL = 512  # nodes that a positive competes with


@dataclass(frozen=True)
class RelationRows:
    """Where one relation's rows stand in every micro-batch.

    facts: range among the micro-batch's facts; tail_pool, head_pool: sections of `nodes` with the sampled nodes of the tail's
    and the head's type
    """

    relation: int
    facts: slice
    tail_pool: int
    head_pool: int


@dataclass(frozen=True)
class ContrastRows:
    """The sections of `nodes` that hold the contrastive loss's rows."""

    anchor: int
    positive: int
    pool: int


@dataclass(frozen=True)
class Layout:
    """The shapes that all micro-batches of a run share.

    sections: the lengths into which `nodes` splits; head, tail: the sections with the facts' two ends
    relations: in the order of their facts, which is that of their tails' types
    tail_groups: (pool, number of facts) of facts in a row that compete with the same pool of tails; head_groups: the same for heads, of
    the facts in `MicroBatch.head_order`
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

    @property
    def num_rows(self) -> int:
        """Embeddings that one micro-batch needs."""
        return sum(self.sections)

    def rows_of_batch(self, num_parts: int) -> int:
        """Rows of a whole batch, the pools that its micro-batches share counted once."""
        shared = {pool for pool, _ in (*self.tail_groups, *self.head_groups)} | ({self.contrast.pool} if self.contrast else set())
        pools = sum(self.sections[s] for s in shared)
        return pools + num_parts * (self.num_rows - pools)


@dataclass(frozen=True)
class MicroBatch:
    """nodes: global numbers of the embeddings it needs; weight: 1 / (facts in the batch), 0 for padding
    relation: of each fact; head_order: the facts sorted by their heads' types
    tail_known, head_known: [num_facts, pool_width] pool nodes that would make a true fact (filtered out of the negatives)
    anchor_weight: 1 / (anchors in the batch), 0 for padding; anchor_known: pool nodes that are alike to the anchor, or itself
    """

    nodes: Int[Tensor, " num_rows"]
    weight: Float[Tensor, " num_facts"]
    relation: Int[Tensor, " num_facts"]
    head_order: Int[Tensor, " num_facts"]
    tail_known: Bool[Tensor, "num_facts pool"]
    head_known: Bool[Tensor, "num_facts pool"]
    anchor_weight: Float[Tensor, " num_anchors"]
    anchor_known: Bool[Tensor, "num_anchors contrast_pool"]

    def to(self, device: torch.device, non_blocking: bool = False) -> MicroBatch:
        return MicroBatch(**{name: tensor.to(device, non_blocking=non_blocking) for name, tensor in vars(self).items()})

    def pinned(self) -> MicroBatch:
        """In memory that CUDA copies from without the host's help."""
        return MicroBatch(**{name: tensor.pin_memory() for name, tensor in vars(self).items()})


@dataclass(frozen=True)
class Batch:
    """supervised: numbers of its training facts, padded with `num_train` to a fixed length; micro_batches: its parts
    messages: the edges drawn for its messages; None: all of the training message graph
    """

    supervised: Int[Tensor, " _"]
    micro_batches: list[MicroBatch]
    messages: MessageGraph | None = None


@dataclass(frozen=True)
class BatchSizes:
    """How large a run's batches are, known before anything is drawn. per_batch: {relation: facts}; pools: {node type: nodes}"""

    num_batches: int
    per_batch: dict[int, int]
    pools: dict[str, int]
    contrast: tuple[int, int] | None  # anchors and pool

    def facts(self, num_parts: int) -> int:
        """Of one micro-batch."""
        return sum(math.ceil(n / num_parts) for n in self.per_batch.values())

    def rows(self, num_parts: int) -> int:
        """Embeddings that one micro-batch needs."""
        contrast = 0 if self.contrast is None else 2 * math.ceil(self.contrast[0] / num_parts) + self.contrast[1]
        return sum(self.pools.values()) + 2 * self.facts(num_parts) + contrast

    @property
    def pool_width(self) -> int:
        return max(self.pools.values(), default=0)

    def projects_first(self, num_nodes: int) -> bool:
        """Whether projecting all nodes to embeddings once is less work than projecting a batch's rows."""
        return self.rows(1) >= num_nodes


def batch_sizes(graph: KnowledgeGraph, config: RunConfig) -> BatchSizes:
    """From counts alone, before the split: what `Batches` will draw, or a little more."""
    train, split = config.train, config.split
    counts = {r: n - int(n * split.least_held_out) for r, n in enumerate(graph.num_facts.values())}
    num_batches = num_batches_per_epoch(max(counts.values(), default=0), config)
    contrast_nodes = graph.num_nodes.get(train.contrastive_node_type, 0) if train.contrastive_weight else 0
    used = {t for e in graph.edge_types for t in (e[0], e[2])}
    return BatchSizes(
        num_batches,
        {r: math.ceil(n / num_batches) for r, n in counts.items() if n},
        {t: min(train.num_negatives, n) for t, n in graph.num_nodes.items() if t in used},
        (min(_MAX_ANCHORS, contrast_nodes), min(_MAX_CONTRAST_POOL, contrast_nodes)) if contrast_nodes else None,
    )


def num_batches_per_epoch(largest_edge_type: int, config: RunConfig) -> int:
    """DESIGN.md 4: every training edge once, each edge type spread evenly, at most `edge_sample_size` of one in a batch."""
    return max(math.ceil(largest_edge_type / config.train.edge_sample_size), config.train.min_batches_per_epoch)


class Batches:
    """All batches of a run. `layout` and `num_batches` are fixed; `draw(epoch, batch)` is a pure function."""

    def __init__(
        self,
        graph: KnowledgeGraph,
        split: EdgeSplit,
        config: RunConfig,
        accumulation_steps: int | None = None,
        neighbors: NeighborSampling | None = None,
        pins: bool = False,
    ):
        """accumulation_steps: into how many micro-batches a batch is cut; the configuration's when not given.
        neighbors: draws each batch's message edges; without it messages pass along all. pins: micro-batches are drawn into pinned memory
        """
        train = config.train
        self.pins = pins
        self.seed = config.split.seed
        self.neighbors = neighbors
        self.num_parts = accumulation_steps or train.accumulation_steps
        self.facts = split.of(TRAIN).numpy()
        self.num_train = self.facts.shape[1]
        counts = np.bincount(self.facts[1], minlength=len(graph.edge_types))
        self.num_batches = num_batches_per_epoch(int(counts.max()), config)
        relations = [_Relation(graph, self.facts, r, self.num_batches, self.num_parts) for r in np.flatnonzero(counts).tolist()]
        self.relations = sorted(relations, key=lambda r: graph.node_types.index(r.tail_type))
        used = {t for r in self.relations for t in (r.head_type, r.tail_type)}
        self.pools = {t: min(train.num_negatives, n) for t, n in graph.num_nodes.items() if t in used}
        self.ranges = {t: graph.type_range(t) for t in graph.node_types}
        self.contrast = _contrast(graph, split, config)
        self.layout = self._layout()

    def _layout(self) -> Layout:
        sections: list[int] = []

        def take(n: int) -> int:
            sections.append(n)
            return len(sections) - 1

        pools = {t: take(n) for t, n in self.pools.items()}
        relations, at = [], 0
        for r in self.relations:
            span = slice(at, at + r.part_size)
            at = span.stop
            relations.append(RelationRows(r.number, span, pools[r.tail_type], pools[r.head_type]))
        head, tail, contrast = take(at), take(at), None
        if self.contrast is not None:
            part = math.ceil(self.contrast.num_anchors / self.num_parts)
            contrast = ContrastRows(take(part), take(part), take(self.contrast.pool_size))
        by_head = sorted(relations, key=lambda r: r.head_pool)
        self.relation = np.repeat([r.relation for r in relations], [r.facts.stop - r.facts.start for r in relations])
        self.head_order = np.concatenate([np.arange(r.facts.start, r.facts.stop) for r in by_head])
        return Layout(
            relations=tuple(relations),
            tail_groups=_groups([(r.tail_pool, r.facts) for r in relations]),
            head_groups=_groups([(r.head_pool, r.facts) for r in by_head]),
            contrast=contrast,
            sections=tuple(sections),
            head=head,
            tail=tail,
            num_facts=at,
            pool_width=max(self.pools.values()),
        )

    def draw(self, epoch: int, batch: int) -> Batch:
        """The batch at this position; the same for every call."""
        rng = np.random.default_rng([self.seed, 1, epoch, batch])
        pools = {t: np.sort(rng.choice(self.ranges[t].stop - self.ranges[t].start, n, replace=False)) for t, n in self.pools.items()}
        drawn = [r.draw(self.seed, epoch, batch, pools) for r in self.relations]
        num_supervised = max(sum(int((d.fact >= 0).sum()) for d in drawn), 1)  # fewer facts than batches leave some batches without any
        contrast = None if self.contrast is None else self.contrast.draw(rng, self.num_parts)
        pool_nodes = np.concatenate([pools[t] + self.ranges[t].start for t in self.pools])
        parts = [self._part(i, drawn, pool_nodes, num_supervised, contrast) for i in range(self.num_parts)]
        parts = [part.pinned() for part in parts] if self.pins else parts
        fact = np.concatenate([d.fact for d in drawn])
        messages = None if self.neighbors is None else self.neighbors.draw(self.seed, epoch, batch)
        return Batch(torch.from_numpy(np.where(fact < 0, self.num_train, fact)), parts, messages)

    def _part(self, i: int, drawn: list[_Drawn], pool_nodes: np.ndarray, num_supervised: int, contrast: _Contrast | None) -> MicroBatch:
        nodes, width = [pool_nodes], self.layout.pool_width
        facts, tail_known, head_known = [], [], []
        for d, rows in zip(drawn, self.layout.relations, strict=True):
            size = rows.facts.stop - rows.facts.start
            part = slice(i * size, (i + 1) * size)
            facts.append(d.fact[part])
            tail_known.append(_padded(d.tail_known[part], width))
            head_known.append(_padded(d.head_known[part], width))
        fact = np.concatenate(facts)
        ends = self.facts[:, np.maximum(fact, 0)]
        nodes += [ends[0], ends[2]]
        weight = (fact >= 0) / num_supervised
        anchor_weight, anchor_known = np.zeros(0), np.zeros((0, 0), dtype=bool)
        if contrast is not None:
            size = len(contrast.anchor) // self.num_parts
            part = slice(i * size, (i + 1) * size)
            nodes += [contrast.anchor[part], contrast.positive[part], contrast.pool]
            anchor_weight, anchor_known = contrast.weight[part], contrast.known[part]
        return MicroBatch(
            torch.from_numpy(np.concatenate(nodes)),
            torch.from_numpy(weight.astype(np.float32)),
            torch.from_numpy(self.relation),
            torch.from_numpy(self.head_order),
            torch.from_numpy(np.concatenate(tail_known)),
            torch.from_numpy(np.concatenate(head_known)),
            torch.from_numpy(anchor_weight.astype(np.float32)),
            torch.from_numpy(np.ascontiguousarray(anchor_known)),
        )

    def supervised_of_epoch(self, epoch: int) -> Iterator[np.ndarray]:
        """The training facts of each batch, without padding."""
        for batch in range(self.num_batches):
            fact = np.concatenate([r.facts_of(self.seed, epoch, batch) for r in self.relations])
            yield fact[fact >= 0]


def _groups(spans: list[tuple[int, slice]]) -> tuple[tuple[int, int], ...]:
    """(pool, number of facts) of neighbours that share a pool, at most MAX_REDUCTION_ROWS facts each."""
    groups: list[tuple[int, int]] = []
    for pool, rows in itertools.groupby(spans, key=lambda pool_and_facts: pool_and_facts[0]):
        num_facts = sum(facts.stop - facts.start for _, facts in rows)
        groups += [(pool, min(MAX_REDUCTION_ROWS, num_facts - done)) for done in range(0, num_facts, MAX_REDUCTION_ROWS)]
    return tuple(groups)


def _padded(known: np.ndarray, width: int) -> np.ndarray:
    return np.pad(known, ((0, 0), (0, width - known.shape[1])), constant_values=True)


@dataclass(frozen=True)
class _Drawn:
    """One relation's rows of a batch, padded: fact numbers (-1 for padding) and the filters of both sides."""

    fact: np.ndarray
    tail_known: np.ndarray
    head_known: np.ndarray


class _Relation:
    """One relation's training facts and how they are dealt out."""

    def __init__(self, graph: KnowledgeGraph, facts: np.ndarray, number: int, num_batches: int, num_parts: int):
        self.number = number
        self.num_batches = num_batches
        edge_type = graph.edge_types[number]
        self.head_type, self.tail_type = edge_type[0], edge_type[2]
        self.fact = np.flatnonzero(facts[1] == number)
        self.part_size = math.ceil(math.ceil(len(self.fact) / num_batches) / num_parts)
        self.size = self.part_size * num_parts
        self.head = facts[0, self.fact] - graph.offsets[self.head_type]
        self.tail = facts[2, self.fact] - graph.offsets[self.tail_type]
        self.known = known_matrix(self.head, self.tail, graph, number)
        self.known_transposed = self.known.T.tocsr()
        self.shuffled: tuple[tuple[int, int], np.ndarray] | None = None  # (seed, epoch) and that epoch's order of the facts

    def facts_of(self, seed: int, epoch: int, batch: int) -> np.ndarray:
        """Numbers of the facts of one batch, padded with -1 to `size`: an even share of this epoch's shuffle."""
        return self._pad(self.fact[self._places(seed, epoch, batch)])

    def draw(self, seed: int, epoch: int, batch: int, pools: dict[str, np.ndarray]) -> _Drawn:
        places = self._places(seed, epoch, batch)
        tail_known = _known_in_pool(self.known, self.head[places], pools[self.tail_type])
        head_known = _known_in_pool(self.known_transposed, self.tail[places], pools[self.head_type])
        missing = ((0, self.size - len(places)), (0, 0))
        return _Drawn(self._pad(self.fact[places]), np.pad(tail_known, missing), np.pad(head_known, missing))

    def _places(self, seed: int, epoch: int, batch: int) -> np.ndarray:
        if self.shuffled is None or self.shuffled[0] != (
            seed,
            epoch,
        ):  # shuffling millions of facts for each batch would take most of its time
            order = np.random.default_rng([seed, 2, epoch, self.number]).permutation(len(self.fact)).astype(np.int32)
            self.shuffled = (seed, epoch), order
        order = self.shuffled[1]
        start, stop = (b * len(self.fact) // self.num_batches for b in (batch, batch + 1))
        return order[start:stop]

    def _pad(self, fact: np.ndarray) -> np.ndarray:
        return np.pad(fact, (0, self.size - len(fact)), constant_values=-1)


def known_matrix(head: np.ndarray, tail: np.ndarray, graph: KnowledgeGraph, relation: int) -> scipy.sparse.csr_array:
    """[heads, tails] of one relation, numbered within their types; symmetric relations hold both directions."""
    edge_type = graph.edge_types[relation]
    if edge_type in graph.symmetric:
        head, tail = np.concatenate([head, tail]), np.concatenate([tail, head])
    shape = (graph.num_nodes[edge_type[0]], graph.num_nodes[edge_type[2]])
    return scipy.sparse.csr_array((np.ones(len(head), dtype=bool), (head, tail)), shape=shape)


def _known_in_pool(known: scipy.sparse.csr_array, rows: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """[rows, pool] whether the pool's node is known to go with the row. `pool` is sorted."""
    distinct, inverse = np.unique(rows, return_inverse=True)
    facts = known[distinct].tocoo()
    place = np.minimum(np.searchsorted(pool, facts.col), len(pool) - 1)
    hit = pool[place] == facts.col
    mask = np.zeros((len(distinct), len(pool)), dtype=bool)
    mask[facts.row[hit], place[hit]] = True
    return mask[inverse]


@dataclass(frozen=True)
class _Contrast:
    """The contrastive rows of one batch, anchors padded (weight 0) to a multiple of the number of micro-batches."""

    anchor: np.ndarray
    positive: np.ndarray
    pool: np.ndarray
    weight: np.ndarray
    known: np.ndarray


class _ContrastSource:
    """Draws anchors with a positive each, and a pool, from one node type."""

    def __init__(self, sets: scipy.sparse.csr_array, similar: scipy.sparse.csr_array, threshold: float, start: int):
        self.sets = sets
        self.similar = similar
        self.threshold = threshold
        self.start = start
        self.candidates = np.flatnonzero(np.diff(similar.indptr))
        self.num_anchors = min(_MAX_ANCHORS, len(self.candidates))
        self.pool_size = min(_MAX_CONTRAST_POOL, similar.shape[0])

    def draw(self, rng: np.random.Generator, num_parts: int) -> _Contrast:
        anchor = rng.choice(self.candidates, self.num_anchors, replace=False)
        ptr = self.similar.indptr
        positive = self.similar.indices[ptr[anchor] + (rng.random(len(anchor)) * (ptr[anchor + 1] - ptr[anchor])).astype(np.int64)]
        pool = np.sort(rng.choice(self.similar.shape[0], self.pool_size, replace=False))
        alike = jaccard(self.sets, anchor, pool)  # not `similar`, which leaves out a hub's less similar ones
        known = (alike >= self.threshold) & (alike > 0)  # the anchor itself among them
        missing = -len(anchor) % num_parts
        weight = np.pad(np.full(len(anchor), 1 / len(anchor)), (0, missing))
        anchor, positive = np.pad(anchor, (0, missing)), np.pad(positive, (0, missing))
        known = np.pad(known, ((0, missing), (0, 0)))
        return _Contrast(anchor + self.start, positive + self.start, pool + self.start, weight, known)


def _contrast(graph: KnowledgeGraph, split: EdgeSplit, config: RunConfig) -> _ContrastSource | None:
    """None where the weight is 0, the graph lacks the node type, or no two of its nodes are alike."""
    node_type = config.train.contrastive_node_type
    if config.train.contrastive_weight == 0 or node_type not in graph.num_nodes:
        return None
    threshold = config.train.similarity_threshold
    sets = neighbour_sets(graph, split, node_type)
    similar = similar_pairs(sets, threshold)
    return _ContrastSource(sets, similar, threshold, graph.offsets[node_type]) if similar.nnz else None
