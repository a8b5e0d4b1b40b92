"""The edges that messages pass along, laid out once so that every step works relation by relation over sorted edges.

In: edges per message edge type. Out: a `MessageGraph` on a device. Leaving edges out of a step does not change the
layout: the step passes a mask (`keep`), so that all shapes stay the same from step to step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from hgt.facts import EdgeType
from hgt.graph import KnowledgeGraph
from hgt.split import TRAIN, EdgeSplit


@dataclass(frozen=True)
class SortedEdges:
    """The edges of one relation in the order of the rows that they sum into.

    ptr: [num_rows + 1] where each row's edges start; row: [num_edges] the row, ascending; other: [num_edges] the row on
    the opposite side; order: [num_edges] place of the edge in the relation's own order (None: that order itself)
    """

    ptr: Int[Tensor, " _"]
    row: Int[Tensor, " num_edges"]
    other: Int[Tensor, " num_edges"]
    order: Int[Tensor, " num_edges"] | None

    @property
    def num_rows(self) -> int:
        return len(self.ptr) - 1


@dataclass(frozen=True)
class RelationEdges:
    """The edges of one message edge type, sorted by target.

    Keys and values are transformed by the relation's matrices on one side only: that with fewer nodes in the relation
    (`transforms_source`). `nodes` are those nodes, numbered in their type; rows on that side are places in `nodes`, rows
    on the other side are numbers in its type.

    number: which relation matrices; source_nodes, target_nodes: the two types' ranges of global node numbers
    edges: the relation's range in the graph's concatenated edges
    """

    number: int
    source_nodes: tuple[int, int]
    target_nodes: tuple[int, int]
    edges: tuple[int, int]
    transforms_source: bool
    nodes: Int[Tensor, " _"]
    by_target: SortedEdges
    by_source: SortedEdges

    def ends(self) -> tuple[Int[Tensor, " num_edges"], Int[Tensor, " num_edges"]]:
        """Sources and targets of the edges, ascending by target, numbered within their types."""
        source, target = self.by_target.other.long(), self.by_target.row.long()
        return (self.nodes[source], target) if self.transforms_source else (source, self.nodes[target])


@dataclass(frozen=True)
class MessageGraph:
    """All message edge types over one global node numbering.

    node_ranges: {node type: (start, stop)}; edge_types: every relation matrix's edge type, with edges or without
    fact: [num_edges] the training fact that each edge tells, or None when the edges came from outside
    """

    node_ranges: dict[str, tuple[int, int]]
    edge_types: tuple[EdgeType, ...]
    relations: tuple[RelationEdges, ...]
    fact: Int[Tensor, " num_edges"] | None

    @property
    def num_nodes(self) -> int:
        return max(stop for _, stop in self.node_ranges.values())

    @property
    def num_edges(self) -> int:
        return self.relations[-1].edges[1] if self.relations else 0

    def to(self, device: torch.device | str) -> MessageGraph:
        def moved(value: object) -> object:
            if isinstance(value, Tensor):
                return value.to(device)
            if isinstance(value, tuple):
                return tuple(moved(v) for v in value)
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                return dataclasses.replace(value, **{f.name: moved(getattr(value, f.name)) for f in dataclasses.fields(value)})
            return value

        return moved(self)  # type: ignore[return-value]


def message_edge_types(graph: KnowledgeGraph) -> tuple[EdgeType, ...]:
    """Every edge type and its reverse `rev_<relation>`. A symmetric edge type is its own reverse."""
    reverse = [(t, f"rev_{r}", h) for h, r, t in graph.edge_types if (h, r, t) not in graph.symmetric]
    return (*graph.edge_types, *reverse)


def training_message_graph(graph: KnowledgeGraph, split: EdgeSplit) -> MessageGraph:
    """Training facts in both directions; held-out facts are in it in neither (DESIGN.md 5.4)."""
    head, relation, tail = split.of(TRAIN)
    types = message_edge_types(graph)
    place = {e: i for i, e in enumerate(types)}
    edges: dict[EdgeType, tuple[Tensor, Tensor]] = {}
    facts: dict[EdgeType, Tensor] = {}
    for number, edge_type in enumerate(graph.edge_types):
        fact = torch.nonzero(relation == number).squeeze(1)
        forward = torch.stack([head[fact] - graph.offsets[edge_type[0]], tail[fact] - graph.offsets[edge_type[2]]])
        if edge_type in graph.symmetric:
            edges[edge_type] = (torch.cat([forward[0], forward[1]]), torch.cat([forward[1], forward[0]]))
            facts[edge_type] = torch.cat([fact, fact])
        else:
            reverse = (edge_type[2], f"rev_{edge_type[1]}", edge_type[0])
            edges[edge_type], edges[reverse] = (forward[0], forward[1]), (forward[1], forward[0])
            facts[edge_type] = facts[reverse] = fact
    ordered = sorted(edges, key=place.__getitem__)
    return build_message_graph(graph.num_nodes, types, {e: edges[e] for e in ordered}, [facts[e] for e in ordered])


def build_message_graph(
    num_nodes: Mapping[str, int],
    edge_types: Sequence[EdgeType],
    edges: Mapping[EdgeType, tuple[Tensor, Tensor]],
    facts: Sequence[Tensor] | None = None,
) -> MessageGraph:
    """Sort every relation's (source, target) pairs, numbered within their types, and choose its cheaper side."""
    ranges, start = {}, 0
    for node_type, n in num_nodes.items():
        ranges[node_type] = (start, start + n)
        start += n
    relations, fact_parts, at = [], [], 0
    for i, (edge_type, (source, target)) in enumerate(edges.items()):
        if not len(source):
            continue
        order = torch.argsort(target, stable=True)
        sizes = num_nodes[edge_type[0]], num_nodes[edge_type[2]]
        span = (at, at + len(source))
        number = tuple(edge_types).index(edge_type)
        ends = ranges[edge_type[0]], ranges[edge_type[2]]
        relations.append(_relation_edges(number, ends, span, sizes, source[order], target[order]))
        if facts is not None:
            fact_parts.append(facts[i][order])
        at = span[1]
    fact = None if facts is None else torch.cat(fact_parts)
    return MessageGraph(ranges, tuple(edge_types), tuple(relations), fact)


