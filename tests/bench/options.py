"""What the options that trade cost and bring: time and memory of a step, and validation MRR after
the same number of epochs.

    python -m tests.bench.options --kg FILE [--device cuda] [--num-epochs 30] [--seeds 0 1]

Each variant is trained from the same beginning in a process of its own. Quality is the typed
filtered MRR of held-out facts, mean over the seeds with the largest distance from it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from hgt.device.limits import prepare_device
from hgt.evaluation.fact_index import FactIndex
from hgt.evaluation.ranking import sample_facts
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import VAL, split_facts
from hgt.reading.edge_table import read_edge_table
from hgt.training.steps import Steps
from hgt.training.trainee import build_trainee
from hgt.training.val_metrics import evaluate_val
from tests.bench.harness import (
    bench_config,
    header,
    measure_in_child,
    peak_bytes,
    reset_peak,
    synchronize,
)

VARIANTS: dict[str, dict] = {
    "default": {},
    "recompute_layers": {"recompute_layers": True},
    "mixed_precision": {"mixed_precision": True},
    "num_neighbors 32": {"num_neighbors": 32},
    "num_neighbors 16": {"num_neighbors": 16},
    "num_neighbors 8": {"num_neighbors": 8},
}


def measure(kg: str, variant: str, device_type: str, num_epochs: int, seed: int) -> dict:
    """{step_seconds, bytes, mrr}; the time of a step without drawing batches."""
    config = bench_config(seed=seed, **VARIANTS[variant])
    graph = KnowledgeGraph.from_edge_table(read_edge_table(Path(kg)), config.graph)
    split = split_facts(graph, config.split)
    device = prepare_device(device_type)
    trainee = build_trainee(config, graph, split, device)
    facts, index = sample_facts(split.of(VAL), 5_000, 0), FactIndex(graph)
    reset_peak(device_type)
    times, best, peak = [], 0.0, 0
    for epoch in range(num_epochs):
        trainee.model.train()
        steps = Steps(trainee, epoch)
        for number in range(trainee.batches.num_batches):
            batch = trainee.batches.draw(epoch, number)
            torch.manual_seed((seed * 1_000_003 + epoch) * 1_000_003 + number)
            synchronize(device_type)
            start = time.perf_counter()
            steps(batch)
            synchronize(device_type)
            times.append(time.perf_counter() - start)
        peak = peak or peak_bytes(device_type)  # before any validation
        del steps
        if (epoch + 1) % 5 == 0 or epoch + 1 == num_epochs:
            best = max(best, evaluate_val(trainee, facts, index).mrr)
    return {"step_seconds": statistics.median(times), "bytes": peak, "mrr": best}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kg", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num-epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(
            json.dumps(
                measure(
                    options.kg,
                    options.one[0],
                    options.device,
                    options.num_epochs,
                    int(options.one[1]),
                )
            )
        )
        return
    print(header(options.device))
    print(
        f"{'':<20}{'s / step':>10}{'GB':>8}{'MRR':>9}{'+-':>8}"
        f"{'x time':>9}{'x memory':>10}{'x MRR':>8}"
    )
    first: dict[str, float] = {}
    arguments = [
        "--kg",
        options.kg,
        "--device",
        options.device,
        "--num-epochs",
        str(options.num_epochs),
    ]
    for variant in options.variants:
        found = [
            measure_in_child("tests.bench.options", [*arguments, "--one", variant, str(seed)])
            for seed in options.seeds
        ]
        mean = {name: statistics.mean(f[name] for f in found) for name in found[0]}
        first = first or mean
        spread = max(abs(f["mrr"] - mean["mrr"]) for f in found)
        ratios = [mean[name] / first[name] for name in ("step_seconds", "bytes", "mrr")]
        figures = f"{mean['step_seconds']:>10.3f}{mean['bytes'] / 1e9:>8.2f}"
        figures += f"{mean['mrr']:>9.4f}{spread:>8.4f}"
        print(
            f"{variant:<20}{figures}{ratios[0]:>9.2f}{ratios[1]:>10.2f}{ratios[2]:>8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
