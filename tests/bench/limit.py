"""Benchmark 3: how much of the machine's limit a training step reaches.

    python -m tests.bench.limit [--device cuda] [--sizes 66903/200000 129375/4050249] [--repeats 5]

The limit is (operations of the dense products / measured peak of a matrix product) + (bytes that
must move / measured bandwidth of a copy), all measured in the process that measures the step;
`counts.py` says what is counted. "Hard limit" is the larger of the two terms instead of their sum,
with each gathered row counted once per pass. The products are float32 as torch computes them by
default. Times are medians, peaks the best of all; recorded steps are timed ten in a row. Real
batches, default configuration, dropout on.
"""

from __future__ import annotations

import argparse
import functools
import json

import torch

from hgt.device.limits import prepare_device
from hgt.graph.split import split_facts
from hgt.kernels.nodes import MAX_REDUCTION_ROWS
from hgt.training.batch import Batch
from hgt.training.step import removed_edges, train_step
from hgt.training.steps import Steps
from hgt.training.trainee import build_trainee
from tests.bench.counts import (
    Work,
    encoder_parts,
    message_sizes,
    step_parts,
    supervised_sizes,
    total,
)
from tests.bench.graphs import primekg_like
from tests.bench.harness import (
    ChildFailed,
    bench_config,
    copy_bandwidth,
    header,
    matmul_flops,
    measure_in_child,
    nodes_and_facts,
    seconds,
    warm_up_calls,
)

_IN_A_ROW = 10  # recorded steps, timed together
ENCODER, STEP, RECORDED = "encoder, all nodes", "whole train_step", "train_step, recorded"


def measure(size: str, device: str, repeats: int, square: int) -> dict:
    """Counts and times of one size, the machine's peaks among them."""
    graph, config = primekg_like(*nodes_and_facts(size)), bench_config()
    trainee = build_trainee(config, graph, split_facts(graph, config.split), prepare_device(device))
    trainee.model.train()
    encoder, m = trainee.model.encoder, config.model
    drawing = seconds(lambda: trainee.batches.draw(0, 0), "cpu", repeats)
    batch = trainee.batches.draw(0, 0)
    removed = removed_edges(trainee, batch)
    sizes, supervised = (
        message_sizes(trainee.messages, removed),
        supervised_sizes(batch, trainee.batches.layout),
    )
    num_parameters = sum(p.numel() for p in trainee.model.parameters())
    grad = torch.randn(graph.total_nodes, m.embedding_dim, device=device)

    def encode() -> None:
        encoder.zero_grad()
        encoder.encode(trainee.messages, removed).backward(grad)

    before = _peaks(device, m.hidden_dim, m.embedding_dim, square)
    measured = {
        ENCODER: seconds(encode, device, repeats, warm_up_calls(device)),
        STEP: seconds(lambda: train_step(trainee, batch), device, repeats, warm_up_calls(device)),
    }
    if device == "cuda":
        measured[RECORDED] = (
            seconds(functools.partial(in_a_row, Steps(trainee), batch), device, repeats, warm_up=1)
            / _IN_A_ROW
        )
    peaks = {
        name: max(speed, before[name])
        for name, speed in _peaks(device, m.hidden_dim, m.embedding_dim, square).items()
    }
    bandwidth = peaks.pop("copy")
    shape = max(peaks, key=peaks.__getitem__)
    return {
        "edges": sizes.edges,
        "supervised": supervised.rows,
        "flops": peaks[shape],
        "shape": shape,
        "bandwidth": bandwidth,
        "parts": {
            name: vars(work)
            for name, work in step_parts(sizes, supervised, m, num_parameters).items()
        },
        "totals": {
            ENCODER: vars(total(encoder_parts(sizes, m, graph.total_nodes))),
            **dict.fromkeys(
                (STEP, RECORDED), vars(total(step_parts(sizes, supervised, m, num_parameters)))
            ),
        },
        "measured": measured,
        "drawing": drawing,
    }


def in_a_row(steps: Steps, batch: Batch) -> None:
    """As the trainer makes them: a step's inputs are sent while the device works on the one
    before.
    """
    for _ in range(_IN_A_ROW):
        steps(batch)


def _peaks(device: str, hidden: int, dim: int, square: int) -> dict[str, float]:
    """{shape of a product: operations per second}, and {"copy": bytes per second}: a square one and
    those that occur in the step.
    """
    rows = MAX_REDUCTION_ROWS
    shapes = [
        (square,) * 3,
        (rows, hidden, hidden),
        (4 * rows, hidden, hidden),
        (rows, hidden, dim),
        (hidden, rows, hidden),
    ]
    speeds = {" x ".join(map(str, s)): matmul_flops(device, s, repeats=3) for s in shapes}
    return speeds | {"copy": copy_bandwidth(device)}


def table(size: str, found: dict) -> str:
    """The limit by parts, then the fractions reached."""
    nodes, facts = nodes_and_facts(size)
    flops, bandwidth = found["flops"], found["bandwidth"]
    lines = [
        (
            f"{nodes:,} nodes, {facts:,} facts: {found['edges']:,} message edges in the step,"
            f" {found['supervised']:,} nodes supervised"
        ),
        (
            f"peak {flops / 1e9:,.1f} GFLOP/s ([n, k] x [k, m] with {found['shape']}), copy"
            f" {bandwidth / 1e9:,.1f} GB/s"
        ),
        f"{'part of the step':<24}{'GFLOP':>10}{'GB':>10}{'limit s':>10}",
    ]
    for name, counted in found["parts"].items():
        work = Work(**counted)
        lines.append(_counted(name, work) + f"{work.limit_seconds(flops, bandwidth):>10.4f}")
    columns = ("limit s", "measured s", "fraction", "hard limit s", "fraction")
    lines.append(f"{'':<24}{'GFLOP':>10}{'GB':>10}" + "".join(f"{c:>14}" for c in columns))
    for name, measured in found["measured"].items():
        work = Work(**found["totals"][name])
        limit, hard = (
            work.limit_seconds(flops, bandwidth),
            work.hard_limit_seconds(flops, bandwidth),
        )
        lines.append(
            _counted(name, work)
            + f"{limit:>14.4f}{measured:>14.4f}{limit / measured:>14.1%}"
            + f"{hard:>14.4f}{hard / measured:>14.1%}"
        )
    lines.append(f"drawing the batch, on the CPU and not in train_step: {found['drawing']:.4f} s")
    return "\n".join(lines)


def _counted(name: str, work: Work) -> str:
    return f"{name:<24}{work.operations / 1e9:>10.1f}{work.bytes / 1e9:>10.3f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--sizes", nargs="+", default=["66903/200000", "129375/4050249"], help="nodes/facts"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--square",
        type=int,
        default=4096,
        help="side of the square product among the peak's shapes",
    )
    parser.add_argument("--one", metavar="SIZE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.device, options.repeats, options.square)))
        return
    print(header(options.device))
    arguments = [
        "--device",
        options.device,
        "--repeats",
        str(options.repeats),
        "--square",
        str(options.square),
    ]
    for size in options.sizes:
        try:
            print(
                table(size, measure_in_child("tests.bench.limit", [*arguments, "--one", size])),
                flush=True,
            )
        except ChildFailed as error:
            print(f"{size} failed: {error}", flush=True)


if __name__ == "__main__":
    main()
