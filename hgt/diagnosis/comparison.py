"""Compares two devices: the real training step on both, from the same seed and batches.

It runs at production sizes, then with other shapes, then in memory that was filled with NaN and
huge numbers before. In: two devices. Out: a `Comparison`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hgt.device.out_of_memory import translating_out_of_memory
from hgt.diagnosis.difference import Difference, relative, relative_difference
from hgt.diagnosis.first_steps import Step, StepResult, run_steps
from hgt.diagnosis.workload import Workload, synthetic_graph
from hgt.errors import DeviceRefused
from hgt.seeds import Stream, torch_seed
from hgt.training.step import train_step

Say = Callable[[str], None]
# rows of a plain product: beyond 32,767 and no multiple of a kernel's tile
ROWS_OF_PLAIN_PRODUCT = 40_003


@dataclass(frozen=True)
class Comparison:
    """The differences between two devices.

    seconds: {device: seconds per step}, after the first steps.
    plain_product: relative difference of one product over 40,003 rows, for information.
    """

    differences: tuple[Difference, ...]
    seconds: dict[str, float]
    plain_product: float

    @property
    def first_wrong(self) -> Difference | None:
        """The first wrong quantity in the order of the step. Later ones may be its consequences."""
        return next((d for d in self.differences if not d.agrees), None)

    def table(self) -> str:
        lines = [
            f"{'case':<14} {'quantity':<24} {'difference':>10} {'tolerance':>10}  {'verdict':<8}"
            " largest in"
        ]
        for d in self.differences:
            verdict = "same" if d.agrees else "WRONG"
            lines.append(
                f"{d.case:<14} {d.quantity:<24} {d.value:>10.1e} {d.tolerance:>10.0e}  {verdict:<8}"
                f" {d.where}".rstrip()
            )
        return "\n".join(
            [
                *lines,
                "seconds per step: "
                + ", ".join(f"{device} {s:.2f}" for device, s in self.seconds.items()),
            ]
        )


def compare_devices(
    reference: torch.device,
    device: torch.device,
    say: Say,
    workload: Workload | None = None,
    device_step: Step | None = None,
) -> Comparison:
    """Run the step on both devices, in three cases.

    say: receives one sentence about the progress.
    device_step: the device's function for a step; None for the trainer's, which records the second
        step on CUDA and replays it.

    Raises DeviceRefused where the step fails, OutOfMemory where memory is too small.
    """
    workload = workload or Workload()
    config = workload.config()
    graphs = [synthetic_graph(*workload.first, seed=1), synthetic_graph(*workload.other, seed=2)]
    expected = []
    for graph, name in zip(graphs, ("first shapes", "other shapes"), strict=True):
        say(
            f"{name}: {graph.total_nodes:,} nodes, {graph.total_facts:,} facts; three steps on"
            f" {reference} ..."
        )
        with translating_out_of_memory(reference.type, "step"):
            expected.append(run_steps(config, graph, reference, train_step))
    differences: list[Difference] = []
    for name, i in (("first shapes", 0), ("other shapes", 1), ("dirty memory", 0)):
        say(f"{name}: three steps on {device} ...")
        try:
            with translating_out_of_memory(device.type, "step"):
                if name == "dirty memory":
                    dirty_memory(device)
                found = run_steps(config, graphs[i], device, device_step)
        except RuntimeError as error:
            raise DeviceRefused(
                f"{device} is refused: the training step fails in case '{name}':"
                f" {str(error).splitlines()[0]}"
            ) from error
        differences += differences_of(name, expected[i], found)
    seconds = {f"{reference} (reference)": expected[0].seconds, str(device): found.seconds}
    return Comparison(tuple(differences), seconds, plain_product_difference(reference, device))


def differences_of(case: str, expected: StepResult, found: StepResult) -> list[Difference]:
    """The largest difference of each quantity."""
    names = expected.gradients.keys() | found.gradients.keys()
    gradients = {
        n: _difference_of(found.gradients.get(n), expected.gradients.get(n)) for n in sorted(names)
    }
    return [
        Difference(case, "embeddings", relative_difference(found.embeddings, expected.embeddings)),
        _largest(
            case,
            "losses",
            {n: relative(found.losses[n], value) for n, value in expected.losses.items()},
        ),
        _largest(case, "gradients", gradients),
        _largest(case, "Adam's step", found.update_error),
        _largest(
            case,
            "losses of the next step",
            {n: relative(found.next_losses[n], value) for n, value in expected.next_losses.items()},
        ),
        _largest(
            case,
            "losses of the third step",
            {
                n: relative(found.third_losses[n], value)
                for n, value in expected.third_losses.items()
            },
        ),
    ]


def _largest(case: str, quantity: str, values: dict[str, float]) -> Difference:
    where = max(values, key=lambda name: np.nan_to_num(values[name], nan=np.inf))
    return Difference(case, quantity, values[where], where if values[where] else "")


def _difference_of(found: Tensor | None, expected: Tensor | None) -> float:
    return (
        float("inf") if found is None or expected is None else relative_difference(found, expected)
    )


def dirty_memory(device: torch.device) -> None:
    """Fill half a GiB with NaN and huge numbers and free it. Code that reads memory before it
    writes it then shows.
    """
    values = (float("nan"), 1e30, -1e30, float("nan"))
    blocks = [
        torch.full((1 << size,), value, device=device) for size in range(6, 25) for value in values
    ]
    del blocks


def plain_product_difference(reference: torch.device, device: torch.device) -> float:
    """Relative difference of one matrix product over more rows than MPS can reduce on M1 and M2. It
    shows whether torch has the defect here.
    """
    draws = torch.Generator().manual_seed(torch_seed(0, Stream.EXAMINED_PRODUCT))
    left, right = (torch.randn(ROWS_OF_PLAIN_PRODUCT, 64, generator=draws) for _ in range(2))
    product = left.to(device).T @ right.to(device)
    return relative_difference(product.cpu(), (left.to(reference).T @ right.to(reference)).cpu())
