"""Which nodes the contrastive loss attracts and which it repels, batch by batch.

In: one node type's training neighbours, compared by Jaccard similarity. Out: for each batch
anchors, a similar node for each, and a pool of others, drawn on the CPU. It knows no embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from hgt.config import RunConfig
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.similarity import jaccard, neighbour_sets, similar_pairs
from hgt.graph.split import EdgeSplit

MAX_ANCHORS = 256  # per batch
MAX_POOL = 512  # nodes that a positive competes with


@dataclass(frozen=True)
class ContrastDraw:
    """The contrastive rows of one batch. Nodes have global numbers.

    anchor, positive: [n] n is padded to a multiple of the number of micro-batches.
    pool: [k] nodes that every anchor is compared with.
    weight: [n] 1 / (anchors of the batch); 0 for padding.
    known: [n, k] True where the pool's node is the anchor or alike to it.
    """

    anchor: np.ndarray
    positive: np.ndarray
    pool: np.ndarray
    weight: np.ndarray
    known: np.ndarray


class ContrastSource:
    """Draws anchors, a positive for each, and a pool from one node type."""

    def __init__(
        self,
        sets: scipy.sparse.csr_array,
        similar: scipy.sparse.csr_array,
        threshold: float,
        start: int,
    ):
        """Numbers are within the type.

        sets: [nodes, all nodes] the nodes' neighbours.
        similar: [nodes, nodes] the pairs that may attract.
        threshold: similarity from which two nodes do not repel.
        start: global number of the type's node 0.
        """
        self.sets = sets
        self.similar = similar
        self.threshold = threshold
        self.start = start
        self.candidates = np.flatnonzero(np.diff(similar.indptr))
        self.num_anchors = min(MAX_ANCHORS, len(self.candidates))
        self.pool_size = min(MAX_POOL, similar.shape[0])

    def draw(self, rng: np.random.Generator, num_parts: int) -> ContrastDraw:
        anchor = rng.choice(self.candidates, self.num_anchors, replace=False)
        first, end = (self.similar.indptr[anchor + i] for i in (0, 1))
        chosen = first + (rng.random(len(anchor)) * (end - first)).astype(np.int64)
        positive = self.similar.indices[chosen]
        pool = np.sort(rng.choice(self.similar.shape[0], self.pool_size, replace=False))
        # not `similar`, which leaves out a hub's less similar ones
        alike = jaccard(self.sets, anchor, pool)
        known = (alike >= self.threshold) & (alike > 0)  # the anchor itself among them
        missing = -len(anchor) % num_parts
        weight = np.pad(np.full(len(anchor), 1 / len(anchor)), (0, missing))
        anchor, positive = np.pad(anchor, (0, missing)), np.pad(positive, (0, missing))
        known = np.pad(known, ((0, missing), (0, 0)))
        start = self.start
        return ContrastDraw(anchor + start, positive + start, pool + start, weight, known)


def contrast_source(
    graph: KnowledgeGraph, split: EdgeSplit, config: RunConfig
) -> ContrastSource | None:
    """The source for the configured node type.

    None where the loss has no weight, the graph lacks the type, or no two of its nodes are alike.
    """
    node_type = config.losses.contrastive_node_type
    if config.losses.contrastive_weight == 0 or node_type not in graph.num_nodes:
        return None
    threshold = config.losses.similarity_threshold
    sets = neighbour_sets(graph, split, node_type)
    similar = similar_pairs(sets, threshold)
    return (
        ContrastSource(sets, similar, threshold, graph.offsets[node_type]) if similar.nnz else None
    )
