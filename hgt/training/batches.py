"""What each optimizer step supervises, drawn so that any batch can be drawn again from (seed, epoch, batch) alone.

In: the training facts. Out: for each batch its micro-batches of node rows, weights and filters, all of the same shapes from
batch to batch. A batch supervises at most `edge_sample_size` facts of each edge type; an epoch supervises every training fact
exactly once. Nothing here runs on the device: random numbers and look-ups stay on the CPU (FACTS.md 2).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hgt.config import RunConfig
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import TRAIN, EdgeSplit, least_held_out
from hgt.kernels.nodes import MAX_REDUCTION_ROWS
from hgt.messages.message_graph import MessageGraph
from hgt.messages.neighbor_sampling import NeighborSampling
from hgt.seeds import Stream, generator
from hgt.training.contrast import MAX_ANCHORS, MAX_POOL, ContrastDraw, contrast_source
from hgt.training.zero_shot import Siblings

_DIRECTIONS = 128  # nodes of each type that the isotropy loss compares


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

    sections: the lengths into which `nodes` splits, pools first; head, tail: the sections with the facts' two ends
    relations: in the order of their facts, which is that of their tails' types
    tail_groups: (pool, number of facts) of facts in a row that compete with the same pool of tails; head_groups: the same for heads, of
    the facts in `MicroBatch.head_order`
    log_weights: of each section; a pool's node counts exp(log weight) times in the softmax, for the nodes of its type that were not sampled
    others: (pool, number of its first nodes) of every type, which every fact competes with besides; its own type's are filtered out
    directions: (pool, number of its first nodes, the type's share of all nodes): whose directions the isotropy loss compares
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
        """How many of a micro-batch's rows are shared, and how many its own: what `MicroBatch.nodes` splits into."""
        return [self.num_shared, self.num_rows - self.num_shared]

    def rows_of_batch(self, num_parts: int) -> int:
        """Rows of a whole batch, those that its micro-batches share counted once."""
        return self.num_shared + num_parts * (self.num_rows - self.num_shared)


@dataclass(frozen=True)
class MicroBatch:
    """nodes: global numbers of the embeddings it needs, of 32 bits, as the pools come with every micro-batch
    weight: 1 / (facts in the batch), 0 for padding
    relation: of each fact; head_order: the facts sorted by their heads' types
    tail_known, head_known: [num_facts, width] sampled nodes that would make a true fact (filtered out of the negatives), and what is none
    anchor_weight: 1 / (anchors in the batch), 0 for padding; anchor_known: pool nodes that are alike to the anchor, or itself
    """

    nodes: Int[Tensor, " num_rows"]
    weight: Float[Tensor, " num_facts"]
    relation: Int[Tensor, " num_facts"]
    head_order: Int[Tensor, " num_facts"]
    tail_known: Bool[Tensor, "num_facts width"]
    head_known: Bool[Tensor, "num_facts width"]
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
    silent: numbers of the facts that no message tells of: the supervised ones, their mirrors, and what edge dropout leaves out
    number: how many batches of the run come before it
    messages: the edges drawn for its messages; None: all of the training message graph
    """

    supervised: Int[Tensor, " _"]
    silent: Int[Tensor, " _"]
    micro_batches: list[MicroBatch]
    number: int
    messages: MessageGraph | None = None


@dataclass(frozen=True)
class BatchSizes:
    """How large a run's batches are, known before anything is drawn. per_batch: {relation: facts}; pools, others: {node type: nodes}

    ends: {relation: types of its heads and of its tails}
    """

    num_batches: int
    per_batch: dict[int, int]
    ends: dict[int, tuple[str, str]]
    pools: dict[str, int]
    others: dict[str, int]
    contrast: tuple[int, int] | None  # anchors and pool

    @property
    def num_shared(self) -> int:
        """See `Layout`."""
        return sum(self.pools.values())

    def facts(self, num_parts: int) -> int:
        """Of one micro-batch."""
        return sum(math.ceil(n / num_parts) for n in self.per_batch.values())

    def competing(self, num_parts: int) -> int:
        """Most facts of one micro-batch that compete with the same pool."""
        by_pool: Counter[tuple[int, str]] = Counter()
        for relation, n in self.per_batch.items():
            by_pool.update({side: math.ceil(n / num_parts) for side in enumerate(self.ends[relation])})
        return max(by_pool.values(), default=0)

    def rows(self, num_parts: int) -> int:
        """Embeddings that one micro-batch needs."""
        contrast = 0 if self.contrast is None else 2 * math.ceil(self.contrast[0] / num_parts) + self.contrast[1]
        return self.num_shared + 2 * self.facts(num_parts) + contrast

    @property
    def width(self) -> int:
        """Nodes that a fact's end competes with."""
        return max(self.pools.values(), default=0) + sum(self.others.values())

    def projects_first(self, num_nodes: int) -> bool:
        """Whether projecting all nodes to embeddings once is less work than projecting a batch's rows."""
        return self.rows(1) >= num_nodes


