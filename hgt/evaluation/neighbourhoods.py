"""Agreement of the embeddings with the graph: do nodes with the same neighbours have similar
vectors?

In: vectors, graph, split. Out: `Neighbourhoods`. Neighbours come from training facts alone. Runs on
the CPU. The sample of pairs bounds the memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float
from torch import Tensor

from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.similarity import neighbour_sets
from hgt.graph.split import TRAIN, EdgeSplit
from hgt.seeds import Stream, generator

_ANCHORS = 256
_PAIRS = 2_000  # of each kind: pairs that share a neighbour, and any pairs
_MIN_PAIRS = 20


@dataclass(frozen=True)
class Neighbourhoods:
    """Neighbours and vectors of the nodes, compared.

    num_untrained: number of nodes without a training fact.
    num_nodes: number of all nodes.
    node_type: the type whose nodes are compared.
    correlation: Spearman correlation between the Jaccard similarity of two nodes' neighbour sets
        and the cosine of their vectors. None where the graph lacks the type, or where too few of
        its pairs differ.
    """

    num_untrained: int
    num_nodes: int
    node_type: str
    correlation: float | None


def measure_neighbourhoods(
    vectors: Float[Tensor, "num_nodes dim"],
    graph: KnowledgeGraph,
    split: EdgeSplit,
    node_type: str,
    seed: int,
) -> Neighbourhoods:
    """Compare neighbour sets and vectors on a seeded sample of pairs.

    The sample has up to 2,000 pairs that share a neighbour with one of 256 nodes, and up to 2,000
    random pairs.
    """
    trained = np.zeros(graph.total_nodes, dtype=bool)
    trained[split.of(TRAIN)[[0, 2]].numpy()] = True
    correlation = None
    if node_type in graph.num_nodes:
        sets = neighbour_sets(graph, split, node_type)
        pairs = sample_pairs(sets, generator(seed, Stream.SIMILAR_PAIRS))
        correlation = _correlation(vectors[graph.type_range(node_type)], sets, pairs)
    return Neighbourhoods(int((~trained).sum()), graph.total_nodes, node_type, correlation)


def sample_pairs(sets: scipy.sparse.csr_array, rng: np.random.Generator) -> np.ndarray:
    """[2, num_pairs] pairs of different nodes.

    Some share a neighbour, the others are random. The first kind alone has no dissimilar pairs, the
    second kind alone has few similar ones.
    """
    num_nodes = sets.shape[0]
    anchors = np.sort(rng.choice(num_nodes, min(_ANCHORS, num_nodes), replace=False))
    shared = (sets[anchors] @ sets.T.tocsr()).tocoo()
    alike = np.stack([anchors[shared.row], shared.col])
    alike = alike[:, alike[0] != alike[1]]
    alike = alike[:, rng.choice(alike.shape[1], min(_PAIRS, alike.shape[1]), replace=False)]
    any_two = rng.integers(num_nodes, size=(2, _PAIRS))
    return np.concatenate([alike, any_two[:, any_two[0] != any_two[1]]], axis=1)


def _correlation(vectors: Tensor, sets: scipy.sparse.csr_array, pairs: np.ndarray) -> float | None:
    one, other = (vectors[torch.from_numpy(side)].double() for side in pairs)
    cosine = torch.nn.functional.cosine_similarity(one, other, dim=1).numpy()
    sizes = np.diff(sets.indptr)
    shared = sets[pairs[0]].multiply(sets[pairs[1]]).sum(axis=1)
    similarity = shared / np.maximum(sizes[pairs[0]] + sizes[pairs[1]] - shared, 1)
    finite = np.isfinite(cosine)
    cosine, similarity = cosine[finite], similarity[finite]
    if len(cosine) < _MIN_PAIRS or np.ptp(cosine) < 1e-9 or not np.ptp(similarity):
        return None
    import scipy.stats  # takes 0.5 s, and most callers only read the figures

    return float(scipy.stats.spearmanr(similarity, cosine).statistic)
