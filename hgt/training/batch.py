"""What one optimizer step supervises, as tensors.

In: drawn facts, negatives and filters. Out: a `Batch` of micro-batches. It does not know how they
were drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hgt.messages.message_graph import MessageGraph


@dataclass(frozen=True)
class MicroBatch:
    """A part of a batch. Shapes are those of the run's `Layout`.

    nodes: global numbers of the nodes whose embeddings it needs. 32 bits, as the pools come with
        every micro-batch.
    weight: 1 / (facts in the batch); 0 for padding.
    relation: of each fact.
    head_order: the facts sorted by their heads' types.
    tail_known, head_known: True for sampled nodes that do not count as negatives: they would make a
        true fact, or the place holds no node.
    anchor_weight: 1 / (anchors in the batch); 0 for padding.
    anchor_known: True for nodes of the contrastive pool that are the anchor or alike to it.
    """

    nodes: Int[Tensor, " num_rows"]
    weight: Float[Tensor, " num_facts"]
    relation: Int[Tensor, " num_facts"]
    head_order: Int[Tensor, " num_facts"]
    tail_known: Bool[Tensor, "num_facts width"]
    head_known: Bool[Tensor, "num_facts width"]
    anchor_weight: Float[Tensor, " num_anchors"]
    anchor_known: Bool[Tensor, "num_anchors contrast_pool"]

    def to(self, device: torch.device, non_blocking: bool = False) -> MicroBatch:
        moved = {n: t.to(device, non_blocking=non_blocking) for n, t in vars(self).items()}
        return MicroBatch(**moved)

    def pinned(self) -> MicroBatch:
        """In memory that CUDA copies from without the host's help."""
        return MicroBatch(**{name: tensor.pin_memory() for name, tensor in vars(self).items()})


@dataclass(frozen=True)
class Batch:
    """What one optimizer step works on.

    supervised: numbers of its training facts, padded with `num_train` to a fixed length.
    silent: numbers of the facts whose messages are masked: the supervised ones, their mirrors,
        their siblings in a holdout split, and what edge dropout leaves out.
    micro_batches: its parts.
    number: how many batches of the run come before it.
    messages: the edges that its messages pass along, as `StepMessages.draw` gives them.
    """

    supervised: Int[Tensor, " _"]
    silent: Int[Tensor, " _"]
    micro_batches: list[MicroBatch]
    number: int
    messages: MessageGraph
