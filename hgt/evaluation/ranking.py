"""Filtered ranking of held-out facts: which place does the true tail (and head) take among all
others?

In: embeddings, decoder, facts. Out: `RankingMetrics`. Candidates that make another known fact are
left out ("filtered", Bordes et al. 2013). Ties count half ("realistic": the mean of the optimistic
and the pessimistic rank, as in PyKEEN). Runs on the embeddings' device, in chunks of queries; facts
with the same query (head and relation, or tail and relation) share its scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hgt.graph.facts import EdgeType
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.known_facts import known_matrix
from hgt.model.decoders import Decoder
from hgt.seeds import Stream, generator

SCORES_PER_CHUNK = 16_000_000  # 64 MB of float32; fewer make the matrix product slower
# as large as the queries, while they are made: against few candidates they, not the scores, take
# the memory
_QUERY_TENSORS = 4
COMPARED_PER_CHUNK = 4_000_000  # 16 MB: compared with true scores while they are in a cache


@dataclass(frozen=True)
class RankingMetrics:
    """Means over both sides of a set of facts.

    mrr: mean of 1 / rank, in (0, 1]; hits: {k: share of ranks <= k}; chance_mrr: the MRR expected
        of random ranks
    num_ranks: two per fact
    """

    mrr: float
    hits: dict[int, float]
    chance_mrr: float
    num_ranks: int


@dataclass(frozen=True)
class RankingReport:
    """`all_nodes`: ranked among every node; `typed`: among the nodes of the right type. Both over
    all ranks (micro). by_edge_type, by_edge_type_all_nodes: each edge type alone, typed and among
    every node
    """

    all_nodes: RankingMetrics
    typed: RankingMetrics
    by_edge_type: dict[EdgeType, RankingMetrics]
    by_edge_type_all_nodes: dict[EdgeType, RankingMetrics]

    @property
    def typed_macro(self) -> RankingMetrics:
        """Mean over edge types, each counting as much as any other."""
        return _macro(list(self.by_edge_type.values()))

    @property
    def all_nodes_macro(self) -> RankingMetrics:
        """Mean over edge types, each counting as much as any other."""
        return _macro(list(self.by_edge_type_all_nodes.values()))


@dataclass(frozen=True)
class _Ranks:
    """[2 num_facts] each, tails' and then heads': ranks and numbers of candidates, among all nodes
    and within the type.
    """

    all_ranks: np.ndarray
    all_candidates: np.ndarray
    typed_ranks: np.ndarray
    typed_candidates: np.ndarray


@dataclass(frozen=True)
class _Side:
    """One relation's facts, asked for one of their ends.

    given, wanted: [num_facts] global numbers of the two ends; given_start: global number of the
        given type's node 0
    span: the nodes of the wanted type; candidates: those that are scored, the span at least
    known: [given type, wanted type], known facts; query: of given embeddings [n, dim]
    """

    given: np.ndarray
    wanted: np.ndarray
    given_start: int
    span: slice
    candidates: slice
    known: scipy.sparse.csr_array
    query: Callable[[Tensor], Tensor]


class FactIndex:
    """Which facts are known, to leave them out of the candidates. Built once for a graph."""

    def __init__(self, graph: KnowledgeGraph):
        self.graph = graph
        self.known = {}
        for number, index in enumerate(graph.edge_index.values()):
            by_head = known_matrix(index[0].numpy(), index[1].numpy(), graph, number)
            symmetric = graph.edge_types[number] in graph.symmetric
            self.known[number] = (by_head, by_head if symmetric else by_head.T.tocsr())


@torch.no_grad()
def rank_facts(
    embeddings: Float[Tensor, "num_nodes dim"],
    decoder: Decoder,
    facts: Int[Tensor, "3 num_facts"],
    index: FactIndex,
) -> RankingReport:
    """Rank both ends of each fact (head, relation, tail; global numbers). A true end whose score is
    not finite ranks last, and other nodes whose score is not a number count as better ones: what is
    not finite never helps.

    Raises ValueError when there are no facts.
    """
    ranks = _rank_by_edge_type(embeddings, decoder, facts, index)
    every = list(ranks.values())
    return RankingReport(
        all_nodes=_metrics(
            np.concatenate([r.all_ranks for r in every]),
            np.concatenate([r.all_candidates for r in every]),
        ),
        typed=_typed(every),
        by_edge_type={e: _metrics(r.typed_ranks, r.typed_candidates) for e, r in ranks.items()},
        by_edge_type_all_nodes={
            e: _metrics(r.all_ranks, r.all_candidates) for e, r in ranks.items()
        },
    )


@torch.no_grad()
def rank_typed(
    embeddings: Float[Tensor, "num_nodes dim"],
    decoder: Decoder,
    facts: Int[Tensor, "3 num_facts"],
    index: FactIndex,
) -> RankingMetrics:
    """`rank_facts(...).typed`, without the scores of nodes of other types, which are most of the
    work (Hetionet: 71 %).

    Raises ValueError when there are no facts.
    """
    return _typed(
        list(_rank_by_edge_type(embeddings, decoder, facts, index, typed_only=True).values())
    )


def sample_facts(facts: Int[Tensor, "3 num_facts"], limit: int, seed: int) -> Int[Tensor, "3 _"]:
    """At most `limit` facts, a seeded sample in which every edge type keeps its share and at least
    one.

    Only where `limit` is below the number of edge types are there more: one of each.
    """
    if facts.shape[1] <= limit:
        return facts
    rng = generator(seed, Stream.RANKED_FACTS)
    relations, counts = torch.unique(facts[1], return_counts=True)
    sizes = np.maximum(limit * counts.numpy() // facts.shape[1], 1)
    # the ones for the smallest come from the largest
    while sizes.sum() > limit and sizes.max() > 1:
        sizes[sizes.argmax()] -= 1
    chosen = []
    for relation, n in zip(relations.tolist(), sizes.tolist(), strict=True):
        places = torch.nonzero(facts[1] == relation).squeeze(1).numpy()
        chosen.append(np.sort(rng.choice(places, n, replace=False)))
    return facts[:, torch.from_numpy(np.concatenate(chosen))]


def _rank_by_edge_type(
    embeddings: Tensor, decoder: Decoder, facts: Tensor, index: FactIndex, typed_only: bool = False
) -> dict[EdgeType, _Ranks]:
    if not facts.shape[1]:
        raise ValueError("there are no facts to rank")
    return {
        index.graph.edge_types[relation]: _rank_relation(
            embeddings, decoder, facts[:, facts[1] == relation], relation, index, typed_only
        )
        for relation in torch.unique(facts[1]).tolist()
    }


def _rank_relation(
    embeddings: Tensor,
    decoder: Decoder,
    facts: Tensor,
    relation: int,
    index: FactIndex,
    typed_only: bool,
) -> _Ranks:
    """typed_only: what is told of all nodes is of the type's"""
    head_type, _, tail_type = index.graph.edge_types[relation]
    (head_start, heads), (tail_start, tails) = (
        (index.graph.offsets[t], index.graph.type_range(t)) for t in (head_type, tail_type)
    )
    head, _, tail = facts.cpu().numpy()
    by_head, by_tail = index.known[relation]
    every = slice(0, len(embeddings))
    sides = (
        _Side(
            head,
            tail,
            head_start,
            tails,
            tails if typed_only else every,
            by_head,
            lambda x: decoder.tail_query(x, relation),
        ),
        _Side(
            tail,
            head,
            tail_start,
            heads,
            heads if typed_only else every,
            by_tail,
            lambda x: decoder.head_query(x, relation),
        ),
    )
    return _Ranks(
        *(
            np.concatenate(both)
            for both in zip(*(_rank_side(embeddings, side) for side in sides), strict=True)
        )
    )


