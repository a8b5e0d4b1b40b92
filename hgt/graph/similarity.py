"""Similar nodes of one type: Jaccard similarity of their sets of neighbours in the training facts.

In: graph and split. Out: sparse matrices. The CPU multiplies sparse blocks of rows instead of
looping over all pairs in Python.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse

from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import TRAIN, EdgeSplit

_ROWS = 1_024


def neighbour_sets(
    graph: KnowledgeGraph, split: EdgeSplit, node_type: str
) -> scipy.sparse.csr_array:
    """[nodes of the type, all nodes] 1 for every neighbour in the training facts, over all
    relations.
    """
    head, _, tail = split.of(TRAIN).numpy()
    mine = graph.type_range(node_type)
    rows, columns = [], []
    for own, other in ((head, tail), (tail, head)):
        inside = (own >= mine.start) & (own < mine.stop)
        rows.append(own[inside] - mine.start)
        columns.append(other[inside])
    row, column = np.concatenate(rows), np.concatenate(columns)
    shape = (graph.num_nodes[node_type], graph.total_nodes)
    sets = scipy.sparse.csr_array((np.ones(len(row), dtype=np.int32), (row, column)), shape=shape)
    sets.sum_duplicates()
    sets.data[:] = 1
    return sets


def jaccard(sets: scipy.sparse.csr_array, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[rows, others] the similarities of these nodes; 0 where both sets are empty."""
    sizes = np.diff(sets.indptr)
    shared = (sets[rows] @ sets[others].T).toarray()
    return shared / np.maximum(sizes[rows][:, None] + sizes[others] - shared, 1)


def similar_pairs(
    sets: scipy.sparse.csr_array, threshold: float, max_per_node: int = 64
) -> scipy.sparse.csr_array:
    """[n, n] Jaccard similarities >= threshold (and above 0) between different nodes.

    Each row keeps its `max_per_node` most similar ones, so that hubs do not make the result dense.
    """
    sizes = np.diff(sets.indptr)
    transposed = sets.T.tocsr()
    parts = []
    for start in range(0, sets.shape[0], _ROWS):
        shared = (sets[start : start + _ROWS] @ transposed).tocoo()
        row, column = shared.row + start, shared.col
        similarity = shared.data / (sizes[row] + sizes[column] - shared.data)
        good = (similarity >= threshold) & (row != column)
        row, column, similarity = row[good], column[good], similarity[good]
        order = np.lexsort((column, -similarity, row))
        row, column, similarity = row[order], column[order], similarity[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)  # 0 for the most similar of its row
        best = place < max_per_node
        parts.append((row[best], column[best], similarity[best]))
    row, column, similarity = (np.concatenate([p[i] for p in parts]) for i in range(3))
    return scipy.sparse.csr_array((similarity, (row, column)), shape=(sets.shape[0],) * 2)
