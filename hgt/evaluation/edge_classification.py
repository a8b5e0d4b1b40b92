"""Held-out facts against as many false facts: AUROC and AUPRC, as papers on drug repurposing
report.

In: embeddings, decoder, facts. Out: `ClassificationReport`. Each fact gets two negatives. One
replaces its tail and one its head by a random node of the right type. The replacement makes no
known fact, so negatives are the candidates of the typed ranking.

TxGNN (Huang et al. 2024, `fix_dst` in its code) also draws one negative per held-out edge and
direction. Its `micro` covers the pairs of all edge types, and its `macro` is the mean over edge
types. But it draws among the nodes at the ends of the type's held-out edges, and it keeps known
facts among the negatives. So our figures are close to its protocol, but not the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hgt.evaluation.fact_index import FactIndex
from hgt.graph.facts import EdgeType
from hgt.model.decoders import Decoder
from hgt.seeds import Stream, generator

_VALUES_PER_CHUNK = 2_000_000  # embedding values of one end: 8 MB, four such at a time


@dataclass(frozen=True)
class ClassificationMetrics:
    """AUROC and AUPRC of a set of pairs.

    auroc: in [0, 1], 0.5 by chance.
    auprc: average precision in [0, 1], 0.5 by chance.
    num_pairs: number of positives. There are as many negatives.
    """

    auroc: float
    auprc: float
    num_pairs: int


@dataclass(frozen=True)
class ClassificationReport:
    """The metrics of all pairs and of each edge type.

    micro: over the pairs of all edge types.
    macro: mean over `by_edge_type`.
    num_without_negative: number of ends of facts without a negative. Every node of the type makes a
        known fact there, so they are left out.
    """

    micro: ClassificationMetrics
    macro: ClassificationMetrics
    by_edge_type: dict[EdgeType, ClassificationMetrics]
    num_without_negative: int


@torch.no_grad()
def classify_facts(
    embeddings: Float[Tensor, "num_nodes dim"],
    decoder: Decoder,
    facts: Int[Tensor, "3 num_facts"],
    index: FactIndex,
    seed: int,
) -> ClassificationReport | None:
    """Score the facts and their negatives. None where no fact has a negative.

    Negatives are drawn on the CPU. Scores are computed on the device of the embeddings. A score
    that is not finite never helps: a fact gets the lowest score, a negative the highest.
    """
    truth, false = draw_negatives(facts.cpu(), index, seed)
    if not truth.shape[1]:
        return None
    positive = np.nan_to_num(_scores(embeddings, decoder, truth), nan=-np.inf, posinf=-np.inf)
    negative = np.nan_to_num(_scores(embeddings, decoder, false), nan=np.inf, neginf=np.inf)
    by_edge_type = {}
    for relation in torch.unique(truth[1]).tolist():
        here = (truth[1] == relation).numpy()
        by_edge_type[index.graph.edge_types[relation]] = _metrics(positive[here], negative[here])
    every = list(by_edge_type.values())
    return ClassificationReport(
        micro=_metrics(positive, negative),
        macro=ClassificationMetrics(
            auroc=float(np.mean([m.auroc for m in every])),
            auprc=float(np.mean([m.auprc for m in every])),
            num_pairs=len(positive),
        ),
        by_edge_type=by_edge_type,
        num_without_negative=2 * facts.shape[1] - truth.shape[1],
    )


def draw_negatives(
    facts: Int[Tensor, "3 num_facts"], index: FactIndex, seed: int
) -> tuple[Int[Tensor, "3 num_pairs"], Int[Tensor, "3 num_pairs"]]:
    """Facts, and their negatives in the same places.

    Edge type by edge type: first with other tails, then with other heads.
    """
    truth, false = [facts[:, :0]], [facts[:, :0]]
    for relation in torch.unique(facts[1]).tolist():
        head_type, _, tail_type = index.graph.edge_types[relation]
        rng = generator(seed, Stream.CLASSIFIED_PAIRS, relation)
        own = facts[:, facts[1] == relation]
        for given, replaced, types, known in (
            (0, 2, (head_type, tail_type), 0),
            (2, 0, (tail_type, head_type), 1),
        ):
            given_start, start = (index.graph.offsets[t] for t in types)
            drawn = _unknown(index.known[relation][known], own[given].numpy() - given_start, rng)
            there = torch.from_numpy(drawn >= 0)
            other = own[:, there].clone()
            other[replaced] = torch.from_numpy(drawn[drawn >= 0] + start)
            truth.append(own[:, there])
            false.append(other)
    return torch.cat(truth, dim=1), torch.cat(false, dim=1)


def _unknown(
    known: scipy.sparse.csr_array, rows: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """[rows] for each row a random column that is not known for it; -1 where all columns are known.

    c are the sorted known columns of a row. Then the u-th unknown column is u + |{j: c_j - j <=
    u}|.
    """
    nodes, place = np.unique(rows, return_inverse=True)
    some = known[nodes].sorted_indices()
    num_known, width = np.diff(some.indptr), known.shape[1]
    missing_before = some.indices - (np.arange(some.nnz) - np.repeat(some.indptr[:-1], num_known))
    keys = np.repeat(np.arange(len(nodes)), num_known) * (width + 1) + missing_before  # rising
    u = (rng.random(len(rows)) * (width - num_known[place])).astype(np.int64)
    column = u + np.searchsorted(keys, place * (width + 1) + u, side="right") - some.indptr[place]
    return np.where(num_known[place] < width, column, -1)


def _scores(embeddings: Tensor, decoder: Decoder, facts: Tensor) -> np.ndarray:
    """[num_facts] float64."""
    chunk = max(1, _VALUES_PER_CHUNK // embeddings.shape[1])
    parts = [torch.zeros(0)]
    for head, relation, tail in (part.to(embeddings.device) for part in facts.split(chunk, dim=1)):
        query = decoder.tail_query(embeddings.index_select(0, head), relation)
        parts.append(query.mul_(embeddings.index_select(0, tail)).sum(1).cpu())
    return torch.cat(parts).double().numpy()


def _metrics(positive: np.ndarray, negative: np.ndarray) -> ClassificationMetrics:
    """AUROC and AUPRC. Ties count half in the AUROC. In the AUPRC, tied scores are one step."""
    import sklearn.metrics  # takes 1 s, and most callers only read the figures

    label = np.repeat([1, 0], [len(positive), len(negative)])
    # only the order matters, and scikit-learn refuses infinite scores
    _, score = np.unique(np.concatenate([positive, negative]), return_inverse=True)
    return ClassificationMetrics(
        auroc=float(sklearn.metrics.roc_auc_score(label, score)),
        auprc=float(sklearn.metrics.average_precision_score(label, score)),
        num_pairs=len(positive),
    )
