"""The message graph of the training facts.

In: a `KnowledgeGraph` and its `EdgeSplit`. Out: a `MessageGraph` with both directions of every
training fact. Held-out facts are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hgt.graph.facts import EdgeType
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import TRAIN, EdgeSplit
from hgt.messages.grouping import EdgeList, group_edges
from hgt.messages.message_graph import GroupLimits, MessageGraph


def message_edge_types(graph: KnowledgeGraph) -> tuple[EdgeType, ...]:
    """All edge types and their reverses `rev_<relation>`. A symmetric one is its own reverse."""
    reverse = [
        (t, f"rev_{r}", h) for h, r, t in graph.edge_types if (h, r, t) not in graph.symmetric
    ]
    return (*graph.edge_types, *reverse)


def training_message_graph(
    graph: KnowledgeGraph, split: EdgeSplit, limits: GroupLimits | None = None
) -> MessageGraph:
    """The message graph of the training facts, in both directions. It has no held-out fact, because
    that would be a leak.
    """
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
    """Group and sort the edges of every relation.

    num_nodes: {node type: number of nodes}.
    edge_types: all relations; each has matrices of its own.
    edges: {edge type: (sources, targets)}, numbered within their types.
    facts: for each of these edge types the facts of its edges.
    """
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
