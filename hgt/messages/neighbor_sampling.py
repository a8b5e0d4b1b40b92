"""Draws the edges of a step: at most k of each message edge type into a node.

The cap is that of GraphSAGE (Hamilton et al. 2017).

In: the training facts' message graph and the cap k. Out: for (seed, epoch, batch) a `MessageGraph`
with min(d, k) of the d edges of each message edge type into each node. Every such set is
equally likely. All draws have the same shapes. Nothing here runs on the device. It does not
know the edges that a step supervises; the step masks these. Evaluation and inference use all
edges.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch

from hgt.messages.grouping import EdgeList, Piece, edge_list, group_pieces
from hgt.messages.message_graph import (
    EdgeGroup,
    GroupLimits,
    MessageGraph,
)
from hgt.messages.source_rows import SourceRows, array_of, source_side, within
from hgt.seeds import Stream, generator


class NeighborSampling:
    """Each slot is assigned to one (message edge type, target) for the whole training.

    A draw decides which of that target's edges fills the slot. So groups, tables and `by_target`
    are fixed, except for its other side. A draw brings sources, facts and `by_source`. All arrays
    are on the CPU. A edges in the graph, E edges in a draw.
    """

    def __init__(self, graph: MessageGraph, num_neighbors: int, limits: GroupLimits | None = None):
        """Lays out the slots.

        graph: on the CPU; its own groups do not matter.
        num_neighbors: most edges of one type into a node.
        limits: of the groups of drawn edges.
        """
        edges, order, starts, degree = _by_relation_and_target(graph)
        k = min(num_neighbors, int(degree.max(initial=1)))
        drawn = np.minimum(degree, k)
        row = np.repeat(np.arange(len(drawn)), drawn)
        # the first min(d, k) edges of each row, as a draw to lay the groups out by
        first_edges = starts[row] + within(drawn)
        slots = EdgeList(*(getattr(edges, f.name)[first_edges] for f in dataclasses.fields(edges)))
        limits = limits or GroupLimits()
        groups, place = group_pieces(slots, list(_pieces(slots, edges, limits)), limits)
        self.layout = MessageGraph(
            graph.node_ranges, graph.edge_types, tuple(map(_without_draw, groups)), None
        )
        row = row[place]
        # [E] of the graph's edges by relation and target, as drawn where d <= k
        self._edge = first_edges[place].astype(np.int32)
        # [E]
        self._target = np.concatenate(
            [array_of(g.by_target.row) for g in groups] or [np.zeros(0, np.int32)]
        )
        self._fact = None if graph.fact is None else array_of(graph.fact)[order]  # [A]
        self._other, self._sources = source_side(groups, edges, degree, row, self._edge)
        self._start, self._degree, self._places = _capped_rows(row, starts, degree, k)

    def to(self, device: torch.device) -> NeighborSampling:
        """Moves what all draws have in common to the device. The rest of a draw stays on the CPU.

        Returns itself.
        """
        self.layout = dataclasses.replace(
            self.layout, groups=tuple(_fixed_on(group, device) for group in self.layout.groups)
        )
        return self

    def draw(self, seed: int, epoch: int, batch: int) -> MessageGraph:
        """The message graph of one step; the same for every call.

        What differs from draw to draw is on the CPU until `MessageGraph.to` moves it.
        """
        rng = generator(seed, Stream.NEIGHBORS, epoch, batch)
        edge = self._edge.copy()
        edge[self._places] = self._start + _distinct(rng, self._degree, len(self._places))
        other = self._other[edge]
        groups = tuple(
            self._group(*both, other)
            for both in zip(self.layout.groups, self._sources, strict=True)
        )
        fact = None if self._fact is None else torch.from_numpy(self._fact[edge])
        return dataclasses.replace(self.layout, groups=groups, fact=fact)

    def _group(self, group: EdgeGroup, sources: SourceRows, others: np.ndarray) -> EdgeGroup:
        part = slice(*group.edges)
        by_target = dataclasses.replace(group.by_target, other=torch.from_numpy(others[part]))
        return dataclasses.replace(
            group, by_target=by_target, by_source=sources.sort(others[part], self._target[part])
        )


def _without_draw(group: EdgeGroup) -> EdgeGroup:
    """The group with `by_target.row` in place of the tensors that each draw brings. It takes no
    memory.
    """
    by_target = dataclasses.replace(group.by_target, other=group.by_target.row)
    return dataclasses.replace(group, by_target=by_target, by_source=by_target)


def _fixed_on(group: EdgeGroup, device: torch.device) -> EdgeGroup:
    rows, ptr, row = (
        t.to(device) for t in (group.by_target.rows, group.by_target.ptr, group.by_target.row)
    )
    by_target = dataclasses.replace(group.by_target, rows=rows, ptr=ptr, row=row)
    return dataclasses.replace(
        group, relation=group.relation.to(device), nodes=group.nodes.to(device), by_target=by_target
    )


def _by_relation_and_target(
    graph: MessageGraph,
) -> tuple[EdgeList, np.ndarray, np.ndarray, np.ndarray]:
    """Edges sorted by (relation, target), and the place of each in the graph.

    Then for each (relation, target) its first edge and its number of edges.
    """
    edges = edge_list(graph)
    row = edges.relation * graph.num_nodes + edges.target
    order = torch.argsort(row, stable=True)
    _, degree = torch.unique_consecutive(row[order], return_counts=True)
    starts = torch.cumsum(degree, 0) - degree
    return (
        EdgeList(edges.relation[order], edges.source[order], edges.target[order]),
        order.numpy(),
        starts.numpy(),
        degree.numpy(),
    )


def _pieces(slots: EdgeList, edges: EdgeList, limits: GroupLimits) -> Iterator[Piece]:
    """Cut each relation's edges between targets where they exceed the limits.

    It never cuts between sources, because a source's number of edges differs from draw to draw. A
    piece transforms all sources of its relation or its own targets: the side with less work within
    the limits.
    """
    start = first_edge = 0
    for relation in torch.unique_consecutive(edges.relation).tolist():
        stop, last_edge = (
            int(torch.searchsorted(of.relation, relation, right=True)) for of in (slots, edges)
        )
        sources = torch.unique(edges.source[first_edge:last_edge])
        targets, counts = torch.unique_consecutive(slots.target[start:stop], return_counts=True)
        num_pieces = -(-(stop - start) // limits.edges)
        transforms_source = len(sources) <= limits.rows and num_pieces * len(sources) <= len(
            targets
        )
        rows = len(targets) if transforms_source else limits.rows  # of targets in a piece
        ends = torch.cumsum(counts, 0)
        first = 0
        while first < len(targets):
            before = int(ends[first - 1]) if first else 0
            fits = int(torch.searchsorted(ends, before + limits.edges, right=True))
            last = max(first + 1, min(fits, first + rows, len(targets)))
            own = torch.arange(start + before, start + int(ends[last - 1]))
            nodes, side = (
                (sources, slots.source)
                if transforms_source
                else (targets[first:last], slots.target)
            )
            yield Piece(
                relation, transforms_source, nodes, own, torch.searchsorted(nodes, side[own])
            )
            first = last
        start, first_edge = stop, last_edge


def _capped_rows(
    row: np.ndarray, starts: np.ndarray, degree: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The R rows with more than k edges.

    Returns their first edge [R], their number of edges [R], and their places in a draw [k, R].
    """
    capped = np.flatnonzero(degree > k)
    places = np.flatnonzero(degree[row] > k)
    by_row = places[np.argsort(row[places], kind="stable")].reshape(
        len(capped), k if len(capped) else 0
    )
    return (
        starts[capped].astype(np.int32),
        degree[capped].astype(np.int32),
        np.ascontiguousarray(by_row.T),
    )


def _distinct(rng: np.random.Generator, degree: np.ndarray, k: int) -> np.ndarray:
    """[k, R] for each degree k distinct numbers below it, every set equally likely.

    Floyd's algorithm (Bentley 1987). degree: [R], all above k.
    """
    out = np.empty((k, len(degree)), dtype=np.int32)
    for i in range(k):
        last = degree - k + i
        number = (rng.random(len(degree)) * (last + 1)).astype(np.int32)
        out[i] = np.where((out[:i] == number).any(0), last, number)
    return out
