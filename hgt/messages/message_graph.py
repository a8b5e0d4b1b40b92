"""The edges that messages pass along, as groups of sorted edges.

Out: the types `MessageGraph`, `EdgeGroup` and `SortedEdges`. `grouping.py` fills them. A step that
leaves out edges passes a mask (`removed`) and keeps the layout. So all shapes stay the same from
step to step.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from hgt.graph.facts import EdgeType

# a hub's edges are summed in segments of this length, so that no thread of a GPU works alone
MAX_SEGMENT_EDGES = 128
# of one product of two tables: below the longest reduction that is right on every device
_PRODUCT_ROWS = 16_384


@dataclass(frozen=True)
class GroupLimits:
    """The largest size of a group. Sizes change memory and time, never the result.

    rows: rows of a table of transformed keys, queries or values, with `hidden_dim` floats each.
    edges: edges, with one float per head each.
    """

    rows: int = 65_536
    edges: int = 1_048_576


@dataclass(frozen=True)
class SortedEdges:
    """A group's edges in the order of the rows that they are summed into.

    rows: [num_segments] the row of each segment of edges, ascending. A row without edges has no
        segment, a hub has several.
    ptr: [num_segments + 1] first edge of each segment.
    row: [num_edges] the row of each edge.
    other: [num_edges] the row of each edge on the opposite side.
    order: [num_edges] place of each edge in the group's own order; None for that order itself.
    """

    rows: Int[Tensor, " num_segments"]
    ptr: Int[Tensor, " _"]
    row: Int[Tensor, " num_edges"]
    other: Int[Tensor, " num_edges"]
    order: Int[Tensor, " num_edges"] | None


@dataclass(frozen=True)
class EdgeGroup:
    """Edges of one or several message edge types that are processed together, in the order of their
    targets.

    Keys and values of a relation are transformed on one side only: the side with fewer nodes in the
    relation. The transformed rows of a group are one table, in blocks of `block_rows` rows of
    one relation. The last block of a relation is padded. All relations of a group are
    transformed on the same side.

    transforms_source: that side is the sources; otherwise the targets.
    edges: the group's range among all edges of the graph.
    relation: [num_blocks] number of the relation's matrices.
    nodes: [num_blocks * block_rows] global number of the node of each table row. Padding rows have
        any node, because they have no edges.
    by_target, by_source: the edges sorted by either side. Rows on the transformed side are rows of
        the table. Rows on the other side are global node numbers.
    """

    transforms_source: bool
    edges: tuple[int, int]
    block_rows: int
    relation: Int[Tensor, " num_blocks"]
    nodes: Int[Tensor, " table_rows"]
    by_target: SortedEdges
    by_source: SortedEdges

    @functools.cached_property
    def relation_rows(self) -> tuple[tuple[int, slice], ...]:
        """Each relation's table rows, at most 16,384 at a time. It waits for the device, so only
        the CPU uses it.
        """
        relations, counts = torch.unique_consecutive(self.relation, return_counts=True)
        stops = (self.block_rows * torch.cumsum(counts, 0)).tolist()
        starts = [0, *stops[:-1]]
        return tuple(
            (relation, slice(first, min(first + _PRODUCT_ROWS, stop)))
            for relation, start, stop in zip(relations.tolist(), starts, stops, strict=True)
            for first in range(start, stop, _PRODUCT_ROWS)
        )

    @property
    def by_node(self) -> SortedEdges:
        """The edges sorted by the side that is not transformed. `row` is a global node number,
        `other` a row of the table.
        """
        return self.by_target if self.transforms_source else self.by_source

    def targets(self) -> Int[Tensor, " num_edges"]:
        """[num_edges] global number of each edge's target, int64."""
        row = self.by_target.row
        return row.long() if self.transforms_source else self.nodes.index_select(0, row)

    def sources(self) -> Int[Tensor, " num_edges"]:
        """[num_edges] global number of each edge's source, int64."""
        other = self.by_target.other
        return self.nodes.index_select(0, other) if self.transforms_source else other.long()

    def relations(self) -> Int[Tensor, " num_edges"]:
        """[num_edges] number of each edge's relation matrices, int64."""
        table_row = self.by_target.other if self.transforms_source else self.by_target.row
        return self.relation.index_select(0, table_row // self.block_rows)


@dataclass(frozen=True)
class MessageGraph:
    """All message edges over one global node numbering.

    node_ranges: {node type: (start, stop)} global numbers.
    edge_types: the edge type of each relation matrix, also of those without edges.
    groups: all edges.
    fact: [num_edges] number of each edge's training fact; None when the edges are not from a split.
    """

    node_ranges: dict[str, tuple[int, int]]
    edge_types: tuple[EdgeType, ...]
    groups: tuple[EdgeGroup, ...]
    fact: Int[Tensor, " num_edges"] | None

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of each node type's global numbers."""
        return tuple(self.node_ranges.values())

    @property
    def num_nodes(self) -> int:
        return max(stop for _, stop in self.node_ranges.values())

    @property
    def num_edges(self) -> int:
        return self.groups[-1].edges[1] if self.groups else 0

    def to(self, device: torch.device | str) -> MessageGraph:
        """The graph with all tensors on the device."""

        def moved(value: object) -> object:
            if isinstance(value, Tensor):
                return value.to(device)
            if isinstance(value, tuple):
                return tuple(moved(v) for v in value)
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                return dataclasses.replace(
                    value,
                    **{f.name: moved(getattr(value, f.name)) for f in dataclasses.fields(value)},
                )
            return value

        return moved(self)  # type: ignore[return-value]
