"""The edges that messages pass along, laid out once so that every step works on a few groups of
sorted edges.

In: edges per message edge type. Out: a `MessageGraph` on a device. Leaving edges out of a step does
not change the
layout: the step passes a mask (`removed`), so that all shapes stay the same from step to step.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from hgt.graph.facts import EdgeType
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import TRAIN, EdgeSplit

# a hub's edges are summed in segments of this length, so that no thread of a GPU works alone
MAX_SEGMENT_EDGES = 128
# of one product of two tables: below the longest reduction that is right on every device
_PRODUCT_ROWS = 16_384
_BLOCK_ROWS = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class GroupLimits:
    """How much is worked on at a time: rows of a table of transformed keys, queries or values, and
    edges.

    A table has `hidden_dim` floats per row; edges have one float per head. Sizes change memory and
    time, never the result.
    """

    rows: int = 65_536
    edges: int = 1_048_576


@dataclass(frozen=True)
class SortedEdges:
    """A group's edges in the order of the rows that they sum into.

    rows: [num_segments] the row that each segment of edges sums into, ascending; a row without
        edges has none, a hub several
    ptr: [num_segments + 1] where the segments start
    row, other: [num_edges] the row of each edge, and the row on the opposite side
    order: [num_edges] place of the edge in the group's own order (None: that order itself)
    """

    rows: Int[Tensor, " num_segments"]
    ptr: Int[Tensor, " _"]
    row: Int[Tensor, " num_edges"]
    other: Int[Tensor, " num_edges"]
    order: Int[Tensor, " num_edges"] | None


@dataclass(frozen=True)
class EdgeGroup:
    """Edges of one or several message edge types that are worked on together, in the order of their
    targets.

    Each relation's keys and values are transformed on one side only, that with fewer nodes in the
    relation. The transformed rows of a group stand in one table, in blocks of `block_rows` rows of
    one relation; a relation's last block is padded. A group holds relations transformed on one
    side: at the sources (`transforms_source`) or at the targets.

    edges: the group's range in the graph's concatenated edges; relation: [num_blocks] which
        relation matrices
    nodes: [num_blocks * block_rows] global number of the node behind each table row (any node for
        padding: it has no edges)
    by_target, by_source: rows on the transformed side are rows of the table, rows on the other side
        are global node numbers
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
        """Each relation's table rows, at most 16,384 at a time. Waits for the device: for the CPU
        alone.
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
        """By the side that is not transformed: `row` is a global node number, `other` a row of the
        table.
        """
        return self.by_target if self.transforms_source else self.by_source

    def targets(self) -> Int[Tensor, " num_edges"]:
        """Global number of each edge's target, int64."""
        row = self.by_target.row
        return row.long() if self.transforms_source else self.nodes.index_select(0, row)

    def sources(self) -> Int[Tensor, " num_edges"]:
        """Global number of each edge's source, int64."""
        other = self.by_target.other
        return self.nodes.index_select(0, other) if self.transforms_source else other.long()

    def relations(self) -> Int[Tensor, " num_edges"]:
        """The relation matrices of each edge, int64."""
        table_row = self.by_target.other if self.transforms_source else self.by_target.row
        return self.relation.index_select(0, table_row // self.block_rows)


@dataclass(frozen=True)
class MessageGraph:
    """All message edge types over one global node numbering.

    node_ranges: {node type: (start, stop)}; edge_types: every relation matrix's edge type, with
        edges or without
    fact: [num_edges] the training fact that each edge tells, or None when the edges came from
        outside
    """

    node_ranges: dict[str, tuple[int, int]]
    edge_types: tuple[EdgeType, ...]
    groups: tuple[EdgeGroup, ...]
    fact: Int[Tensor, " num_edges"] | None

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Global numbers of each type's nodes."""
        return tuple(self.node_ranges.values())

    @property
    def num_nodes(self) -> int:
        return max(stop for _, stop in self.node_ranges.values())

    @property
    def num_edges(self) -> int:
        return self.groups[-1].edges[1] if self.groups else 0

    def to(self, device: torch.device | str) -> MessageGraph:
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


def message_edge_types(graph: KnowledgeGraph) -> tuple[EdgeType, ...]:
    """Every edge type and its reverse `rev_<relation>`. A symmetric edge type is its own
    reverse.
    """
    reverse = [
        (t, f"rev_{r}", h) for h, r, t in graph.edge_types if (h, r, t) not in graph.symmetric
    ]
    return (*graph.edge_types, *reverse)


def training_message_graph(
    graph: KnowledgeGraph, split: EdgeSplit, limits: GroupLimits | None = None
) -> MessageGraph:
    """Training facts in both directions. Held-out facts are in it in neither: they would tell."""
    head, relation, tail = split.of(TRAIN)
    types = message_edge_types(graph)
    place = {e: i for i, e in enumerate(types)}
    edges: dict[EdgeType, tuple[Tensor, Tensor]] = {}
    facts: dict[EdgeType, Tensor] = {}
    for number, edge_type in enumerate(graph.edge_types):
        fact = torch.nonzero(relation == number).squeeze(1)
        forward = torch.stack(
            [head[fact] - graph.offsets[edge_type[0]], tail[fact] - graph.offsets[edge_type[2]]]
        )
        if edge_type in graph.symmetric:
            edges[edge_type] = (
                torch.cat([forward[0], forward[1]]),
                torch.cat([forward[1], forward[0]]),
            )
            facts[edge_type] = torch.cat([fact, fact])
        else:
            reverse = (edge_type[2], f"rev_{edge_type[1]}", edge_type[0])
            edges[edge_type], edges[reverse] = (forward[0], forward[1]), (forward[1], forward[0])
            facts[edge_type] = facts[reverse] = fact
    ordered = sorted(edges, key=place.__getitem__)
    return build_message_graph(
        graph.num_nodes, types, {e: edges[e] for e in ordered}, [facts[e] for e in ordered], limits
    )


def build_message_graph(
    num_nodes: Mapping[str, int],
    edge_types: Sequence[EdgeType],
    edges: Mapping[EdgeType, tuple[Tensor, Tensor]],
    facts: Sequence[Tensor] | None = None,
    limits: GroupLimits | None = None,
) -> MessageGraph:
    """Group and sort every relation's (source, target) pairs, numbered within their types."""
    ranges, start = {}, 0
    for node_type, n in num_nodes.items():
        ranges[node_type] = (start, start + n)
        start += n
    number = {e: i for i, e in enumerate(edge_types)}
    parts = [
        EdgeList(
            torch.full_like(source, number[e]), source + ranges[e[0]][0], target + ranges[e[2]][0]
        )
        for e, (source, target) in edges.items()
    ]
    empty = torch.zeros(0, dtype=torch.int64)
    joined = EdgeList(
        *(
            torch.cat([empty, *(getattr(p, f) for p in parts)])
            for f in ("relation", "source", "target")
        )
    )
    groups, order = group_edges(joined, limits or GroupLimits())
    fact = None if facts is None else torch.cat([empty, *facts])[order].to(torch.int32)
    return MessageGraph(ranges, tuple(edge_types), groups, fact)


@dataclass(frozen=True)
class EdgeList:
    """Edges as three parallel columns, relations ascending; nodes in global numbering."""

    relation: Int[Tensor, " num_edges"]
    source: Int[Tensor, " num_edges"]
    target: Int[Tensor, " num_edges"]

    def cpu(self) -> EdgeList:
        return EdgeList(self.relation.cpu(), self.source.cpu(), self.target.cpu())

    def sorted_by_target(self) -> EdgeList:
        order = torch.argsort(self.target, stable=True)
        return EdgeList(self.relation[order], self.source[order], self.target[order])


def edge_list(graph: MessageGraph) -> EdgeList:
    """The edges of all groups in the graph's own order (relations do not ascend)."""
    empty = torch.zeros(0, dtype=torch.int64)
    columns = (
        [f(g) for g in graph.groups]
        for f in (EdgeGroup.relations, EdgeGroup.sources, EdgeGroup.targets)
    )
    return EdgeList(*(torch.cat(c or [empty]) for c in columns))


def edges_into(graph: MessageGraph, edges: EdgeList, start: int, stop: int) -> MessageGraph:
    """The graph of the edges into nodes start..stop, with these targets numbered from 0; sources
    keep their numbers.

    edges: all of the graph's, sorted by target, on the CPU, as is the result.
    """
    first, last = torch.searchsorted(edges.target, torch.tensor([start, stop])).tolist()
    order = torch.argsort(edges.relation[first:last], stable=True) + first
    part = EdgeList(edges.relation[order], edges.source[order], edges.target[order] - start)
    return MessageGraph(
        graph.node_ranges, graph.edge_types, group_edges(part, GroupLimits())[0], None
    )


def group_edges(
    edges: EdgeList, limits: GroupLimits
) -> tuple[tuple[EdgeGroup, ...], Int[Tensor, " num_edges"]]:
    """Edges (relations ascending) as groups within the limits; and where each of the groups' edges
    stood before.
    """
    return group_pieces(edges, list(_pieces(edges, limits)), limits)


def group_pieces(
    edges: EdgeList, pieces: list[Piece], limits: GroupLimits
) -> tuple[tuple[EdgeGroup, ...], Int[Tensor, " num_edges"]]:
    """Pieces that hold every edge once, packed into groups; and where each of the groups' edges
    stood before.
    """
    block_rows = block_rows_of([len(p.nodes) for p in pieces])
    groups, orders, at = [], [], 0
    for members in _packed(pieces, limits, block_rows):
        group, order = _group(edges, members, block_rows, at)
        groups.append(group)
        orders.append(order)
        at = group.edges[1]
    return tuple(groups), torch.cat(orders) if orders else torch.zeros(0, dtype=torch.int64)


@dataclass(frozen=True)
class Piece:
    """One relation's edges with some of its transformed nodes. edges: their places; place: each
    edge's node in `nodes`.
    """

    relation: int
    transforms_source: bool
    nodes: Tensor
    edges: Tensor
    place: Tensor


def _pieces(edges: EdgeList, limits: GroupLimits) -> Iterator[Piece]:
    """Each relation, cut between transformed nodes where it exceeds the limits."""
    relations, counts = torch.unique_consecutive(edges.relation, return_counts=True)
    start = 0
    for relation, count in zip(relations.tolist(), counts.tolist(), strict=True):
        span = slice(start, start + count)
        start += count
        sources, targets = (
            torch.unique(side[span], return_inverse=True) for side in (edges.source, edges.target)
        )
        transforms_source = len(sources[0]) <= len(targets[0])
        nodes, place = sources if transforms_source else targets
        order = torch.argsort(place, stable=True)
        ends = torch.cumsum(torch.bincount(place, minlength=len(nodes)), 0)
        first = 0
        while first < len(nodes):
            before = int(ends[first - 1]) if first else 0
            fits = int(torch.searchsorted(ends, torch.tensor(before + limits.edges), right=True))
            last = max(first + 1, min(fits, first + limits.rows, len(nodes)))
            own = order[before : int(ends[last - 1])]
            yield Piece(
                relation, transforms_source, nodes[first:last], own + span.start, place[own] - first
            )
            first = last


def block_rows_of(sizes: list[int]) -> int:
    """Rows per block: large for few large products, small so that padding stays below a fourth of
    the rows.
    """
    total = sum(sizes)
    good = [b for b in _BLOCK_ROWS if sum(-n % b for n in sizes) <= total / 4]
    return max(good, default=_BLOCK_ROWS[0])


def _packed(pieces: list[Piece], limits: GroupLimits, block_rows: int) -> Iterator[list[Piece]]:
    """Pieces transformed on the same side, together as long as they stay within the limits."""
    for side in (True, False):
        members: list[Piece] = []
        rows = edges = 0
        for piece in (p for p in pieces if p.transforms_source == side):
            new_rows, new_edges = -(-len(piece.nodes) // block_rows) * block_rows, len(piece.edges)
            if members and (rows + new_rows > limits.rows or edges + new_edges > limits.edges):
                yield members
                members, rows, edges = [], 0, 0
            members.append(piece)
            rows, edges = rows + new_rows, edges + new_edges
        if members:
            yield members


def _group(
    edges: EdgeList, members: list[Piece], block_rows: int, at: int
) -> tuple[EdgeGroup, Tensor]:
    nodes, relation, own, table_row, rows = [], [], [], [], 0
    for piece in members:
        num_blocks = -(-len(piece.nodes) // block_rows)
        padding = piece.nodes[:1].expand(num_blocks * block_rows - len(piece.nodes))
        nodes += [piece.nodes, padding]
        relation.append(torch.full((num_blocks,), piece.relation))
        own.append(piece.edges)
        table_row.append(piece.place + rows)
        rows += num_blocks * block_rows
    order, table = torch.cat(own), torch.cat(table_row)
    transforms_source = members[0].transforms_source
    # by target: global targets where sources are transformed; else table rows, which ascend by
    # (relation, target)
    first = torch.argsort(edges.target[order] if transforms_source else table, stable=True)
    order, table = order[first], table[first]
    source, target = (
        (table, edges.target[order]) if transforms_source else (edges.source[order], table)
    )
    by_source = torch.argsort(source, stable=True)
    group = EdgeGroup(
        transforms_source=transforms_source,
        edges=(at, at + len(order)),
        block_rows=block_rows,
        relation=torch.cat(relation),
        nodes=torch.cat(nodes),
        by_target=_sorted_edges(target, source, None),
        by_source=_sorted_edges(source[by_source], target[by_source], by_source),
    )
    return group, order


def _sorted_edges(row: Tensor, other: Tensor, order: Tensor | None) -> SortedEdges:
    distinct, counts = torch.unique_consecutive(row, return_counts=True)
    starts = torch.cumsum(counts, 0) - counts
    pieces = (counts + MAX_SEGMENT_EDGES - 1) // MAX_SEGMENT_EDGES
    within = torch.arange(int(pieces.sum())) - torch.repeat_interleave(
        torch.cumsum(pieces, 0) - pieces, pieces
    )
    ptr = torch.repeat_interleave(starts, pieces) + within * MAX_SEGMENT_EDGES
    ptr = torch.cat([ptr, torch.tensor([len(row)])])
    row, other, ptr = (t.to(torch.int32) for t in (row, other, ptr))
    return SortedEdges(
        torch.repeat_interleave(distinct, pieces),
        ptr,
        row,
        other,
        None if order is None else order.to(torch.int32),
    )
