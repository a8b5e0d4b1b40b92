"""One optimizer step: what a batch brings to the device, and the step itself.

In: a trainee and a batch. Out: losses, and changed weights. The same code runs on every device:
shapes are the same from step to step, and nothing in it waits for the host. So CUDA can record a
step once and replay it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hgt.messages.message_graph import MessageGraph
from hgt.training.batch import Batch, MicroBatch
from hgt.training.loss_gradient import gradient_of_losses
from hgt.training.optimizer import update
from hgt.training.trainee import Trainee


@dataclass(frozen=True)
class StepInputs:
    """What a batch brings to the device. Same shapes from batch to batch.

    removed: [num_edges] True for the edges of `messages` that are masked.
    seeds: of dropout.
    """

    micro_batches: tuple[MicroBatch, ...]
    messages: MessageGraph
    removed: Tensor
    seeds: Tensor


def step_inputs(trainee: Trainee, batch: Batch) -> StepInputs:
    """Brings all of a batch to the device before the step's first operation.

    On MPS a copy amid the step would wait for everything before it. So copies come first, and the
    edges to mask, which are looked up on the device, last.
    """
    device, pins = trainee.device, trainee.batches.pins
    messages = trainee.batches.step_messages.on_device(batch.messages)
    micro_batches = tuple(m.to(device, non_blocking=pins) for m in batch.micro_batches)
    seeds = trainee.model.encoder.draw_seeds()
    if pins:
        seeds = seeds.pin_memory()  # or the copy would wait for the step before
    seeds = seeds.to(device, non_blocking=pins)
    return StepInputs(micro_batches, messages, removed_edges(trainee, batch), seeds)


def removed_edges(trainee: Trainee, batch: Batch) -> Tensor:
    """[num_edges] True for the batch's message edges of its silent facts, in both directions.

    On the device.
    """
    pins = trainee.batches.pins
    removed = torch.zeros(trainee.batches.num_train + 1, dtype=torch.bool, pin_memory=pins)
    removed[batch.silent] = True
    fact = batch.messages.fact
    assert fact is not None, "the training message graph knows its facts"
    removed = removed.to(fact.device, non_blocking=pins)  # drawn edges' facts never leave the CPU
    return removed.index_select(0, fact).to(trainee.device)


def train_step(trainee: Trainee, batch: Batch) -> dict[str, Tensor]:
    """One optimizer step: a forward pass, the gradients of all micro-batches, one backward pass.

    Returns scalars on the device: the batch's losses ("total", "link", "contrastive", "isotropy")
    and the norm of its gradient ("grad_norm").
    """
    return step_on_device(trainee, step_inputs(trainee, batch))


def step_on_device(trainee: Trainee, inputs: StepInputs) -> dict[str, Tensor]:
    """`train_step` without its copies from the host: fixed shapes, no host synchronisation."""
    model = trainee.model
    # Frees the previous step's gradients before the forward pass allocates.
    trainee.optimizer.zero_grad()
    hidden = model.encoder.hidden(
        inputs.messages, inputs.removed, spend_gradient=True, seeds=inputs.seeds
    )
    # The backward pass needs this edge only, not the node-sized values.
    backward_edge = torch.autograd.graph.get_gradient_edge(hidden)
    grad, losses = gradient_of_losses(trainee, inputs.micro_batches, hidden.detach())
    del hidden
    torch.autograd.backward((backward_edge,), (grad,))
    losses["grad_norm"] = nn.utils.clip_grad_norm_(
        model.parameters(), trainee.config.optimizer.max_grad_norm
    )
    update(model, trainee.optimizer, trainee.config.optimizer)
    return losses
