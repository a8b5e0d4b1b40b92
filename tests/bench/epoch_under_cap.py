"""Benchmark 2: a whole epoch at PrimeKG's size on an accelerator under a hard memory cap, and the
step's peak.

python -m tests.bench.epoch_under_cap [--device cuda] [--size 129375/4050249] [--cap 10GB]
[--max-batches N]
"""

from __future__ import annotations

import argparse
import time

import torch

from hgt.config import parse_bytes
from hgt.device.limits import prepare_device
from hgt.device.memory_use import peak_memory
from hgt.device.probe import probe_device
from hgt.graph.split import split_facts
from hgt.memory.plan import plan_memory
from hgt.training.steps import Steps
from hgt.training.trainee import build_trainee
from tests.bench.graphs import primekg_like
from tests.bench.harness import bench_config, header, nodes_and_facts, synchronize


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", default="129375/4050249", help="nodes/facts")
    parser.add_argument(
        "--cap", default="10GB", help="set_per_process_memory_fraction; planned for as well"
    )
    parser.add_argument("--max-batches", type=int)
    options = parser.parse_args()
    graph, config = primekg_like(*nodes_and_facts(options.size)), bench_config()
    cap = parse_bytes(options.cap)
    probe = probe_device(options.device, cap)
    plan = plan_memory(graph, config, probe)
    device = prepare_device(options.device, cap)
    print(header(options.device))
    print(plan.table())
    trainee = build_trainee(config, graph, split_facts(graph, config.split), device, plan.form)
    trainee.model.train()
    num_batches = min(
        trainee.batches.num_batches, options.max_batches or trainee.batches.num_batches
    )
    steps, losses, drawing, start = Steps(trainee), [], 0.0, time.perf_counter()
    for number in range(num_batches):
        before = time.perf_counter()
        batch = trainee.batches.draw(0, number)
        drawing += time.perf_counter() - before
        losses.append(steps(batch)["total"])
    synchronize(options.device)
    taken = time.perf_counter() - start
    peak = peak_memory(options.device)
    first, last = (float(torch.stack(part).mean()) for part in (losses[:10], losses[-10:]))
    each = f"{taken / num_batches:.3f} s each, drawing {drawing:.1f} s in all"
    print(f"{num_batches} of {trainee.batches.num_batches} batches in {taken:.1f} s ({each})")
    print(f"loss of the first ten batches {first:.4f}, of the last ten {last:.4f}")
    held = (
        f"tensors {peak.allocated_bytes / 1e9:.2f} GB, reserved {peak.reserved_bytes / 1e9:.2f} GB,"
        f" cap {cap / 1e9:.2f} GB"
    )
    print(f"planned {plan.required_bytes / 1e9:.2f} GB, peak of {held}")


if __name__ == "__main__":
    main()
