"""A moving average of the weights (Polyak and Juditsky 1992), which is evaluated and kept.

In: a model after each step. Out: the average; training continues without it. It lives on the CPU,
so that it takes none of an accelerator's memory, and reads the weights every few steps only. It
knows no loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_EVERY = 10  # steps between two readings; an accelerator's weights are copied to the host for each


class WeightAverage:
    """A pure function of the weights at numbered steps: loaded again, it continues exactly.

    tensors: {parameter's name: its average}, on the CPU. Before the first step it equals the
        weights.
    """

    def __init__(self, model: nn.Module, decay: float, steps_per_epoch: int):
        """decay: per step, between 0 and 1; at most (1 + step) / (10 + step) in the first steps."""
        parameters = dict(model.named_parameters())
        assert model.state_dict().keys() == parameters.keys(), "only parameters are averaged"
        self.model, self.decay, self.steps_per_epoch = model, decay, steps_per_epoch
        self.tensors = {
            n: weights.detach().to("cpu", copy=True) for n, weights in parameters.items()
        }

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """To be called after each step. step: its number in the run, counted from 1."""
        if not self._looks(step):
            return
        passed = next(n for n in range(1, step + 1) if n == step or self._looks(step - n))
        decay = 0.0 if passed == step else min(self.decay, (1 + step) / (10 + step)) ** passed
        weights = [parameter.detach().cpu() for parameter in self.model.parameters()]
        torch._foreach_lerp_(list(self.tensors.values()), weights, 1 - decay)

    def _looks(self, step: int) -> bool:
        """At each of the first steps, then at every tenth of an epoch and at its last.

        The last, as the average is evaluated at the end of an epoch.
        """
        in_epoch = (step - 1) % self.steps_per_epoch + 1
        return step <= _EVERY or in_epoch % _EVERY == 0 or in_epoch == self.steps_per_epoch

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """Within it the model has the average, and `tensors` the weights that training changes."""
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
        """Continues from an average that was saved. tensors: what `tensors` held then."""
        for name, average in self.tensors.items():
            average.copy_(tensors[name])
