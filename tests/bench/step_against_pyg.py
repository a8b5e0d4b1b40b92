"""Benchmark 1: forward and backward of the encoder against PyG, stock and with HeteroLinear's loop
replaced.

    python -m tests.bench.step_against_pyg [--device cuda] [--sizes 5000/20000 66903/200000]
    [--variants ours repaired stock]

Same graph, same architecture (256 -> 256 -> 256, projection to 512, 8 heads, 30 relations and their
reverses), no dropout. Each measurement runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json

import torch

from hgt.device.limits import prepare_device
from hgt.graph.split import split_facts
from hgt.messages.training_messages import message_edge_types, training_message_graph
from hgt.model.encoder import HGTEncoder
from hgt.training.step_form import StepForm
from tests.bench.graphs import primekg_like
from tests.bench.harness import (
    ChildFailed,
    bench_config,
    header,
    measure_in_child,
    nodes_and_facts,
    peak_bytes,
    seconds,
)
from tests.bench.pyg_encoder import PygEncoder, edge_index_dict

VARIANTS = ("ours", "repaired", "stock")


def measure(variant: str, size: str, device: str, repeats: int) -> dict:
    """{seconds, bytes} of one step."""
    graph = primekg_like(*nodes_and_facts(size), symmetric=False)
    config = bench_config(dropout=0.0)
    messages = training_message_graph(graph, split_facts(graph, config.split))
    m = config.model
    prepare_device(device)  # the same allocator for all
    if variant == "ours":
        encoder = HGTEncoder(graph.num_nodes, message_edge_types(graph), m).to(device)
        encoder.keep_for_backward(layers=True, projections=StepForm.of(config).keeps_projections)
        messages = messages.to(device)
        forward = lambda: encoder.encode(messages)  # noqa: E731
    else:
        encoder = PygEncoder(
            messages,
            m.hidden_dim,
            m.embedding_dim,
            m.num_layers,
            m.num_heads,
            variant == "repaired",
        ).to(device)
        edges = {e: i.to(device) for e, i in edge_index_dict(messages).items()}
        forward = lambda: encoder(edges)  # noqa: E731
    grad = torch.randn(graph.total_nodes, m.embedding_dim, device=device)

    def step() -> None:
        encoder.zero_grad()
        forward().backward(grad)

    warm_up = 0 if variant == "stock" and device == "cpu" else 2
    return {
        "seconds": seconds(step, device, repeats if warm_up else 1, warm_up),
        "bytes": peak_bytes(device),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--sizes", nargs="+", default=["5000/20000", "66903/200000"], help="nodes/facts"
    )
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options.device, options.repeats)))
        return
    print(header(options.device))
    print(
        f"{'nodes / facts':>20}  {'':10}{'s / step':>10}{'GB':>8}{'x slower':>10}{'x memory':>10}"
    )
    for size in options.sizes:
        found: dict[str, dict] = {}
        for variant in options.variants:
            arguments = [
                "--device",
                options.device,
                "--repeats",
                str(options.repeats),
                "--one",
                variant,
                size,
            ]
            try:
                found[variant] = r = measure_in_child("tests.bench.step_against_pyg", arguments)
            except ChildFailed as error:
                print(f"{size:>20}  {variant:10}failed: {error}")
                continue
            ours = found.get("ours", r)
            ratios = f"{r['seconds'] / ours['seconds']:>10.1f}{r['bytes'] / ours['bytes']:>10.1f}"
            print(
                f"{size:>20}  {variant:10}{r['seconds']:>10.3f}{r['bytes'] / 1e9:>8.2f}{ratios}",
                flush=True,
            )


if __name__ == "__main__":
    main()
