"""The real training step on a fake Mac: `python -m tests.mps.fake_step <folder for the compiled
guard> <case> ...`

Prints one JSON object with the reports of what was traced, by case. The cases are the functions of
`CASES`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hgt.config import RunConfig
from hgt.evaluation.fact_index import FactIndex
from hgt.evaluation.ranking import sample_facts
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import TRAIN, EdgeSplit, split_facts
from hgt.messages.step_messages import DrawnEdges
from hgt.training.step import train_step
from hgt.training.trainee import Trainee, build_trainee
from hgt.training.val_metrics import evaluate_val
from tests.mps.fake_mac import FakeMac, Record, TraceEnded, Violation, compile_guard, install
from tests.mps.kernels import MAC_VERSION, installed_kernels, listed_kernels
from tests.mps.planted import HARMLESS, PLANTS, pyg_step
from tests.mps.primekg import primekg_sized

DEVICE = torch.device("mps")
# Nothing is held out, so that all 8.1 M message edges are there: more than any training on PrimeKG
# has.
WHOLE = {"val_fraction": 1e-9, "test_fraction": 1e-9}
SHORT = {"accumulation_steps": 1, "num_layers": 1}
VARIANTS = {
    "complex decoder, layers recomputed": {"decoder": "complex", "recompute_layers": True},
    "contrastive loss": {"contrastive_weight": 0.5, "dropout": 0.0, "input_dropout": 0.0},
}

Kernels = dict[str, frozenset[str]]
Report = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Built:
    """A trainee on the device, what it was built from, and what was found meanwhile."""

    mac: FakeMac
    graph: KnowledgeGraph
    split: EdgeSplit
    trainee: Trainee
    record: Record


def build(kernels: Kernels, graph: KnowledgeGraph, **values: Any) -> Built:
    config = RunConfig.from_flat(WHOLE | values)
    split = split_facts(graph, config.split)
    mac = FakeMac(kernels)
    with mac:
        trainee = build_trainee(config, graph, split, DEVICE)
    assert (trainee.batches.contrast is None) == (config.losses.contrastive_weight == 0), (
        "the loss is the configured one"
    )
    return Built(mac, graph, split, trainee, mac.record)


def trace(mac: FakeMac, steps: list[Callable[[], object]]) -> list[Record]:
    """Run each step and record it, as far as it goes."""
    records = []
    for step in steps:
        mac.record = Record()
        records.append(mac.record)
        with mac:
            if not _finishes(mac, step):
                break
    return records


def _finishes(mac: FakeMac, step: Callable[[], object]) -> bool:
    """What breaks a step off is a violation too."""
    try:
        step()
    except TraceEnded:
        return False
    except Exception as error:  # noqa: BLE001 (whatever a Mac might not do)
        mac.record.violations[
            Violation("error", "", _last_line(error), f"{type(error).__name__}: {error}"[:400])
        ] += 1
        return False
    return True


def _last_line(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


def trace_training(built: Built, num_steps: int = 3) -> list[Record]:
    """The first steps of a training. The very first makes the optimizer's state too; the last two
    have to be alike.
    """
    trainee = built.trainee
    trainee.model.train()
    batches = [trainee.batches.draw(0, i % trainee.batches.num_batches) for i in range(num_steps)]
    records = trace(built.mac, [functools.partial(train_step, trainee, batch) for batch in batches])
    if len(records) == num_steps > 1:
        records[-1].violations.update(difference(*records[-2:]))
    return records


def difference(one: Record, other: Record) -> list[Violation]:
    """The first place where two steps differ in operation or shapes."""
    for (a, where), (b, there) in zip(one.sequence, other.sequence, strict=False):
        if a != b:
            return [Violation("shapes differ", a[0], where, f"{a} and then, at {there}, {b}")]
    if len(one.sequence) != len(other.sequence):
        return [
            Violation(
                "shapes differ",
                "",
                "",
                f"{len(one.sequence)} operations and then {len(other.sequence)}",
            )
        ]
    return []


def report(records: list[Record]) -> Report:
    violations = sum((r.violations for r in records[1:]), records[0].violations)
    operations = sum((r.operations for r in records[1:]), records[0].operations)
    return {
        "violations": [dataclasses.asdict(v) | {"times": n} for v, n in violations.most_common()],
        "operations": dict(sorted(operations.items())),
        "calls": [len(r.sequence) for r in records],
        "copies_to_device": [r.copies_to_device for r in records],
    }


def primekg(kernels: Kernels) -> dict[str, Report]:
    """The full size and the default configuration."""
    return _whole_training(build(kernels, primekg_sized()))


def small_primekg(kernels: Kernels) -> dict[str, Report]:
    """A small size and the default configuration."""
    return _whole_training(build(kernels, _small()))


def _whole_training(built: Built) -> dict[str, Report]:
    """Building, three steps, and the validation that follows an epoch."""
    messages = built.trainee.messages
    facts = sample_facts(built.split.of(TRAIN), built.trainee.config.stopping.num_val_edges, seed=0)
    index = FactIndex(built.graph)
    return {
        "sizes": {"num_nodes": messages.num_nodes, "num_message_edges": messages.num_edges},
        "building": report([built.record]),
        "training": report(trace_training(built)),
        "validation": report(trace(built.mac, [lambda: evaluate_val(built.trainee, facts, index)])),
    }


def variants(kernels: Kernels) -> dict[str, Report]:
    """Small steps of other configurations."""
    return {
        name: report(trace_training(build(kernels, _small(), **SHORT, **values)))
        for name, values in VARIANTS.items()
    }


def drawn_edges(kernels: Kernels) -> dict[str, Report]:
    """A small size with message edges drawn for each step: steps, and the validation between them,
    which takes all edges.
    """
    built = build(kernels, _small(50), num_neighbors=4, **SHORT)
    source = built.trainee.batches.step_messages
    assert isinstance(source, DrawnEdges)
    facts, index = (
        sample_facts(built.split.of(TRAIN), built.trainee.config.stopping.num_val_edges, seed=0),
        FactIndex(built.graph),
    )
    return {
        "sizes": {
            "message_edges": built.trainee.messages.num_edges,
            "drawn_edges": source.sampling.layout.num_edges,
        },
        "building": report([built.record]),
        "training": report(trace_training(built)),
        "validation": report(trace(built.mac, [lambda: evaluate_val(built.trainee, facts, index)])),
    }


def plants(kernels: Kernels) -> dict[str, Report]:
    """A small step as it is, and with the plants in its backward pass: those of one call all in the
    same step, each recorded by itself.
    """
    built = build(kernels, _small(), **SHORT)
    reports = {"nothing": report(trace_training(built, 1))}
    first = next(built.trainee.model.parameters())
    alone = {name: plant.do for name, plant in PLANTS.items() if plant.kind == "shapes differ"}
    for name, do in alone.items():
        hook = first.register_hook(functools.partial(_call, do))
        reports[name] = report(trace_training(built, 2))
        hook.remove()
    together = {name: plant.do for name, plant in PLANTS.items() if name not in alone} | HARMLESS
    hook = first.register_hook(
        lambda grad: reports.update(
            {n: report([_aside(built.mac, do, grad)]) for n, do in together.items()}
        )
    )
    trace_training(built, 1)
    hook.remove()
    return reports


def _call(do: Callable[[Tensor], object], grad: Tensor) -> None:
    """A hook that leaves the gradient as it is."""
    do(grad)


def _aside(mac: FakeMac, do: Callable[[Tensor], object], grad: Tensor) -> Record:
    """What a plant does, as a part of the step that is going on."""
    step, mac.record = (
        mac.record,
        Record(sequence=mac.record.sequence, copies_to_device=mac.record.copies_to_device),
    )
    _finishes(mac, functools.partial(do, grad))
    aside, mac.record = mac.record, step
    return aside


def _small(shrink: int = 500) -> KnowledgeGraph:
    return primekg_sized(
        shrink, ("protein_protein", "disease_protein", "disease_phenotype_positive")
    )


def pyg(kernels: Kernels) -> dict[str, Report]:
    """PyG's layer at full size."""
    mac = FakeMac(kernels)
    with mac:
        step = pyg_step(primekg_sized(), DEVICE)
    return report(trace(mac, [step]))


def pyg_by_default(kernels: Kernels) -> dict[str, Report]:
    """PyG's layer, small, with `torch.set_default_device`, where it waits thousands of times."""
    mac = FakeMac(kernels)
    with DEVICE:
        with mac:
            step = pyg_step(primekg_sized(500), DEVICE)
        return report(trace(mac, [step]))


CASES = {
    "primekg": primekg,
    "small primekg": small_primekg,
    "variants": variants,
    "drawn edges": drawn_edges,
    "plants": plants,
    "pyg": pyg,
    "pyg by default": pyg_by_default,
}


def main(folder: Path, cases: list[str]) -> dict[str, dict[str, Report]]:
    torch.set_num_threads(1)
    installed = installed_kernels()
    install(compile_guard(folder), installed)
    kernels = {torch.__version__.split("+")[0]: installed, MAC_VERSION: listed_kernels()}
    return {case: CASES[case](kernels) for case in cases}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), sys.argv[2:]), indent=1))
