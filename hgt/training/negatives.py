"""Pools of sampled nodes that a fact's true end competes with, and which of them make a true fact.

In: a random generator and the known facts of a relation. Out: pools, and filters over them. It does
not know how facts are dealt out to batches.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse


class Pool:
    """Sampled nodes of one type, numbered within it.

    nodes: [size] in no order, so that the first of them are a sample too.
    place: [num_nodes] each node's place among them; -1 for none.
    """

    def __init__(self, rng: np.random.Generator, num_nodes: int, size: int):
        self.nodes = rng.choice(num_nodes, size, replace=False)
        self.place = np.full(num_nodes, -1, dtype=np.int32)
        self.place[self.nodes] = np.arange(size, dtype=np.int32)


def known_in_pool(
    known: scipy.sparse.csr_array, rows: np.ndarray, pool: Pool, size: int
) -> np.ndarray:
    """[size, pool] True where the pool's node is known to go with the row.

    known: [given type, pool's type] the relation's facts.
    rows: [n] given nodes, n at most `size`; the rows beyond are padding and False.
    """
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
