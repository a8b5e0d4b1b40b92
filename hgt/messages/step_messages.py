"""Where the messages of a step come from: all training edges, or a few drawn for the step.

In: the training facts, the parameter `num_neighbors` and a device. Out: for each batch the edges
that its messages pass along. The step, the batches and the memory plan ask here and nowhere else
whether edges are drawn. It does not know which facts a batch supervises: those are masked in the
step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import EdgeSplit
from hgt.messages.message_graph import GroupLimits, MessageGraph
from hgt.messages.neighbor_sampling import NeighborSampling
from hgt.messages.training_messages import training_message_graph


@runtime_checkable
class StepMessages(Protocol):
    """The source of the message edges of steps."""

    @property
    def all_edges(self) -> MessageGraph:
        """All training edges in both directions. Evaluation passes messages along these."""

    def draw(self, seed: int, epoch: int, batch: int) -> MessageGraph:
        """The edges of one step; the same for every call."""

    def on_device(self, edges: MessageGraph) -> MessageGraph:
        """What `draw` gave, as the step works on it."""


@dataclass(frozen=True)
class AllEdges:
    """Messages of every step pass along all training edges, which stay on the device."""

    all_edges: MessageGraph

    def draw(self, seed: int, epoch: int, batch: int) -> MessageGraph:
        return self.all_edges

    def on_device(self, edges: MessageGraph) -> MessageGraph:
        return edges


@dataclass(frozen=True)
class DrawnEdges:
    """Messages of a step pass along edges that are drawn for it.

    all_edges: on the CPU, to spare the device's memory between evaluations.
    """

    all_edges: MessageGraph
    sampling: NeighborSampling
    device: torch.device

    def draw(self, seed: int, epoch: int, batch: int) -> MessageGraph:
        return self.sampling.draw(seed, epoch, batch)

    def on_device(self, edges: MessageGraph) -> MessageGraph:
        """Without the facts that the edges belong to: these never leave the CPU."""
        return replace(edges, fact=None).to(self.device)


def step_messages(
    graph: KnowledgeGraph,
    split: EdgeSplit,
    num_neighbors: int | None,
    limits: GroupLimits,
    device: torch.device,
) -> StepMessages:
    """The source that the configuration asks for.

    num_neighbors: most edges of one type into a node in a step; None for all.
    limits: of the groups of edges that are worked on at a time.
    """
    all_edges = training_message_graph(graph, split, limits)
    if num_neighbors is None:
        return AllEdges(all_edges.to(device))
    sampling = NeighborSampling(all_edges, num_neighbors, limits).to(device)
    return DrawnEdges(all_edges, sampling, device)


def no_messages(graph: KnowledgeGraph) -> MessageGraph:
    """A message graph without edges, for models that pass no messages."""
    ranges = {t: (graph.type_range(t).start, graph.type_range(t).stop) for t in graph.node_types}
    return MessageGraph(ranges, (), (), torch.zeros(0, dtype=torch.int64))


def draws_edges(num_neighbors: int | None) -> bool:
    """Whether each step draws its edges. The memory plan asks before any are laid out."""
    return num_neighbors is not None


def num_step_edges(in_degrees: Tensor, num_neighbors: int | None) -> int:
    """Edges of one message edge type in a step.

    in_degrees: of the type's targets; they may be expected values.
    """
    most = math.inf if num_neighbors is None else num_neighbors
    return math.ceil(in_degrees.clamp(max=most).sum())
