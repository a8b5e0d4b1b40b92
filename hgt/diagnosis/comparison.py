"""Does a device compute what another computes? The real training step on both, from the same seed
and batch.

At production sizes, again with other shapes, and again in memory that was filled with NaN and huge
numbers before. In: two devices.
Out: a `Comparison`. Knows nothing of the step's inside: only `build_trainee`, `train_step` and
`encode`.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hgt.config import RunConfig
from hgt.device.out_of_memory import translating_out_of_memory
from hgt.errors import DeviceRefused
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import split_facts
from hgt.seeds import Stream, generator, torch_seed
from hgt.training.batch import Batch
from hgt.training.optimizer import adam, update
from hgt.training.step import train_step
from hgt.training.steps import Steps
from hgt.training.trainee import Trainee, build_trainee

Say = Callable[[str], None]
Step = Callable[[Trainee, Batch], Mapping[str, Tensor]]

# Largest differences, relative to the norm of what is compared: ten times and more what rounding
# alone gave at these sizes. Measured with torch 2.13 on the CPU, float32 against float64 (and other
# orders of summation, always less), and with 2.11 on an H100 against its CPU, our two formulations:
# embeddings 4.5e-7 and 5.5e-7, losses 1.5e-7 and 2.9e-7, gradients 4.3e-6 and 9.2e-6. MPS's defect
# of long products, emulated, gives 3e-2 in gradients; users report 0.1 and more (pytorch 193487).
TOLERANCES = {
    "embeddings": 1e-5,
    "losses": 1e-5,
    "gradients": 1e-4,
    # the CPU's other implementations 1.2e-6, the H100's at most 2.4e-4: parameters are rounded
    # after it
    "Adam's step": 1e-3,
    "losses of the next step": 1e-5,
    # where a gradient is near 0, two devices' steps of Adam may go apart
    "losses of the third step": 1e-4,
}
# rows of a plain product: beyond 32,767 and no multiple of a kernel's tile
ROWS_OF_PLAIN_PRODUCT = 40_003


@dataclass(frozen=True)
class Workload:
    """first, other: numbers of genes, diseases and drugs of two graphs; parameters: what differs
    from a run's defaults.

    Genes outnumber 32,767, from where on MPS's products are wrong on M1 and M2 (pytorch 177116).
    """

    first: tuple[int, int, int] = (34_000, 3_000, 1_500)
    other: tuple[int, int, int] = (36_500, 2_400, 2_000)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def config(self) -> RunConfig:
        # No clipping: torch's norm of a large float32 tensor is off by 5e-4 on the CPU, and would
        # scale every gradient.
        return RunConfig.from_flat(
            {"max_grad_norm": 1e9, "contrastive_weight": 0.5} | dict(self.parameters)
        )


@dataclass(frozen=True)
class Difference:
    """value: relative to the norm; where: the parameter or loss that differs most."""

    case: str
    quantity: str
    value: float
    where: str = ""

    @property
    def tolerance(self) -> float:
        return TOLERANCES[self.quantity]

    @property
    def agrees(self) -> bool:
        return self.value <= self.tolerance  # NaN does not


@dataclass(frozen=True)
class Comparison:
    """seconds: {device: a step's, once warm}; plain_product: the difference of one product over
    40,003 rows, for information.
    """

    differences: tuple[Difference, ...]
    seconds: dict[str, float]
    plain_product: float

    @property
    def first_wrong(self) -> Difference | None:
        """What went wrong first, in the order of the step: what follows may only be its
        consequence.
        """
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
    """The step on both devices, in three cases. Raises DeviceRefused where it cannot be run,
    OutOfMemory where there is too little.

    device_step: what the device does; without it what the trainer does there, which on CUDA records
        the second step and replays it
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


@dataclass(frozen=True)
class StepResult:
    """Of three steps, on the CPU. update_error: {parameter: how far Adam's step is from that of the
    CPU's Adam, relative to it}.
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
    """A new model's embeddings and its first three steps, the trainer's own when none is given."""
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
    """Without the gradient's norm: the gradients are compared themselves."""
    return {name: value.item() for name, value in losses.items() if name != "grad_norm"}


def update_errors(
    trainee: Trainee, before: dict[str, Tensor], gradients: dict[str, Tensor]
) -> dict[str, float]:
    """Each parameter's step, against the same optimizer's on the CPU given the device's own
    gradients.

    Steps from two gradients cannot be compared: where a gradient is near 0, Adam makes a whole step
    of its rounding error.
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


def differences_of(case: str, expected: StepResult, found: StepResult) -> list[Difference]:
    """One line per quantity: its largest difference."""
    names = expected.gradients.keys() | found.gradients.keys()
    gradients = {
        n: _difference_of(found.gradients.get(n), expected.gradients.get(n)) for n in sorted(names)
    }
    return [
        Difference(case, "embeddings", relative_difference(found.embeddings, expected.embeddings)),
        _largest(
            case,
            "losses",
            {n: _relative(found.losses[n], value) for n, value in expected.losses.items()},
        ),
        _largest(case, "gradients", gradients),
        _largest(case, "Adam's step", found.update_error),
        _largest(
            case,
            "losses of the next step",
            {
                n: _relative(found.next_losses[n], value)
                for n, value in expected.next_losses.items()
            },
        ),
        _largest(
            case,
            "losses of the third step",
            {
                n: _relative(found.third_losses[n], value)
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


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|, in double precision; NaN where anything is."""
    norm = float(torch.linalg.vector_norm(expected, dtype=torch.float64))
    return _over(float(torch.linalg.vector_norm(found.double() - expected.double())), norm)


def _relative(found: float, expected: float) -> float:
    return _over(abs(found - expected), abs(expected))


def _over(difference: float, norm: float) -> float:
    return difference / norm if norm else (0.0 if difference == 0 else float("inf"))


def dirty_memory(device: torch.device) -> None:
    """Fill half a GiB with NaN and huge numbers and let it go, so that whoever reads memory before
    writing it shows.
    """
    values = (float("nan"), 1e30, -1e30, float("nan"))
    blocks = [
        torch.full((1 << size,), value, device=device) for size in range(6, 25) for value in values
    ]
    del blocks


def plain_product_difference(reference: torch.device, device: torch.device) -> float:
    """One matrix product that reduces over more rows than MPS can on M1 and M2: shows whether torch
    has the defect here.
    """
    draws = torch.Generator().manual_seed(torch_seed(0, Stream.EXAMINED_PRODUCT))
    left, right = (torch.randn(ROWS_OF_PLAIN_PRODUCT, 64, generator=draws) for _ in range(2))
    product = left.to(device).T @ right.to(device)
    return relative_difference(product.cpu(), (left.to(reference).T @ right.to(reference)).cpu())


def synthetic_graph(num_genes: int, num_diseases: int, num_drugs: int, seed: int) -> KnowledgeGraph:
    """Every gene has an edge to another (so one relation alone has all of them on both sides); some
    diseases and drugs are hubs.
    """
    rng = generator(seed, Stream.EXAMINED_GRAPH)
    sizes = {"gene/protein": num_genes, "disease": num_diseases, "drug": num_drugs}
    ids = {name: np.arange(n).astype(str).astype(object) for name, n in sizes.items()}

    def uneven(n: int, size: int) -> np.ndarray:
        return np.asarray((n * rng.random(size) ** 3).astype(np.int64))

    diseases = rng.integers(num_diseases, size=num_genes // 3)
    # ten diseases share 40 genes: some are alike
    partners = (diseases // 10 * 40 + rng.integers(40, size=len(diseases))) % num_genes
    pairs = {
        ("gene/protein", "protein_protein", "gene/protein"): (
            np.arange(num_genes),
            rng.permutation(num_genes),
        ),
        ("disease", "disease_protein", "gene/protein"): (diseases, partners),
        ("drug", "drug_protein", "gene/protein"): (
            rng.integers(num_drugs, size=num_genes // 4),
            uneven(num_genes, num_genes // 4),
        ),
        ("drug", "indication", "disease"): (
            uneven(num_drugs, 3 * num_drugs),
            rng.integers(num_diseases, size=3 * num_drugs),
        ),
        ("drug", "contraindication", "disease"): (
            rng.integers(num_drugs, size=num_drugs),
            uneven(num_diseases, num_drugs),
        ),
    }
    symmetric = next(iter(pairs))
    edges = {e: _distinct(*ends, unordered=e == symmetric) for e, ends in pairs.items()}
    return KnowledgeGraph(ids, ids, edges, frozenset([symmetric]))


def _distinct(head: np.ndarray, tail: np.ndarray, unordered: bool) -> Tensor:
    pairs = np.stack([head, tail])
    if unordered:
        pairs = np.sort(pairs[:, head != tail], axis=0)
    return torch.from_numpy(np.unique(pairs, axis=1))
