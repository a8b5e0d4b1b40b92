"""Benchmark 5: what surrounds training, each as a share of one training epoch on the same device.

    python -m tests.bench.phases [--device cuda] [--nodes 129375] [--facts 4050249] [--kg kg.csv]
    [--steps 20] [--ranked 20000]

Loading a kg.csv (written beforehand, two rows per fact, unless --kg gives one), planning, starting
each of the three programs of a run (trainer, embedding, evaluation) from the run folder, the
validation after an epoch, layer-wise inference, and evaluation: ranks of all test facts (--ranked:
of a sample, scaled up) and the geometry, which is computed on the CPU. Not counted: the
interpreter's start and imports. The epoch is extrapolated: its number of batches x the mean time of
a few steps, each batch drawn while the device works on the one before, as the trainer does it.
Default configuration, weights as they begin.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hgt.config import RunConfig
from hgt.device.limits import prepare_device
from hgt.device.probe import probe_device
from hgt.embeddings.inference import infer_layerwise
from hgt.embeddings.table import Embeddings
from hgt.evaluation.fact_index import FactIndex
from hgt.evaluation.geometry import measure_geometry
from hgt.evaluation.ranking import rank_facts, sample_facts
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import TEST, VAL, EdgeSplit, split_facts
from hgt.memory.plan import plan_memory
from hgt.messages.training_messages import training_message_graph
from hgt.reading.edge_table import read_edge_table
from hgt.training.steps import Steps
from hgt.training.trainee import Trainee, build_trainee
from hgt.training.val_metrics import evaluate_val
from tests.bench.graphs import PRIMEKG_SIZE, primekg_like, write_csv
from tests.bench.harness import Result, bench_config, header, synchronize, timed, warm_up_calls


class Phases:
    """Wall times of calls made once each, in groups."""

    def __init__(self, device: str):
        self.device = device
        self.groups: dict[str, dict[str, float]] = {}

    def __call__(
        self, group: str, name: str, function: Callable[[], Result], factor: float = 1.0
    ) -> Result:
        """factor: how much more there is than what is called."""
        taken, result = timed(function, self.device)
        self.groups.setdefault(group, {})[name] = factor * taken
        return result

    def table(self, epoch: str, epoch_seconds: float) -> str:
        lines = [
            f"{'phase':<36}{'s':>10}{'of an epoch':>14}",
            f"{epoch:<36}{epoch_seconds:>10.2f}{1:>14.1%}",
        ]
        for group, parts in self.groups.items():
            rows = [(f"  {name}", taken) for name, taken in parts.items()] if len(parts) > 1 else []
            lines += [
                f"{name:<36}{taken:>10.2f}{taken / epoch_seconds:>14.1%}"
                for name, taken in [(group, sum(parts.values())), *rows]
            ]
        return "\n".join(lines)


def load(
    path: Path, folder: Path, config: RunConfig, phase: Phases
) -> tuple[KnowledgeGraph, EdgeSplit]:
    """What the task `load` does."""
    rows = phase("loading", "rows of the file", lambda: read_edge_table(path))
    graph = phase("loading", "facts", lambda: KnowledgeGraph.from_edge_table(rows, config.graph))
    split = phase("loading", "split", lambda: split_facts(graph, config.split))
    phase(
        "loading",
        "hash and save",
        lambda: (graph.save(folder), split.save(folder / "split.safetensors", graph)),
    )
    phase(
        "reading the run folder",
        "",
        lambda: EdgeSplit.load(
            folder / "split.safetensors", KnowledgeGraph.load(folder), config.split
        ),
    )
    print(
        f"{rows.num_rows:,} rows, {path.stat().st_size / 1e6:,.0f} MB: {graph.total_nodes:,} nodes,"
        f" {graph.total_facts:,} facts"
    )
    return graph, split


def step_seconds(trainee: Trainee, num_steps: int, device: str) -> float:
    """Mean over steps in a row as the trainer makes them, after some to warm up."""
    trainee.model.train()
    warm_up, step = warm_up_calls(device), Steps(trainee)
    with ThreadPoolExecutor(1) as drawer:
        upcoming = drawer.submit(trainee.batches.draw, 0, 0)
        for number in range(warm_up + num_steps):
            if number == warm_up:
                synchronize(device)
                start = time.perf_counter()
            batch = upcoming.result()
            upcoming = drawer.submit(
                trainee.batches.draw, 0, (number + 1) % trainee.batches.num_batches
            )
            step(batch)
        synchronize(device)
        return (time.perf_counter() - start) / num_steps


def validate(trainee: Trainee, graph: KnowledgeGraph, split: EdgeSplit, phase: Phases) -> None:
    """After each epoch. Once to warm up: kernels are compiled in the first call."""
    config = trainee.config
    index = phase("starting the trainer", "index of known facts", lambda: FactIndex(graph))
    facts = sample_facts(split.of(VAL), config.stopping.num_val_edges, config.split.seed)
    evaluate_val(trainee, facts, index)
    phase("validation after an epoch", "", lambda: evaluate_val(trainee, facts, index))


def infer(
    trainee: Trainee, graph: KnowledgeGraph, split: EdgeSplit, folder: Path, phase: Phases
) -> Embeddings:
    """What the embedding program does, the table read back as the evaluation program does it."""
    encoder, origin = trainee.model.encoder, {"parameters": trainee.config.to_flat()}
    messages = phase(
        "inference",
        "messages of the graph",
        lambda: training_message_graph(graph, split).to(trainee.device),
    )
    vectors = phase(
        "inference",
        "layer-wise",
        lambda: infer_layerwise(encoder, messages, trainee.config.execution.node_batch_size).cpu(),
    )
    relations = trainee.model.decoder.relation_vectors().detach().cpu()
    embeddings = Embeddings(graph.node_table(), vectors, tuple(graph.edge_types), relations, origin)
    phase("inference", "writing the table", lambda: embeddings.save(folder))
    return phase(
        "evaluation", "reading the table", lambda: Embeddings.load(folder / "embeddings.parquet")
    )


def evaluate(
    trainee: Trainee,
    embeddings: Embeddings,
    graph: KnowledgeGraph,
    split: EdgeSplit,
    ranked: int | None,
    phase: Phases,
) -> None:
    """What the evaluation program does, without its plots."""
    config, vectors, test = trainee.config, embeddings.vectors, split.of(TEST)
    sample = test if ranked is None else sample_facts(test, ranked, config.split.seed)
    scaled = (
        "" if sample is test else ", the time scaled up (more than all take: fewer ask the same)"
    )
    print(f"ranked: {sample.shape[1]:,} of {test.shape[1]:,} test facts{scaled}")
    index = phase("evaluation", "index of known facts", lambda: FactIndex(graph))
    factor, decoder = test.shape[1] / sample.shape[1], trainee.model.decoder
    phase(
        "evaluation",
        "ranks of the test facts",
        lambda: rank_facts(vectors.to(trainee.device), decoder, sample, index),
        factor,
    )
    types = embeddings.nodes["node_type"].to_numpy(dtype=str)
    phase("evaluation", "geometry", lambda: measure_geometry(vectors, types, config.split.seed))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--nodes", type=int, default=PRIMEKG_SIZE[0])
    parser.add_argument("--facts", type=int, default=PRIMEKG_SIZE[1])
    parser.add_argument("--kg", type=Path, help="a kg.csv to load instead of a written one")
    parser.add_argument("--steps", type=int, default=20, help="training steps measured")
    parser.add_argument("--ranked", type=int, help="rank a sample of this many test facts")
    options = parser.parse_args()
    started = time.perf_counter()
    print(header(options.device))
    phase, config = Phases(options.device), bench_config(device=options.device)
    with tempfile.TemporaryDirectory() as temporary:
        folder, path = Path(temporary), options.kg or Path(temporary) / "kg.csv"
        if options.kg is None:
            write_csv(primekg_like(options.nodes, options.facts), path)
        graph, split = load(path, folder / "graph", config, phase)
        phase("planning", "", lambda: plan_memory(graph, config, probe_device(options.device)))
        device = prepare_device(options.device)
        trainee = phase(
            "starting the trainer",
            "weights, messages, similar nodes",
            lambda: build_trainee(config, graph, split, device),
        )
        step, num_batches = (
            step_seconds(trainee, options.steps, options.device),
            trainee.batches.num_batches,
        )
        validate(trainee, graph, split, phase)
        evaluate(
            trainee,
            infer(trainee, graph, split, folder, phase),
            graph,
            split,
            options.ranked,
            phase,
        )
    print(
        f"epoch: extrapolated, {num_batches} batches x {step:.3f} s, the mean of {options.steps}"
        " steps"
    )
    print(phase.table("epoch (extrapolated)", num_batches * step))
    print(f"all of this took {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
