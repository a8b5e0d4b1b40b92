"""The edges that pass messages in a step: all training edges, or a few drawn for the step.

In: the training facts, the parameter `num_neighbors` and a device. Out: the message edges of each
batch. Only this module knows whether edges are drawn; the step, the batches and the memory plan
ask it. It does not know the facts that a batch supervises. The step masks those.
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
    """The source of the message edges of each step."""

    @property
    def all_edges(self) -> MessageGraph:
        """All training edges in both directions. Evaluation passes messages along these."""

    def draw(self, seed: int, epoch: int, batch: int) -> MessageGraph:
        """The edges of one step; the same for every call."""

    def on_device(self, edges: MessageGraph) -> MessageGraph:
        """The edges from `draw`, on the step's device."""


@dataclass(frozen=True)
class AllEdges:
    """Each step passes messages along all training edges. They stay on the device."""

    all_edges: MessageGraph

    def draw(self, seed: int, epoch: int, batch: int) -> MessageGraph:
        return self.all_edges

    def on_device(self, edges: MessageGraph) -> MessageGraph:
        return edges


@dataclass(frozen=True)
class DrawnEdges:
    """Each step passes messages along edges that are drawn for it.

    all_edges: on the CPU, to save device memory between evaluations.
    """

    all_edges: MessageGraph
    sampling: NeighborSampling
    device: torch.device

    def draw(self, seed: int, epoch: int, batch: int) -> MessageGraph:
        return self.sampling.draw(seed, epoch, batch)

    def on_device(self, edges: MessageGraph) -> MessageGraph:
        """The edges on the device, without their facts. These stay on the CPU."""
        return replace(edges, fact=None).to(self.device)


def step_messages(
    graph: KnowledgeGraph,
    split: EdgeSplit,
    num_neighbors: int | None,
    limits: GroupLimits,
    device: torch.device,
) -> StepMessages:
    """The source of edges that the configuration chooses.

    num_neighbors: most edges of one type into a node in a step; None for all edges.
    limits: largest size of a group of edges.
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
    """Whether each step draws its edges. The memory plan needs to know before any edges exist."""
    return num_neighbors is not None


def num_step_edges(in_degrees: Tensor, num_neighbors: int | None) -> int:
    """Number of edges of one message edge type in a step.

    in_degrees: degrees of the type's targets; they may be expected values.
    """
    most = math.inf if num_neighbors is None else num_neighbors
    return math.ceil(in_degrees.clamp(max=most).sum())
