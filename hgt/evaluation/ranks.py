"""Ranks of the true tails and heads of one relation's facts.

In: embeddings, decoder, facts. Out: `Ranks`. Ties count half ("realistic": the mean of the
optimistic and the pessimistic rank, as in PyKEEN). Runs on the device of the embeddings, in chunks
of queries. Facts with the same query (head and relation, or tail and relation) share its scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from hgt.evaluation.fact_index import FactIndex
from hgt.model.decoders import Decoder

SCORES_PER_CHUNK = 16_000_000  # 64 MB of float32; fewer make the matrix product slower
# as large as the queries, while they are made: against few candidates they, not the scores, take
# the memory
_QUERY_TENSORS = 4
COMPARED_PER_CHUNK = 4_000_000  # 16 MB: compared with true scores while they are in a cache


@dataclass(frozen=True)
class Ranks:
    """Ranks of one relation's facts, and their numbers of candidates. Each array is [2 num_facts]:
    first the ranks of the tails, then those of the heads.

    all_ranks, all_candidates: among all nodes.
    typed_ranks, typed_candidates: among the nodes of the right type.
    """

    all_ranks: np.ndarray
    all_candidates: np.ndarray
    typed_ranks: np.ndarray
    typed_candidates: np.ndarray


@dataclass(frozen=True)
class _Side:
    """One relation's facts, ranked at one of their ends.

    given: [num_facts] global numbers of the known ends.
    wanted: [num_facts] global numbers of the ends to rank.
    given_start: global number of the first node of the given type.
    span: nodes of the wanted type.
    candidates: nodes to score. They include the span.
    known: [given type, wanted type] known facts.
    query: queries [n, dim] of given embeddings [n, dim].
    """

    given: np.ndarray
    wanted: np.ndarray
    given_start: int
    span: slice
    candidates: slice
    known: scipy.sparse.csr_array
    query: Callable[[Tensor], Tensor]


def rank_relation(
    embeddings: Tensor,
    decoder: Decoder,
    facts: Tensor,
    relation: int,
    index: FactIndex,
    typed_only: bool,
) -> Ranks:
    """Ranks of all facts of one relation.

    typed_only: score only nodes of the right type. Then the figures for all nodes are those of the
        type.
    """
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
    return Ranks(
        *(
            np.concatenate(both)
            for both in zip(*(_rank_side(embeddings, side) for side in sides), strict=True)
        )
    )


def _rank_side(embeddings: Tensor, side: _Side) -> tuple[np.ndarray, ...]:
    """The four arrays of `Ranks`, [num_facts] each.

    Each candidate adds the sign of its score minus the true score. A known fact adds -1, as if it
    had the lowest score. Over n nodes the signs add up to 2 (rank - 1) - n. A tie adds half a place
    to the rank.
    """
    device, candidates = embeddings.device, embeddings[side.candidates]
    num_candidates, first = len(candidates), side.candidates.start
    span = slice(side.span.start - first, side.span.stop - first)
    nodes, query = np.unique(side.given, return_inverse=True)
    order = np.argsort(query, kind="stable")  # facts with the same query are adjacent
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
    # Copied before the first product: a later copy would wait for the device to finish its work.
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
    """[2, num_facts] sums of signs, over all candidates and over those of the span. They are whole
    numbers, exact in float32 up to 16 million nodes.

    scores: [num_queries, num_candidates]; this function overwrites them.
    row: row of each fact in the scores.
    true_place, known_place: places in the flattened scores.
    """
    flat, largest = scores.view(-1), torch.finfo(scores.dtype).max
    true = flat.index_select(0, true_place).unsqueeze(1)
    # a true score that is not finite ranks last ...
    true = torch.where(torch.isfinite(true), true, -largest)
    # ... and other such scores do not help it
    scores.nan_to_num_(nan=largest, posinf=largest, neginf=-largest)
    flat.index_fill_(0, known_place, -torch.inf)  # below every true score
    sums = []
    for rows, wanted in zip(
        *(t.split(max(1, COMPARED_PER_CHUNK // scores.shape[1])) for t in (row, true)), strict=True
    ):
        signs = scores.index_select(0, rows).sub_(wanted).sign_()
        sums.append(torch.stack([signs.sum(1), signs[:, span].sum(1)]))
    return torch.cat(sums, dim=1)
