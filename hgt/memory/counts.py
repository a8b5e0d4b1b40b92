"""Counts for the memory plan: numbers of nodes, edges and facts that live at the same time.

In: a graph and its configuration. Out: `Counts`. Knows no bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import torch
from torch import Tensor

from hgt.config import RunConfig, SplitConfig
from hgt.device.traits import DeviceTraits, traits_of
from hgt.graph.holdout import least_held_out
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.messages.step_messages import draws_edges, num_step_edges
from hgt.model.decoders import DECODERS
from hgt.training.batch_sizes import BatchSizes, batch_sizes


@dataclass(frozen=True)
class MessageType:
    """Edges of one message edge type.

    sources: number of nodes that they start from.
    targets: number of nodes that they end in.
    edges: number of edges.
    """

    sources: int
    targets: int
    edges: int

    def scaled(self, share: float) -> MessageType:
        return MessageType(
            ceil(self.sources * share), ceil(self.targets * share), ceil(self.edges * share)
        )


@dataclass(frozen=True)
class Asked:
    """One relation's ranked facts, at one of their ends.

    facts: number of facts.
    nodes: number of different nodes at the known end.
    known: number of known facts of these nodes.
    candidates: number of candidates at the other end.
    """

    facts: int
    nodes: int
    known: int
    candidates: int


@dataclass(frozen=True)
class Counts:
    """Everything that the plan depends on. Sizes are numbers of things."""

    device: str
    nodes: int
    node_types: int
    largest_type: int  # nodes
    hidden: int
    dim: int
    heads: int
    layers: int
    relations: int
    facts: int  # of the whole graph
    message_types: tuple[MessageType, ...]  # of the training facts
    step_types: tuple[MessageType, ...]  # of a training step, see `step_messages`
    chunk_types: tuple[MessageType, ...]  # into the chunk of nodes with the most edges (inference)
    draws_edges: bool
    dropout: bool
    input_dropout: bool
    query_tensors: int  # see `Decoder`
    averages: bool
    item: int  # bytes per number of keys, queries and values
    node_chunk: int
    ranked: tuple[Asked, ...]  # after each epoch
    tested: tuple[Asked, ...]
    batch: BatchSizes

    @classmethod
    def of(cls, graph: KnowledgeGraph, config: RunConfig, device: str) -> Counts:
        m, chunk = config.model, config.execution.node_batch_size
        num_neighbors = config.batches.num_neighbors
        degrees = list(_degrees(graph, config.split))
        types = tuple(_message_type(source, target, share) for _, source, target, share in degrees)
        drawn = (num_step_edges(share * target, num_neighbors) for _, _, target, share in degrees)
        return cls(
            device=device,
            nodes=graph.total_nodes,
            node_types=len(graph.node_types),
            largest_type=max(graph.num_nodes.values()),
            hidden=m.hidden_dim,
            dim=m.embedding_dim,
            heads=m.num_heads,
            layers=m.num_layers,
            relations=len(graph.edge_types),
            facts=graph.total_facts,
            message_types=types,
            step_types=tuple(
                replace(of_type, edges=n) for of_type, n in zip(types, drawn, strict=True)
            ),
            chunk_types=_chunk_types(degrees, graph.total_nodes, chunk),
            draws_edges=draws_edges(num_neighbors),
            dropout=m.dropout > 0,
            input_dropout=m.input_dropout > 0,
            query_tensors=DECODERS[m.decoder].query_tensors,
            averages=config.optimizer.average_decay > 0,
            item=2 if m.mixed_precision else 4,
            node_chunk=chunk,
            ranked=_asked(
                graph,
                min(config.stopping.num_val_edges / graph.total_facts, config.split.val_fraction),
                typed_only=True,
            ),
            tested=_asked(graph, config.split.test_fraction, typed_only=False),
            batch=batch_sizes(graph, config),
        )

    @property
    def traits(self) -> DeviceTraits:
        return traits_of(self.device)

    def scaled(self, share: float) -> Counts:
        """The counts of a graph with this share of the nodes and facts."""
        changed: dict[str, Any] = {
            n: max(1, int(getattr(self, n) * share)) for n in ("nodes", "largest_type", "facts")
        }
        for name in ("message_types", "step_types"):
            changed[name] = tuple(of_type.scaled(share) for of_type in getattr(self, name))
        for name in ("ranked", "tested"):
            changed[name] = tuple(
                replace(asked, candidates=max(1, int(asked.candidates * share)))
                for asked in getattr(self, name)
            )
        return replace(self, **changed)


def _degrees(
    graph: KnowledgeGraph, config: SplitConfig
) -> Iterator[tuple[int, Tensor, Tensor, float]]:
    """For each message edge type: the global number of its first target, the degrees of its sources
    and of its targets, and the largest share of its edges that can train.
    """
    held_out = least_held_out(graph, config)
    for edge_type, index in graph.edge_index.items():
        ends, share = edge_type[::2], 1 - held_out[edge_type]
        heads, tails = (
            torch.bincount(side, minlength=graph.num_nodes[e])
            for side, e in zip(index, ends, strict=True)
        )
        if edge_type in graph.symmetric:
            yield graph.offsets[ends[0]], heads + tails, heads + tails, share
        else:
            yield graph.offsets[ends[1]], heads, tails, share
            yield graph.offsets[ends[0]], tails, heads, share


def _drawn_share(degree: Tensor, share: float) -> Tensor:
    """For each node the chance that a random share of the edges has one of its edges."""
    return 1 - (1 - share) ** degree


def _message_type(
    source: Tensor, target: Tensor, share: float, into: Tensor | None = None
) -> MessageType:
    """The expected counts of a random share of the edges.

    into: degrees of some targets; the counts cover only edges into these. None: all targets.
    """
    into = target if into is None else into
    of_sources = share * int(into.sum()) / max(int(target.sum()), 1)
    sources, targets = (
        ceil(_drawn_share(*side).sum()) for side in ((source, of_sources), (into, share))
    )
    return MessageType(sources, targets, ceil(share * int(into.sum())))


def _chunk_types(
    degrees: list[tuple[int, Tensor, Tensor, float]], nodes: int, chunk: int
) -> tuple[MessageType, ...]:
    edges = torch.zeros(nodes, dtype=torch.int64)
    for offset, _, target, _ in degrees:
        edges[offset : offset + len(target)] += target
    start = chunk * int(torch.stack([part.sum() for part in edges.split(chunk)]).argmax())
    return tuple(
        _message_type(
            source, target, share, target[max(start - offset, 0) : max(start + chunk - offset, 0)]
        )
        for offset, source, target, share in degrees
    )


def _asked(graph: KnowledgeGraph, share: float, typed_only: bool) -> tuple[Asked, ...]:
    """Counts for ranking a share of each relation's facts. Of the two ends it takes the one with
    more scores.

    typed_only: candidates are the nodes of the right type; otherwise all nodes.
    """
    asked = []
    for edge_type, index in graph.edge_index.items():
        sides = [
            torch.bincount(side, minlength=max(graph.num_nodes[e] for e in edge_type[::2]))
            for side in index
        ]
        known = [sides[0] + sides[1]] * 2 if edge_type in graph.symmetric else sides
        for_side = []
        for degree, known_degree, wanted in zip(sides, known, edge_type[::-2], strict=True):
            chance, candidates = (
                _drawn_share(degree, share),
                graph.num_nodes[wanted] if typed_only else graph.total_nodes,
            )
            for_side.append(
                Asked(
                    int(share * index.shape[1]),
                    ceil(chance.sum()),
                    ceil((chance * known_degree).sum()),
                    candidates,
                )
            )
        asked.append(max(for_side, key=lambda side: side.nodes * side.candidates))
    return tuple(asked)
