"""Benchmark 5: what surrounds training, each as a share of one training epoch on the same device.

    python -m tests.bench.phases [--device cuda] [--nodes 129375] [--facts 4050249] [--kg kg.csv] [--steps 3] [--ranked 20000]

Loading a kg.csv (written beforehand, two rows per fact, unless --kg gives one), planning, starting the trainer (layout of the messages,
filters and similar nodes, weights), layer-wise inference, and evaluation: ranks of all test facts (--ranked: of a sample, scaled up)
and the geometry. An epoch is its number of batches x the median time of a few steps, drawing included. Evaluation runs on the CPU, as
the product does it; on another device the ranks are also timed there. Default configuration, weights as they begin.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

from hgt.config import RunConfig
from hgt.device import prepare_device, probe_device
from hgt.edge_table import read_edge_table
from hgt.embeddings import infer_layerwise
from hgt.geometry import measure_geometry
from hgt.graph import KnowledgeGraph
from hgt.memory import plan_memory
from hgt.ranking import FactIndex, rank_facts, sample_facts
from hgt.split import TEST, EdgeSplit, split_facts
from hgt.train import Trainee, build_trainee, train_step
from tests.bench.graphs import PRIMEKG_SIZE, primekg_like, write_csv
from tests.bench.harness import Result, header, seconds, timed, warm_up_calls


class Phases:
    """Wall times of calls made once each, in groups."""

    def __init__(self, device: str):
        self.device = device
        self.groups: dict[str, dict[str, float]] = {}

    def __call__(self, group: str, name: str, function: Callable[[], Result], factor: float = 1.0) -> Result:
        """factor: how much more there is than what is called."""
        taken, result = timed(function, self.device)
        self.groups.setdefault(group, {})[name] = factor * taken
        return result

    def table(self, epoch_seconds: float) -> str:
        lines = [f"{'phase':<32}{'s':>10}{'of an epoch':>14}"]
        for group, parts in self.groups.items():
            rows = [(f"  {name}", taken) for name, taken in parts.items()] if len(parts) > 1 else []
            lines += [f"{name:<32}{taken:>10.2f}{taken / epoch_seconds:>14.1%}" for name, taken in [(group, sum(parts.values())), *rows]]
        return "\n".join(lines)


def load(path: Path, folder: Path, config: RunConfig, phase: Phases) -> tuple[KnowledgeGraph, EdgeSplit]:
    """What the task `load` does."""
    rows = phase("loading", "rows of the file", lambda: read_edge_table(path))
    graph = phase("loading", "facts", lambda: KnowledgeGraph.from_edge_table(rows, config.graph))
    split = phase("loading", "split", lambda: split_facts(graph, config.split))
    phase("loading", "hash and save", lambda: (graph.save(folder), split.save(folder / "split.safetensors", graph)))
    print(f"{rows.num_rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB: {graph.total_nodes:,} nodes, {graph.total_facts:,} facts")
    return graph, split


def step_seconds(trainee: Trainee, num_steps: int, device: str) -> float:
    """Median over steps on different batches, drawing included."""
    trainee.model.train()
    number = itertools.count()

    def step() -> None:
        train_step(trainee, trainee.batches.draw(0, next(number) % trainee.batches.num_batches))

    return seconds(step, device, num_steps, warm_up_calls(device))


def evaluate(trainee: Trainee, graph: KnowledgeGraph, split: EdgeSplit, ranked: int | None, phase: Phases) -> None:
    """Inference on the device; ranks and geometry on the CPU; ranks once more on the device."""
    config, model = trainee.config, trainee.model
    infer = functools.partial(infer_layerwise, model.encoder, trainee.messages, config.train.node_batch_size)
    vectors = phase("inference", "layer-wise", lambda: infer().cpu())
    test = split.of(TEST)
    sample = test if ranked is None else sample_facts(test, ranked, config.split.seed)
    print(f"ranked: {sample.shape[1]:,} of {test.shape[1]:,} test facts{'' if sample is test else ', the time scaled up'}")
    factor = test.shape[1] / sample.shape[1]
    index = phase("evaluation", "index of known facts", lambda: FactIndex(graph))
    if trainee.device.type != "cpu":
        there = vectors.to(trainee.device)
        phase("ranks, were they made on the device", "", lambda: rank_facts(there, model.decoder, sample, index), factor)
    decoder = model.decoder.cpu()
    phase("evaluation", "ranks of the test facts", lambda: rank_facts(vectors, decoder, sample, index), factor)
    types = graph.node_table()["node_type"].to_numpy(dtype=str)
    phase("evaluation", "geometry", lambda: measure_geometry(vectors, types, config.split.seed))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--nodes", type=int, default=PRIMEKG_SIZE[0])
    parser.add_argument("--facts", type=int, default=PRIMEKG_SIZE[1])
    parser.add_argument("--kg", type=Path, help="a kg.csv to load instead of a written one")
    parser.add_argument("--steps", type=int, default=3, help="training steps measured")
    parser.add_argument("--ranked", type=int, help="rank a sample of this many test facts")
    options = parser.parse_args()
    print(header(options.device))
    phase, config = Phases(options.device), RunConfig.from_flat({"device": options.device})
    with tempfile.TemporaryDirectory() as temporary:
        folder, path = Path(temporary), options.kg or Path(temporary) / "kg.csv"
        if options.kg is None:
            write_csv(primekg_like(options.nodes, options.facts), path)
        graph, split = load(path, folder / "graph", config, phase)
    phase("planning", "", lambda: plan_memory(graph, config, probe_device(options.device)))
    trainee = phase("starting the trainer", "", lambda: build_trainee(config, graph, split, prepare_device(options.device)))
    step = step_seconds(trainee, options.steps, options.device)
    evaluate(trainee, graph, split, options.ranked, phase)
    num_batches = trainee.batches.num_batches
    print(f"one epoch: {num_batches} batches x {step:.3f} s (median of {options.steps} steps) = {num_batches * step:.1f} s")
    print(phase.table(num_batches * step))


if __name__ == "__main__":
    main()
