"""Benchmark 4: how time and memory of a training step grow with the message edges, at a fixed
number of nodes.

    python -m tests.bench.growth [--device cuda] [--nodes 50000] [--edges 100000 300000 1000000
    3000000 10000000]

A step is a whole optimizer step on a real batch, as the trainer makes it, default configuration.
Expected: time linear in the edges once they outweigh what every node costs, memory nearly flat (the
message graph and one float per edge, head and layer grow with the edges). Each number of edges is
measured in a process of its own. 50,000 nodes by default: no more can have two facts each where
there are 100,000 message edges.
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from hgt.device.limits import prepare_device
from hgt.device.memory_use import memory_in_use
from hgt.graph.split import split_facts
from hgt.training.steps import Steps
from hgt.training.trainee import Trainee, build_trainee
from tests.bench.graphs import primekg_like
from tests.bench.harness import (
    ChildFailed,
    bench_config,
    header,
    measure_in_child,
    peak_bytes,
    reset_peak,
    seconds,
    warm_up_calls,
)


def measure(num_nodes: int, num_edges: int, device: str, repeats: int) -> dict:
    """Nodes, edges and supervised facts as they came out, seconds of a step, bytes held before the
    first one and at most during all.
    """
    trainee = _trainee(num_nodes, num_edges, device)
    trainee.model.train()
    batch, step = trainee.batches.draw(0, 0), Steps(trainee)
    reset_peak(device)
    before = memory_in_use(device).allocated_bytes
    taken = seconds(lambda: step(batch), device, repeats, warm_up_calls(device))
    supervised = int((batch.supervised < trainee.batches.num_train).sum())
    nodes, edges = trainee.messages.num_nodes, trainee.messages.num_edges
    return {
        "nodes": nodes,
        "edges": edges,
        "supervised": supervised,
        "seconds": taken,
        "before": before,
        "peak": peak_bytes(device),
    }


def _trainee(num_nodes: int, num_edges: int, device: str) -> Trainee:
    """Every training fact is two message edges."""
    config = bench_config()
    held_out = config.split.val_fraction + config.split.test_fraction
    graph = primekg_like(num_nodes, round(num_edges / 2 / (1 - held_out)))
    return build_trainee(config, graph, split_facts(graph, config.split), prepare_device(device))


def slope(edges: list[float], values: list[float]) -> float | None:
    """Exponent over the last decade: least squares of the logarithms. None where it holds one point
    only.
    """
    # sizes are met to a few per mille
    last = [(x, y) for x, y in zip(edges, values, strict=True) if x >= 0.099 * max(edges)]
    if len(last) < 2:
        return None
    x, y = np.log(np.array(last)).T
    return float(np.polyfit(x, y, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--nodes", type=int, default=50_000)
    parser.add_argument(
        "--edges",
        type=int,
        nargs="+",
        default=[100_000, 300_000, 1_000_000, 3_000_000, 10_000_000],
        help="message edges",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", type=int, metavar="EDGES", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.nodes, options.one, options.device, options.repeats)))
        return
    print(header(options.device))
    print("further: seconds per further million edges, against the row above")
    columns = f"{'facts / step':>14}{'s / step':>10}{'s / M edges':>13}{'further':>10}"
    columns += f"{'GB before':>11}{'GB peak':>9}{'GB step':>9}"
    print(f"{'edges':>12}{'nodes':>9}{columns}")
    arguments = [
        "--device",
        options.device,
        "--nodes",
        str(options.nodes),
        "--repeats",
        str(options.repeats),
    ]
    found: list[dict] = []
    for edges in sorted(options.edges):
        try:
            r = measure_in_child("tests.bench.growth", [*arguments, "--one", str(edges)])
        except ChildFailed as error:
            print(f"{edges:>12,}  failed: {error}", flush=True)
            continue
        last = found[-1] if found else None
        further = (
            f"{1e6 * (r['seconds'] - last['seconds']) / (r['edges'] - last['edges']):>10.3f}"
            if last
            else f"{'':>10}"
        )
        per_million = 1e6 * r["seconds"] / r["edges"]
        before, peak = r["before"] / 1e9, r["peak"] / 1e9
        gigabytes = f"{before:>11.2f}{peak:>9.2f}{peak - before:>9.2f}"
        sizes = f"{r['edges']:>12,}{r['nodes']:>9,}{r['supervised']:>14,}"
        print(f"{sizes}{r['seconds']:>10.3f}{per_million:>13.3f}{further}{gigabytes}", flush=True)
        found.append(r)
    for name, key in (("time", "seconds"), ("peak memory", "peak")):
        if len(found) > 1:
            exponent = slope([r["edges"] for r in found], [r[key] for r in found])
            factor, more_edges = (found[-1][k] / found[0][k] for k in (key, "edges"))
            told = "-" if exponent is None else f"{exponent:.2f}"
            print(
                f"{name}: x {factor:.1f} for x {more_edges:.0f} edges; exponent over the last"
                f" decade {told}"
            )


if __name__ == "__main__":
    main()
