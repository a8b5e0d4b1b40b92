"""Filtered ranking of held-out facts: which place does the true tail (and head) take among all others?

In: embeddings, decoder, facts. Out: `RankingMetrics`. Candidates that make another known fact are left out ("filtered",
Bordes et al. 2013). Ties count half ("realistic": the mean of the optimistic and the pessimistic rank, as in PyKEEN).
Works in chunks of queries; holds at most [chunk x num_nodes] scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hgt.batches import known_matrix
from hgt.facts import EdgeType
from hgt.graph import KnowledgeGraph
from hgt.model import Decoder

SCORES_PER_CHUNK = 16_000_000  # 64 MB of float32


@dataclass(frozen=True)
class RankingMetrics:
    """Means over both sides of a set of facts.

    mrr: mean of 1 / rank, in (0, 1]; hits: {k: share of ranks <= k}; chance_mrr: the MRR expected of random ranks
    num_ranks: two per fact
    """

    mrr: float
    hits: dict[int, float]
    chance_mrr: float
    num_ranks: int


@dataclass(frozen=True)
class RankingReport:
    """`all_nodes`: ranked among every node; `typed`: among the nodes of the right type; `by_edge_type`: typed, each alone."""

    all_nodes: RankingMetrics
    typed: RankingMetrics
    by_edge_type: dict[EdgeType, RankingMetrics]


@dataclass(frozen=True)
class _Ranks:
    """For both sides of one edge type's facts: ranks and numbers of candidates, among all nodes and within the type."""

    all_ranks: np.ndarray
    all_candidates: np.ndarray
    typed_ranks: np.ndarray
    typed_candidates: np.ndarray


class FactIndex:
    """Which facts are known, to leave them out of the candidates. Built once for a graph."""

    def __init__(self, graph: KnowledgeGraph):
        self.graph = graph
        self.known = {}
        for number, index in enumerate(graph.edge_index.values()):
            by_head = known_matrix(index[0].numpy(), index[1].numpy(), graph, number)
            self.known[number] = (by_head, by_head.T.tocsr())


@torch.no_grad()
def rank_facts(
    embeddings: Float[Tensor, "num_nodes dim"], decoder: Decoder, facts: Int[Tensor, "3 num_facts"], index: FactIndex
) -> RankingReport:
    """Rank both ends of each fact (head, relation, tail; global numbers). A true end whose score is not finite ranks last,
    and other nodes whose score is not a number count as better ones: what is not finite never helps.

    Raises ValueError when there are no facts.
    """
    if not facts.shape[1]:
        raise ValueError("there are no facts to rank")
    ranks = {}
    for relation in torch.unique(facts[1]).tolist():
        edge_type = index.graph.edge_types[relation]
        ranks[edge_type] = _rank_relation(embeddings, decoder, facts[:, facts[1] == relation], relation, index)
    every = list(ranks.values())
    return RankingReport(
        all_nodes=_metrics(np.concatenate([r.all_ranks for r in every]), np.concatenate([r.all_candidates for r in every])),
        typed=_metrics(np.concatenate([r.typed_ranks for r in every]), np.concatenate([r.typed_candidates for r in every])),
        by_edge_type={e: _metrics(r.typed_ranks, r.typed_candidates) for e, r in ranks.items()},
    )


def sample_facts(facts: Int[Tensor, "3 num_facts"], limit: int, seed: int) -> Int[Tensor, "3 _"]:
    """At most `limit` facts, a seeded sample in which every edge type keeps its share and at least one.

    Only where `limit` is below the number of edge types are there more: one of each.
    """
    if facts.shape[1] <= limit:
        return facts
    rng = np.random.default_rng([seed, 3])
    relations, counts = torch.unique(facts[1], return_counts=True)
    sizes = np.maximum(limit * counts.numpy() // facts.shape[1], 1)
    while sizes.sum() > limit and sizes.max() > 1:  # the ones for the smallest come from the largest
        sizes[sizes.argmax()] -= 1
    chosen = []
    for relation, n in zip(relations.tolist(), sizes.tolist(), strict=True):
        places = torch.nonzero(facts[1] == relation).squeeze(1).numpy()
        chosen.append(np.sort(rng.choice(places, n, replace=False)))
    return facts[:, torch.from_numpy(np.concatenate(chosen))]


def _rank_relation(embeddings: Tensor, decoder: Decoder, facts: Tensor, relation: int, index: FactIndex) -> _Ranks:
    edge_type = index.graph.edge_types[relation]
    by_head, by_tail = index.known[relation]
    parts = []
    for own, wanted, types, known, query in (
        (facts[0], facts[2], (edge_type[0], edge_type[2]), by_head, decoder.tail_query),
        (facts[2], facts[0], (edge_type[2], edge_type[0]), by_tail, decoder.head_query),
    ):
        own_start, span = index.graph.offsets[types[0]], index.graph.type_range(types[1])
        for part in _chunks(len(own), len(embeddings)):
            nodes = own[part]
            scores = query(embeddings[nodes.to(embeddings.device)], relation) @ embeddings.T
            row, column = _known_columns(known, nodes.numpy() - own_start)
            parts.append(_ranks(scores, wanted[part], torch.from_numpy(row), torch.from_numpy(column + span.start), span))
    return _Ranks(*(np.concatenate([p[i] for p in parts]) for i in range(4)))


def _chunks(num_queries: int, num_nodes: int) -> Iterator[slice]:
    size = max(1, SCORES_PER_CHUNK // num_nodes)
    for start in range(0, num_queries, size):
        yield slice(start, start + size)


def _known_columns(known, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]  # noqa: ANN001
    found = known[rows].tocoo()
    return found.row.astype(np.int64), found.col.astype(np.int64)


def _ranks(scores: Tensor, wanted: Tensor, row: Tensor, column: Tensor, span: slice) -> tuple[np.ndarray, ...]:
    """Ranks of the wanted nodes; `row`, `column` are the known facts to leave out (the wanted ones among them)."""
    device = scores.device
    wanted, row, column = (t.to(device).unsqueeze(-1) if t is wanted else t.to(device) for t in (wanted, row, column))
    true = scores.gather(1, wanted)
    true = torch.where(torch.isfinite(true), true, -torch.inf)  # worst place for what is not a number ...
    scores = torch.where(torch.isnan(scores), torch.inf, scores)
    scores[row, column] = -torch.inf
    candidates = torch.ones_like(scores, dtype=torch.bool)
    candidates[row, column] = False
    out = []
    for s, c in ((scores, candidates), (scores[:, span], candidates[:, span])):
        higher = ((s > true) & c).sum(1)
        equal = ((s == true) & c).sum(1)  # without the wanted one itself, which stands among the known
        out += [(1 + higher + equal / 2).cpu().numpy().astype(np.float64), (1 + c.sum(1)).cpu().numpy()]
    return tuple(out)


def _metrics(ranks: np.ndarray, candidates: np.ndarray) -> RankingMetrics:
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, candidates.max() + 1))])
    return RankingMetrics(
        mrr=float((1 / ranks).mean()),
        hits={k: float((ranks <= k).mean()) for k in (1, 3, 10)},
        chance_mrr=float((harmonic[candidates] / candidates).mean()),
        num_ranks=len(ranks),
    )
