"""A training step as a CUDA graph.

In: the inputs of a step. Out: its losses, from the same kernels in the same order, started by the
device instead of by Python. It does not know when recording pays: see `Steps`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from hgt.training.step import StepInputs, step_on_device
from hgt.training.trainee import Trainee


class RecordedStep:
    """A CUDA graph of `step_on_device`."""

    def __init__(self, trainee: Trainee, inputs: StepInputs):
        trainee.optimizer.zero_grad()
        torch.cuda.synchronize()
        # A recording takes memory of its own; what earlier steps freed would lie unused beside it.
        torch.cuda.empty_cache()
        self.inputs = inputs
        self.graph = torch.cuda.CUDAGraph()
        # thread_local: a thread draws the next batch meanwhile. With "global" its pinned memory
        # would make the recording fail.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.losses = step_on_device(trainee, inputs)

    def __call__(self, inputs: StepInputs) -> dict[str, Tensor]:
        for recorded, new in zip(_tensors(self.inputs), _tensors(inputs), strict=True):
            if new is not recorded:
                recorded.copy_(new)
        self.graph.replay()
        return {name: loss.clone() for name, loss in self.losses.items()}


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for element in value:
            yield from _tensors(element)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))