def batch_sizes(graph: KnowledgeGraph, config: RunConfig) -> BatchSizes:
    """From counts alone, before the split: what `Batches` will draw, or a little more."""
    train, held_out = config.train, least_held_out(graph, config.split)
    counts = {r: n - int(n * held_out[e]) for r, (e, n) in enumerate(graph.num_facts.items())}
    num_batches = num_batches_per_epoch(max(counts.values(), default=0), config)
    contrast_nodes = graph.num_nodes.get(train.contrastive_node_type, 0) if train.contrastive_weight else 0
    used = {t for e in graph.edge_types for t in (e[0], e[2])}
    pools = {t: min(train.num_negatives, n) for t, n in graph.num_nodes.items() if t in used}
    return BatchSizes(
        num_batches,
        {r: math.ceil(n / num_batches) for r, n in counts.items() if n},
        {r: (e[0], e[2]) for r, e in enumerate(graph.num_facts)},
        pools,
        _others(pools, train.num_other_negatives),
        (min(MAX_ANCHORS, contrast_nodes), min(MAX_POOL, contrast_nodes)) if contrast_nodes else None,
    )


def _others(pools: dict[str, int], most: int) -> dict[str, int]:
    """Of each type's pool, how many nodes facts of other types compete with as well."""
    return {t: min(most, n) for t, n in pools.items()} if most and len(pools) > 1 else {}


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
        self.others = _others(self.pools, train.num_other_negatives)
        self.softmax_correction = train.softmax_correction
        self.num_nodes, self.offsets = graph.num_nodes, graph.offsets
        self.contrast = contrast_source(graph, split, config)
        self.edge_dropout = config.model.edge_dropout
        self.siblings, self.mirror = Siblings(graph, self.facts, config.split), mirror_facts(graph, self.facts)
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
        num_nodes = sum(self.num_nodes[t] for t in self.pools)
        self.relation = np.repeat([r.relation for r in relations], [r.facts.stop - r.facts.start for r in relations])
        self.head_order = np.concatenate([np.arange(r.facts.start, r.facts.stop) for r in by_head])
        layout = Layout(
            relations=tuple(relations),
            tail_groups=_groups([(r.tail_pool, r.facts) for r in relations]),
            head_groups=_groups([(r.head_pool, r.facts) for r in by_head]),
            contrast=contrast,
            sections=tuple(sections),
            head=head,
            tail=tail,
            num_facts=at,
            pool_width=max(self.pools.values()),
            log_weights=tuple(self._log_weight(t, n) for t, n in self.pools.items()) + (0.0,) * (len(sections) - len(pools)),
            others=tuple((pools[t], n) for t, n in self.others.items()),
            directions=tuple((pools[t], min(n, _DIRECTIONS), self.num_nodes[t] / num_nodes) for t, n in self.pools.items()),
        )
        self.no_tail = self._no_negatives(layout, [r.tail_type for r in self.relations])
        self.no_head = self._no_negatives(layout, [r.head_type for r in self.relations])
        return layout

    def _log_weight(self, node_type: str, num_sampled: int) -> float:
        return self.softmax_correction * math.log(self.num_nodes[node_type] / num_sampled)

    def _no_negatives(self, layout: Layout, node_types: list[str]) -> np.ndarray:
        """[num_facts, width] what is no negative whatever is drawn: all of the pool as yet, and of the others those of the facts' own type.

        node_types: each relation's, of the end that is asked for
        """
        own = np.ones((layout.num_facts, layout.width), dtype=bool)
        types = np.repeat(list(self.others), list(self.others.values()))
        for node_type, rows in zip(node_types, layout.relations, strict=True):
            own[rows.facts, layout.pool_width :] = types == node_type
        return own

    def draw(self, epoch: int, batch: int) -> Batch:
        """The batch at this position; the same for every call."""
        rng = generator(self.seed, Stream.BATCH, epoch, batch)
        pools = {t: _Pool(rng, self.num_nodes[t], n) for t, n in self.pools.items()}
        contrast = None if self.contrast is None else self.contrast.draw(rng, self.num_parts)
        fact = np.full((self.num_parts, self.layout.num_facts), -1)
        # what a small pool lacks counts as known, so as no negative
        tail_known, head_known = (np.repeat(known[None], self.num_parts, 0) for known in (self.no_tail, self.no_head))
        for relation, rows in zip(self.relations, self.layout.relations, strict=True):
            drawn = relation.draw(self.seed, epoch, batch, pools)
            for whole, part in ((fact, drawn.fact), (tail_known, drawn.tail_known), (head_known, drawn.head_known)):
                part = part.reshape(self.num_parts, relation.part_size, *part.shape[1:])
                whole[(slice(None), rows.facts, *(slice(n) for n in part.shape[2:]))] = part
        num_supervised = max(int((fact >= 0).sum()), 1)  # fewer facts than batches leave some batches without any
        pool_nodes = np.concatenate([pool.nodes + self.offsets[t] for t, pool in pools.items()])
        parts = [
            self._part(i, pool_nodes, fact[i], (tail_known[i], head_known[i]), num_supervised, contrast) for i in range(self.num_parts)
        ]
        parts = [part.pinned() for part in parts] if self.pins else parts
        messages = None if self.neighbors is None else self.neighbors.draw(self.seed, epoch, batch)
        supervised = np.where(fact < 0, self.num_train, fact).ravel()
        mirrors = self.mirror[supervised] if len(self.mirror) else supervised[:0]
        silent = np.concatenate([supervised, self.siblings.of(supervised), mirrors, self._dropped(epoch, batch)])
        return Batch(torch.from_numpy(supervised), torch.from_numpy(silent), parts, epoch * self.num_batches + batch, messages)

    def _dropped(self, epoch: int, batch: int) -> np.ndarray:
        """Facts whose messages a step leaves out at random (DropEdge, Rong et al. 2020).

        A head that has read one neighbour alone learns to do without it. By fact, so that it is the
        same on every device and in every form of the step.
        """
        if not self.edge_dropout:
            return np.zeros(0, dtype=np.int64)
        rng = generator(self.seed, Stream.EDGE_DROPOUT, epoch, batch)
        return np.flatnonzero(rng.random(self.num_train, dtype=np.float32) < self.edge_dropout)

    def _part(
        self,
        i: int,
        pool_nodes: np.ndarray,
        fact: np.ndarray,
        known: tuple[np.ndarray, np.ndarray],
        num_supervised: int,
        contrast: ContrastDraw | None,
    ) -> MicroBatch:
        ends = self.facts[:, np.maximum(fact, 0)]
        nodes = [pool_nodes, ends[0], ends[2]]
        anchor_weight, anchor_known = np.zeros(0), np.zeros((0, 0), dtype=bool)
        if contrast is not None:
            size = len(contrast.anchor) // self.num_parts
            part = slice(i * size, (i + 1) * size)
            nodes += [contrast.anchor[part], contrast.positive[part], contrast.pool]
            anchor_weight, anchor_known = contrast.weight[part], contrast.known[part]
        return MicroBatch(
            torch.from_numpy(np.concatenate(nodes).astype(np.int32)),
            torch.from_numpy(((fact >= 0) / num_supervised).astype(np.float32)),
            torch.from_numpy(self.relation),
            torch.from_numpy(self.head_order),
            torch.from_numpy(known[0]),
            torch.from_numpy(known[1]),
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


class _Pool:
    """Sampled nodes of one type, numbered within it.

    nodes: in no order, so that the first of them are a sample too; place: [num_nodes] each node's place among them, -1 for none
    """

    def __init__(self, rng: np.random.Generator, num_nodes: int, size: int):
        self.nodes = rng.choice(num_nodes, size, replace=False)
        self.place = np.full(num_nodes, -1, dtype=np.int32)
        self.place[self.nodes] = np.arange(size, dtype=np.int32)


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

    def draw(self, seed: int, epoch: int, batch: int, pools: dict[str, _Pool]) -> _Drawn:
        places = self._places(seed, epoch, batch)
        return _Drawn(
            self._pad(self.fact[places]),
            _known_in_pool(self.known, self.head[places], pools[self.tail_type], self.size),
            _known_in_pool(self.known_transposed, self.tail[places], pools[self.head_type], self.size),
        )

    def _places(self, seed: int, epoch: int, batch: int) -> np.ndarray:
        if self.shuffled is None or self.shuffled[0] != (
            seed,
            epoch,
        ):  # shuffling millions of facts for each batch would take most of its time
            rng = generator(seed, Stream.FACT_ORDER, epoch, self.number)
            order = rng.permutation(len(self.fact)).astype(np.int32)
            self.shuffled = (seed, epoch), order
        order = self.shuffled[1]
        start, stop = (b * len(self.fact) // self.num_batches for b in (batch, batch + 1))
        return order[start:stop]

    def _pad(self, fact: np.ndarray) -> np.ndarray:
        padded = np.full(self.size, -1)
        padded[: len(fact)] = fact
        return padded


def mirror_facts(graph: KnowledgeGraph, facts: Int[np.ndarray, "3 num_train"]) -> Int[np.ndarray, " n"]:
    """[num_train + 1] the number of each fact's mirror, (b, relation, a) of (a, relation, b); num_train where there is none.

    Empty where no fact has one. The split holds the two out together, so no fact that is ranked has its mirror among the messages. A
    symmetric relation's fact is its own mirror, told in both directions.
    """
    there, num_train = set(graph.edge_types), facts.shape[1]
    names = sorted({e[1] for e in graph.edge_types if e not in graph.symmetric and e[::-1] in there})
    name = np.array([names.index(e[1]) if e[1] in names and e[::-1] in there else -1 for e in graph.edge_types])[facts[1]]
    place = np.flatnonzero(name >= 0)
    low, high = np.sort(facts[::2, place].astype(np.int64), axis=0)
    pair = (name[place] * graph.total_nodes + low) * graph.total_nodes + high
    order = np.argsort(pair, kind="stable")
    twice = np.flatnonzero(pair[order[1:]] == pair[order[:-1]])
    if not len(twice):
        return np.empty(0, dtype=np.int64)
    one, other = place[order[twice]], place[order[twice + 1]]
    mirror = np.full(num_train + 1, num_train)
    mirror[one], mirror[other] = other, one
    return mirror


def known_matrix(head: np.ndarray, tail: np.ndarray, graph: KnowledgeGraph, relation: int) -> scipy.sparse.csr_array:
    """[heads, tails] of one relation, numbered within their types; symmetric relations hold both directions."""
    edge_type = graph.edge_types[relation]
    if edge_type in graph.symmetric:
        head, tail = np.concatenate([head, tail]), np.concatenate([tail, head])
    shape = (graph.num_nodes[edge_type[0]], graph.num_nodes[edge_type[2]])
    return scipy.sparse.csr_array((np.ones(len(head), dtype=bool), (head, tail)), shape=shape)


def _known_in_pool(known: scipy.sparse.csr_array, rows: np.ndarray, pool: _Pool, size: int) -> np.ndarray:
    """[size, pool] whether the pool's node is known to go with the row; nothing is, from the last row on."""
    distinct, inverse = np.unique(rows, return_inverse=True)
    start = known.indptr[distinct]
    count = known.indptr[distinct + 1] - start
    row = np.repeat(np.arange(len(distinct)), count)
    place = pool.place[known.indices[np.arange(len(row)) + (start - np.cumsum(count) + count)[row]]]
    of_distinct = np.zeros((len(distinct), len(pool.nodes)), dtype=bool)
    of_distinct[row[place >= 0], place[place >= 0]] = True
    mask = np.zeros((size, len(pool.nodes)), dtype=bool)
    mask[: len(rows)] = of_distinct[inverse]
    return mask
