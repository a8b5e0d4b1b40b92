"""The first three training steps of a new model on one device.

In: a configuration, a graph and a device. Out: a `StepResult` on the CPU. Knows nothing of the
inside of a step.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hgt.config import RunConfig
from hgt.diagnosis.difference import relative_difference
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import split_facts
from hgt.training.batch import Batch
from hgt.training.optimizer import adam, update
from hgt.training.steps import Steps
from hgt.training.trainee import Trainee, build_trainee

Step = Callable[[Trainee, Batch], Mapping[str, Tensor]]


@dataclass(frozen=True)
class StepResult:
    """Results of three steps, on the CPU.

    embeddings: [num_nodes, dim] before the first step.
    losses, next_losses, third_losses: losses of the three steps.
    gradients: {parameter: gradient} of the first step.
    update_error: {parameter: relative difference between Adam's first step on the device and on the
        CPU}.
    seconds: time of the third step.
    """

    embeddings: Tensor
    losses: dict[str, float]
    gradients: dict[str, Tensor]
    update_error: dict[str, float]
    next_losses: dict[str, float]
    third_losses: dict[str, float]
    seconds: float


def run_steps(
    config: RunConfig, graph: KnowledgeGraph, device: torch.device, given_step: Step | None = None
) -> StepResult:
    """The embeddings of a new model, and its first three steps.

    given_step: the function for a step; None for the trainer's own.
    """
    trainee = build_trainee(config, graph, split_facts(graph, config.split), device)
    step = Steps(trainee) if given_step is None else functools.partial(given_step, trainee)
    model, draw = trainee.model, trainee.batches.draw
    model.eval()
    with torch.no_grad():
        embeddings = model.encoder.encode(trainee.messages.to(device)).cpu()
    model.train()
    before = {name: p.detach().cpu().clone() for name, p in model.named_parameters()}
    losses = _numbers(step(draw(0, 0)))
    gradients = {
        name: p.grad.cpu().clone() for name, p in model.named_parameters() if p.grad is not None
    }
    errors = update_errors(trainee, before, gradients)
    next_losses = _numbers(step(draw(0, 1)))  # reading the numbers waits for the device
    started = time.monotonic()
    third_losses = _numbers(step(draw(0, 2)))
    return StepResult(
        embeddings, losses, gradients, errors, next_losses, third_losses, time.monotonic() - started
    )


def _numbers(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """The losses as numbers, without the norm of the gradient: the gradients are compared
    themselves.
    """
    return {name: value.item() for name, value in losses.items() if name != "grad_norm"}


def update_errors(
    trainee: Trainee, before: dict[str, Tensor], gradients: dict[str, Tensor]
) -> dict[str, float]:
    """{parameter: relative difference between the device's step and the step of the CPU's
    optimizer}. Both use the device's gradients.

    Steps from different gradients cannot be compared. Where a gradient is near 0, Adam turns its
    rounding error into a whole step.
    """
    after = {name: parameter.detach().cpu() for name, parameter in trainee.model.named_parameters()}
    again, cpu = copy.deepcopy(trainee.model).to("cpu"), torch.device("cpu")
    for name, parameter in again.named_parameters():
        parameter.data.copy_(before[name])
        parameter.grad = gradients.get(name)
    update(again, adam(again, trainee.config.optimizer, cpu), trainee.config.optimizer)
    return {
        n: relative_difference(after[n] - before[n], p.detach() - before[n])
        for n, p in again.named_parameters()
        if n in gradients
    }
