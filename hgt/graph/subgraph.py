"""A connected sample of a graph's nodes with balanced types, for `limit_nodes`.

In: edges and node types. Out: a mask over the nodes. The first n rows of PrimeKG connect genes
alone. So the sample grows as one connected set instead, and its next node always comes from the
type that is furthest below its share.
"""

from __future__ import annotations

import heapq

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph


def connected_sample(
    head: np.ndarray, tail: np.ndarray, node_type: np.ndarray, limit: int
) -> np.ndarray:
    """[num_nodes] mask of at most `limit` connected nodes, as balanced over the types as the edges
    allow.

    head, tail: [num_rows] node numbers.
    node_type: [num_nodes] type codes.
    limit: number of nodes.

    Deterministic. Every type gets an equal share. The types share what a small type cannot use. The
    sample comes from the largest component with more than one type, and then it never has nodes of
    one type only.
    """
    num_nodes = len(node_type)
    ones = np.ones(2 * len(head), dtype=np.int8)
    ends = np.concatenate([head, tail]), np.concatenate([tail, head])
    adjacency = scipy.sparse.coo_array((ones, ends), shape=(num_nodes, num_nodes)).tocsr()
    _, component = scipy.sparse.csgraph.connected_components(adjacency, directed=False)
    reachable = component == _largest_mixed_component(component, node_type)
    if reachable.sum() <= limit:
        return np.asarray(reachable)

    degree = np.diff(adjacency.indptr)
    share = _shares(np.bincount(node_type[reachable], minlength=node_type.max() + 1), limit)
    chosen = np.zeros(num_nodes, dtype=bool)
    seen = np.zeros(num_nodes, dtype=bool)
    # per type a heap of (-degree, node)
    frontier: list[list[tuple[int, int]]] = [[] for _ in share]
    taken = np.zeros(len(share), dtype=np.int64)

    def see(nodes: np.ndarray) -> None:
        for node in nodes[~seen[nodes]].tolist():
            heapq.heappush(frontier[node_type[node]], (-int(degree[node]), node))
        seen[nodes] = True

    see(
        np.array(
            [np.where(_beside_another_type(head, tail, node_type, reachable), degree, -1).argmax()]
        )
    )
    for _ in range(limit):
        waiting = [t for t in range(len(share)) if frontier[t]]
        best = min(waiting, key=lambda t: int(taken[t]) / max(float(share[t]), 1e-9))
        _, node = heapq.heappop(frontier[best])
        chosen[node] = True
        taken[best] += 1
        see(np.unique(adjacency.indices[adjacency.indptr[node] : adjacency.indptr[node + 1]]))
    return chosen


def _beside_another_type(
    head: np.ndarray, tail: np.ndarray, node_type: np.ndarray, reachable: np.ndarray
) -> np.ndarray:
    """Mask of the reachable nodes with a neighbour of another type. Where there is none: all
    reachable nodes.
    """
    across = np.zeros(len(node_type), dtype=bool)
    mixed = reachable[head] & (node_type[head] != node_type[tail])
    across[head[mixed]] = across[tail[mixed]] = True
    return across if across.any() else reachable


def _largest_mixed_component(component: np.ndarray, node_type: np.ndarray) -> int:
    """The largest component with several types. Where every component has one type: the largest of
    all.
    """
    size = np.bincount(component)
    pairs = np.unique(component.astype(np.int64) * (int(node_type.max()) + 1) + node_type)
    num_types = np.bincount(pairs // (int(node_type.max()) + 1), minlength=len(size))
    return int(np.argmax(np.where(num_types > 1, size + size.max(), size)))


def _shares(sizes: np.ndarray, limit: int) -> np.ndarray:
    """Equal parts of `limit`, none above its type's size (water-filling)."""
    share = np.zeros(len(sizes))
    left, open_types = float(limit), sizes > 0
    while left > 1e-6 and open_types.any():
        part = left / open_types.sum()
        grow = np.where(open_types, np.minimum(sizes - share, part), 0.0)
        share += grow
        left -= grow.sum()
        open_types = open_types & (sizes - share > 1e-6)
    return share