def targets_only(graph: MessageGraph, node_type: str, start: int, stop: int) -> MessageGraph:
    """The edges into nodes start..stop of one type, with these targets numbered from 0; sources keep their numbers.

    For a layer whose queries are those of the targets alone, and whose keys and values are those of all nodes.
    """
    relations, at = [], 0
    for relation in graph.relations:
        if relation.target_nodes != graph.node_ranges[node_type]:
            continue
        source, target = relation.ends()
        first, last = torch.searchsorted(target, torch.tensor([start, stop], device=target.device)).tolist()
        if first == last:
            continue
        span, at = (at, at + last - first), at + last - first
        num_sources = relation.source_nodes[1] - relation.source_nodes[0]
        ends = relation.source_nodes, (0, stop - start)
        relations.append(
            _relation_edges(relation.number, ends, span, (num_sources, stop - start), source[first:last], target[first:last] - start)
        )
    return MessageGraph(graph.node_ranges, graph.edge_types, tuple(relations), None)


def _relation_edges(
    number: int,
    ends: tuple[tuple[int, int], tuple[int, int]],
    span: tuple[int, int],
    sizes: tuple[int, int],
    source: Tensor,
    target: Tensor,
) -> RelationEdges:
    """One relation's edges, already sorted by target."""
    source_nodes, source_place = torch.unique(source, return_inverse=True)
    target_nodes, target_place = torch.unique(target, return_inverse=True)
    transforms_source = len(source_nodes) <= len(target_nodes)
    if transforms_source:
        nodes, source, sizes = source_nodes, source_place, (len(source_nodes), sizes[1])
    else:
        nodes, target, sizes = target_nodes, target_place, (sizes[0], len(target_nodes))
    by_source = torch.argsort(source, stable=True)
    return RelationEdges(
        number=number,
        source_nodes=ends[0],
        target_nodes=ends[1],
        edges=span,
        transforms_source=transforms_source,
        nodes=nodes,
        by_target=_sorted_edges(target, source, sizes[1], None),
        by_source=_sorted_edges(source[by_source], target[by_source], sizes[0], by_source),
    )


def _sorted_edges(row: Tensor, other: Tensor, num_rows: int, order: Tensor | None) -> SortedEdges:
    ptr = torch.searchsorted(row, torch.arange(num_rows + 1, device=row.device))
    return SortedEdges(ptr.to(torch.int32), row.to(torch.int32), other.to(torch.int32), order)