def _rank_side(embeddings: Tensor, side: _Side) -> tuple[np.ndarray, ...]:
    """The four arrays of `_Ranks`, [num_facts] each.

    Every other node adds the sign of its score minus the true one, a known one -1, as if it scored
    lowest: over n nodes the signs add up to 2 (rank - 1) - n, where a tie adds half a place to the
    rank.
    """
    device, candidates = embeddings.device, embeddings[side.candidates]
    num_candidates, first = len(candidates), side.candidates.start
    span = slice(side.span.start - first, side.span.stop - first)
    nodes, query = np.unique(side.given, return_inverse=True)
    order = np.argsort(query, kind="stable")  # facts that ask the same stand together
    known = side.known[nodes - side.given_start]
    num_known = np.diff(known.indptr)
    chunk = max(1, SCORES_PER_CHUNK // max(num_candidates, _QUERY_TENSORS * embeddings.shape[1]))
    row = query[order] % chunk  # within its chunk's scores
    known_place = (
        np.repeat(np.arange(len(nodes)) % chunk, num_known) * num_candidates
        + known.indices
        + span.start
    )
    arrays = (nodes, row, row * num_candidates + side.wanted[order] - first, known_place)
    # All of it before the first product: a copy amid the work would wait for what was asked of the
    # device before.
    nodes_there, row_there, true_place, known_there = (
        torch.from_numpy(a.astype(np.int64)).to(device) for a in arrays
    )
    edges = np.append(np.arange(0, len(nodes), chunk), len(nodes))
    first_fact, first_known = np.searchsorted(query[order], edges), known.indptr[edges]
    sums = [
        _sums_of_signs(
            side.query(embeddings.index_select(0, nodes_there[edges[i] : edges[i + 1]]))
            @ candidates.T,
            row_there[first_fact[i] : first_fact[i + 1]],
            true_place[first_fact[i] : first_fact[i + 1]],
            known_there[first_known[i] : first_known[i + 1]],
            span,
        )
        for i in range(len(edges) - 1)
    ]
    signs = np.empty((2, len(order)))
    signs[:, order] = torch.cat(sums, dim=1).cpu().numpy()
    num_typed = span.stop - span.start
    others = num_known[query].astype(np.int64) - 1  # known facts but the true one
    return (
        1 + (signs[0] + num_candidates) / 2,
        num_candidates - others,
        1 + (signs[1] + num_typed) / 2,
        num_typed - others,
    )


def _sums_of_signs(
    scores: Tensor, row: Tensor, true_place: Tensor, known_place: Tensor, span: slice
) -> Tensor:
    """[2, num_facts] sums over all candidates and over those of the span; whole numbers, exact in
    float32 up to 16 million nodes.

    scores: [num_queries, num_candidates], spent; row: of each fact; true_place, known_place: in the
        flattened scores
    """
    flat, largest = scores.view(-1), torch.finfo(scores.dtype).max
    true = flat.index_select(0, true_place).unsqueeze(1)
    # worst place for what is not a number ...
    true = torch.where(torch.isfinite(true), true, -largest)
    # ... and no gain from the others'
    scores.nan_to_num_(nan=largest, posinf=largest, neginf=-largest)
    flat.index_fill_(0, known_place, -torch.inf)  # below every true score
    sums = []
    for rows, wanted in zip(
        *(t.split(max(1, COMPARED_PER_CHUNK // scores.shape[1])) for t in (row, true)), strict=True
    ):
        signs = scores.index_select(0, rows).sub_(wanted).sign_()
        sums.append(torch.stack([signs.sum(1), signs[:, span].sum(1)]))
    return torch.cat(sums, dim=1)


def _typed(ranks: list[_Ranks]) -> RankingMetrics:
    return _metrics(
        np.concatenate([r.typed_ranks for r in ranks]),
        np.concatenate([r.typed_candidates for r in ranks]),
    )


def _metrics(ranks: np.ndarray, candidates: np.ndarray) -> RankingMetrics:
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, candidates.max() + 1))])
    return RankingMetrics(
        mrr=float((1 / ranks).mean()),
        hits={k: float((ranks <= k).mean()) for k in (1, 3, 10)},
        chance_mrr=float((harmonic[candidates] / candidates).mean()),
        num_ranks=len(ranks),
    )


def _macro(each: list[RankingMetrics]) -> RankingMetrics:
    return RankingMetrics(
        mrr=float(np.mean([m.mrr for m in each])),
        hits={k: float(np.mean([m.hits[k] for m in each])) for k in each[0].hits},
        chance_mrr=float(np.mean([m.chance_mrr for m in each])),
        num_ranks=sum(m.num_ranks for m in each),
    )
