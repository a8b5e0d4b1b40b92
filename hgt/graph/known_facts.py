"""The facts of one relation as a matrix that says whether two nodes form a known fact.

In: heads and tails of a relation. Out: a sparse matrix. Training filters its negatives with it,
evaluation its candidates.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse

from hgt.graph.knowledge_graph import KnowledgeGraph


def known_matrix(
    head: np.ndarray, tail: np.ndarray, graph: KnowledgeGraph, relation: int
) -> scipy.sparse.csr_array:
    """[heads, tails] True where the fact is known. A symmetric relation has both directions.

    head, tail: [num_facts] the facts' ends, numbered within their types.
    relation: number of the relation.
    """
    edge_type = graph.edge_types[relation]
    if edge_type in graph.symmetric:
        head, tail = np.concatenate([head, tail]), np.concatenate([tail, head])
    shape = (graph.num_nodes[edge_type[0]], graph.num_nodes[edge_type[2]])
    return scipy.sparse.csr_array((np.ones(len(head), dtype=bool), (head, tail)), shape=shape)
