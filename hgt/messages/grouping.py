"""Groups and sorts edges, so that a step works on a few tables.

In: an `EdgeList` and `GroupLimits`. Out: `EdgeGroup`s, and the order of their edges. Knows no facts
and no split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from hgt.messages.message_graph import (
    MAX_SEGMENT_EDGES,
    EdgeGroup,
    GroupLimits,
    MessageGraph,
    SortedEdges,
)

_BLOCK_ROWS = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class EdgeList:
    """Edges as three parallel columns. Relations ascend, node numbers are global."""

    relation: Int[Tensor, " num_edges"]
    source: Int[Tensor, " num_edges"]
    target: Int[Tensor, " num_edges"]

    def cpu(self) -> EdgeList:
        return EdgeList(self.relation.cpu(), self.source.cpu(), self.target.cpu())

    def sorted_by_target(self) -> EdgeList:
        """The edges in the order of their targets; equal targets keep their order."""
        order = torch.argsort(self.target, stable=True)
        return EdgeList(self.relation[order], self.source[order], self.target[order])


def edge_list(graph: MessageGraph) -> EdgeList:
    """All edges in the graph's own order, in which relations do not ascend."""
    empty = torch.zeros(0, dtype=torch.int64)
    columns = (
        [f(g) for g in graph.groups]
        for f in (EdgeGroup.relations, EdgeGroup.sources, EdgeGroup.targets)
    )
    return EdgeList(*(torch.cat(c or [empty]) for c in columns))


def edges_into(graph: MessageGraph, edges: EdgeList, start: int, stop: int) -> MessageGraph:
    """The message graph of the edges into the nodes start..stop. These targets get numbers from 0;
    sources keep their numbers.

    edges: all edges of the graph, sorted by target, on the CPU. The result is on the CPU, too.
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
    """The groups of these edges within the limits, and the previous place of each of their edges.

    edges: relations ascend.
    """
    return group_pieces(edges, list(_pieces(edges, limits)), limits)


def group_pieces(
    edges: EdgeList, pieces: list[Piece], limits: GroupLimits
) -> tuple[tuple[EdgeGroup, ...], Int[Tensor, " num_edges"]]:
    """The groups of these pieces, and the previous place of each of their edges. The pieces have
    every edge once.
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
    """Edges of one relation between some of its transformed nodes and any others.

    nodes: the transformed nodes.
    edges: places of the edges.
    place: place of each edge's node in `nodes`.
    """

    relation: int
    transforms_source: bool
    nodes: Tensor
    edges: Tensor
    place: Tensor


def _pieces(edges: EdgeList, limits: GroupLimits) -> Iterator[Piece]:
    """Cut each relation between transformed nodes where it exceeds the limits."""
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
    """Number of rows per block: large for few large products, but padding stays below a quarter of
    the rows.
    """
    total = sum(sizes)
    good = [b for b in _BLOCK_ROWS if sum(-n % b for n in sizes) <= total / 4]
    return max(good, default=_BLOCK_ROWS[0])


def _packed(pieces: list[Piece], limits: GroupLimits, block_rows: int) -> Iterator[list[Piece]]:
    """Pack pieces that are transformed on the same side, as long as they stay within the limits."""
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
