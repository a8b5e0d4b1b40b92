"""Filtered ranking of held-out facts: MRR and Hits@k.

In: embeddings, decoder, facts. Out: a `RankingReport`. A candidate that makes another known fact is
left out ("filtered", Bordes et al. 2013).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hgt.evaluation.fact_index import FactIndex
from hgt.evaluation.ranks import Ranks, rank_relation
from hgt.graph.facts import EdgeType
from hgt.model.decoders import Decoder
from hgt.seeds import Stream, generator


@dataclass(frozen=True)
class RankingMetrics:
    """Means over the ranks of both ends of a set of facts.

    mrr: mean of 1 / rank, in (0, 1].
    hits: {k: share of ranks <= k}.
    chance_mrr: expected MRR of random ranks.
    num_ranks: number of ranks, two per fact.
    """

    mrr: float
    hits: dict[int, float]
    chance_mrr: float
    num_ranks: int


@dataclass(frozen=True)
class RankingReport:
    """Metrics of all facts and of each edge type.

    all_nodes: candidates are all nodes; over all ranks (micro).
    typed: candidates are the nodes of the right type; over all ranks (micro).
    by_edge_type: `typed` of each edge type.
    by_edge_type_all_nodes: `all_nodes` of each edge type.
    """

    all_nodes: RankingMetrics
    typed: RankingMetrics
    by_edge_type: dict[EdgeType, RankingMetrics]
    by_edge_type_all_nodes: dict[EdgeType, RankingMetrics]

    @property
    def typed_macro(self) -> RankingMetrics:
        """Mean over edge types. All have the same weight."""
        return _macro(list(self.by_edge_type.values()))

    @property
    def all_nodes_macro(self) -> RankingMetrics:
        """Mean over edge types. All have the same weight."""
        return _macro(list(self.by_edge_type_all_nodes.values()))


@torch.no_grad()
def rank_facts(
    embeddings: Float[Tensor, "num_nodes dim"],
    decoder: Decoder,
    facts: Int[Tensor, "3 num_facts"],
    index: FactIndex,
) -> RankingReport:
    """Rank both ends of each fact.

    facts: [3, num_facts] head, relation and tail, with global node numbers.

    A score that is not finite never helps. A true end with such a score ranks last. Another node
    whose score is NaN counts as better than the true end. Raises ValueError when there are no
    facts.
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
    """`rank_facts(...).typed` in less time: it scores no nodes of other types, which are most of
    the work (Hetionet: 71 %).

    Raises ValueError when there are no facts.
    """
    return _typed(
        list(_rank_by_edge_type(embeddings, decoder, facts, index, typed_only=True).values())
    )


def sample_facts(facts: Int[Tensor, "3 num_facts"], limit: int, seed: int) -> Int[Tensor, "3 _"]:
    """A seeded sample of at most `limit` facts. Each edge type keeps its share, and at least one
    fact.

    Where `limit` is below the number of edge types, the sample has one fact of each.
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
) -> dict[EdgeType, Ranks]:
    if not facts.shape[1]:
        raise ValueError("there are no facts to rank")
    return {
        index.graph.edge_types[relation]: rank_relation(
            embeddings, decoder, facts[:, facts[1] == relation], relation, index, typed_only
        )
        for relation in torch.unique(facts[1]).tolist()
    }


def _typed(ranks: list[Ranks]) -> RankingMetrics:
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
