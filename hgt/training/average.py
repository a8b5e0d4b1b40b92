"""A moving average of the weights (Polyak and Juditsky 1992): what is evaluated and kept, while training goes on without it.

It lives on the CPU, so that it takes nothing of an accelerator's memory, and looks at the weights every few steps only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_EVERY = 10  # steps between two looks at the weights; an accelerator's are copied to the host for one


class WeightAverage:
    """tensors: the average by the model's names of parameters, on the CPU; equal to the weights before the first step.

    A pure function of the weights at numbered steps: loaded again, it goes on exactly.
    """

    def __init__(self, model: nn.Module, decay: float, steps_per_epoch: int):
        """decay: per step, above 0 and below 1; smaller in the first steps, (1 + step) / (10 + step)."""
        assert model.state_dict().keys() == dict(model.named_parameters()).keys(), "only parameters are averaged"
        self.model, self.decay, self.steps_per_epoch = model, decay, steps_per_epoch
        self.tensors = {name: weights.detach().to("cpu", copy=True) for name, weights in model.named_parameters()}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Called after each step with its number in the run, counted from 1."""
        if not self._looks(step):
            return
        passed = next(n for n in range(1, step + 1) if n == step or self._looks(step - n))
        decay = 0.0 if passed == step else min(self.decay, (1 + step) / (10 + step)) ** passed
        weights = [parameter.detach().cpu() for parameter in self.model.parameters()]
        torch._foreach_lerp_(list(self.tensors.values()), weights, 1 - decay)

    def _looks(self, step: int) -> bool:
        """At each of the first steps, then at every tenth of an epoch and at its last, as that is when the average is asked for."""
        in_epoch = (step - 1) % self.steps_per_epoch + 1
        return step <= _EVERY or in_epoch % _EVERY == 0 or in_epoch == self.steps_per_epoch

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """Within it the model holds the average, and `tensors` the weights that training goes on with."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self.model.named_parameters():
            average = self.tensors[name]
            if parameter.device.type == "cpu":
                self.tensors[name], parameter.data = parameter.data, average
            else:
                self.tensors[name] = parameter.detach().cpu()
                parameter.copy_(average)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """What `tensors` once held."""
        for name, average in self.tensors.items():
            average.copy_(tensors[name])
