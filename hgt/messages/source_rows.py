"""The source side of drawn edges: rows, and edges sorted by source.

In: groups and the edges of the whole graph. Out: `SourceRows` of each group. All arrays are on the
CPU. A edges in the graph, E edges in a draw.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from hgt.messages.grouping import EdgeList
from hgt.messages.message_graph import (
    MAX_SEGMENT_EDGES,
    EdgeGroup,
    SortedEdges,
)


@dataclass(frozen=True)
class SourceRows:
    """The rows on the source side of a group that can have edges.

    rows: [S] ascending.
    num_rows: number of all rows on that side.
    num_segments: number of segments, enough for every draw.
    """

    rows: np.ndarray
    num_rows: int
    num_segments: int

    def sort(self, source: np.ndarray, target: np.ndarray) -> SortedEdges:
        """Edges by source, in `num_segments` segments.

        Segments that a draw does not need are empty and spread evenly over the rows. If all of them
        were on one row, a GPU's additions to that row would wait for one another.
        """
        edges = scipy.sparse.csr_array(
            (np.arange(len(source), dtype=np.int32), source, [0, len(source)]),
            shape=(1, self.num_rows),
        )
        by_source = edges.tocsc()  # a counting sort: a tenth of argsort's time
        start, order = by_source.indptr[self.rows], by_source.data
        counts = by_source.indptr[self.rows + 1] - start
        segments = num_segments_of(counts)
        each, first = divmod(self.num_segments - int(segments.sum()), len(self.rows))
        segments += each + (np.arange(len(self.rows)) < first)
        ptr = np.repeat(start, segments) + np.minimum(
            within(segments) * MAX_SEGMENT_EDGES, np.repeat(counts, segments)
        )
        return SortedEdges(
            rows=torch.from_numpy(np.repeat(self.rows, segments)),
            ptr=torch.from_numpy(np.append(ptr, len(source)).astype(np.int32)),
            row=torch.from_numpy(source[order]),
            other=torch.from_numpy(target[order]),
            order=torch.from_numpy(order),
        )


def source_side(
    groups: tuple[EdgeGroup, ...],
    edges: EdgeList,
    degree: np.ndarray,
    row: np.ndarray,
    edge: np.ndarray,
) -> tuple[np.ndarray, list[SourceRows]]:
    """Places of the edges on the source side, and each group's rows on that side.

    The first is [A] int32: the value of `by_target.other` for each edge when it is drawn.

    row, edge: [E] of the draw that was laid out, in the groups' order.
    """
    group_of_row = np.zeros(len(degree), dtype=np.int64)
    for number, group in enumerate(groups):
        group_of_row[row[slice(*group.edges)]] = number
    row_of_edge = np.repeat(np.arange(len(degree)), degree)
    group_of_edge = group_of_row[row_of_edge]
    transforms_source = np.array([g.transforms_source for g in groups], dtype=bool)[group_of_edge]
    source = np.where(transforms_source, _place_among_sources(edges), edges.source.numpy())
    # of the row's relation and piece; 0 where sources are global numbers
    first_table_row = np.zeros(len(degree), dtype=np.int64)
    first_table_row[row] = (
        np.concatenate([array_of(g.by_target.other) for g in groups] or [row]) - source[edge]
    )
    other = (source + first_table_row[row_of_edge]).astype(np.int32)
    sides = []
    for number, group in enumerate(groups):
        # edges of each row on the source side, drawn or not
        most = np.bincount(other[group_of_edge == number])
        rows = np.flatnonzero(most)
        num_edges = group.edges[1] - group.edges[0]
        enough = min(
            int(num_segments_of(most).sum()),
            min(len(rows), num_edges) + num_edges // MAX_SEGMENT_EDGES,
        )
        sides.append(SourceRows(rows, len(most), enough))
    return other, sides


def _place_among_sources(edges: EdgeList) -> np.ndarray:
    """[A] the place of each edge's source among all sources of its relation, in ascending order."""
    ends = np.flatnonzero(np.diff(edges.relation.numpy(), prepend=-1, append=-1))
    parts = [
        np.unique(edges.source[a:b], return_inverse=True)[1]
        for a, b in itertools.pairwise(ends.tolist())
    ]
    return np.concatenate(parts or [np.zeros(0, dtype=np.int64)])


def num_segments_of(counts: np.ndarray) -> np.ndarray:
    return -(-counts // MAX_SEGMENT_EDGES)


def within(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... counts[0] - 1, 0, 1, ... counts[1] - 1, and so on."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def array_of(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
