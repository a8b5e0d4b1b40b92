"""Planned against measured memory, over graph sizes, dimensions, accumulation and forms.

    python -m tests.bench.plan_accuracy [--device cuda] [--cases small]

CUDA: the allocator's peak of live tensors in each phase. CPU: the process's peak, which has no
phases. Each case runs two real steps, inference and a ranking, in a process of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys

import torch

from hgt.device.limits import prepare_device
from hgt.device.memory_use import peak_memory
from hgt.device.probe import probe_device
from hgt.embeddings.inference import infer_layerwise
from hgt.evaluation.fact_index import FactIndex
from hgt.evaluation.ranking import sample_facts
from hgt.graph.split import VAL, split_facts
from hgt.training.step import train_step
from hgt.training.step_form import StepForm
from hgt.training.trainee import build_trainee
from hgt.training.val_metrics import evaluate_val
from tests.bench.graphs import primekg_like
from tests.bench.harness import bench_config, header
from tests.planned import plan_of_form

# nodes, facts, parameters of the run, fields of the step's form
CASES = {
    "small": [
        (1_000, 10_000, {}, {}),
        (10_000, 50_000, {}, {}),
        (10_000, 50_000, {"embedding_dim": 128, "hidden_dim": 128}, {}),
        (10_000, 50_000, {"accumulation_steps": 1, "edge_sample_size": 20_000}, {}),
        (30_000, 300_000, {}, {}),
        (
            30_000,
            300_000,
            {},
            {"recompute_layers": True, "keep_projections": False, "table_rows": 8_192},
        ),
        (66_903, 200_000, {}, {}),
        (
            66_903,
            200_000,
            {"accumulation_steps": 16},
            {"recompute_layers": True, "keep_projections": False, "table_rows": 16_384},
        ),
        (66_903, 200_000, {"num_layers": 3, "embedding_dim": 256}, {}),
    ],
    "large": [
        (66_903, 2_000_000, {}, {}),
        (129_375, 4_050_249, {}, {}),
        (
            129_375,
            4_050_249,
            {},
            {
                "recompute_layers": True,
                "keep_projections": False,
                "table_rows": 16_384,
                "group_edges": 262_144,
            },
        ),
        (129_375, 4_050_249, {"mixed_precision": True}, {}),
    ],
}


def measure(case: tuple, device_type: str) -> dict:
    """{phase: (planned, measured)}; on the CPU only "process"."""
    num_nodes, num_facts, values, fields = case
    graph = primekg_like(num_nodes, num_facts)
    config = bench_config(**values)
    probe = probe_device(device_type)
    form = dataclasses.replace(StepForm.of(config), **fields)
    plan = plan_of_form(graph, config, probe, form)
    split = split_facts(graph, config.split)
    device = prepare_device(device_type)
    trainee = build_trainee(config, graph, split, device, form)
    found = {}

    def phase(name: str, function) -> None:
        if device_type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        function()
        found[name] = (plan.phases[name], peak_memory(device_type).allocated_bytes)

    trainee.model.train()
    train_step(trainee, trainee.batches.draw(0, 0))
    trainee.optimizer.zero_grad()
    phase("step", lambda: train_step(trainee, trainee.batches.draw(0, 1)))
    facts = sample_facts(split.of(VAL), config.stopping.num_val_edges, 0)
    index = FactIndex(graph)
    phase("evaluation", lambda: evaluate_val(trainee, facts, index))
    if device_type == "cpu":
        return {"process": (plan.required_bytes, peak_memory("cpu").process_bytes)}
    encoder, messages = trainee.model.encoder, trainee.messages
    trainee = None
    encoder.zero_grad()  # the embedding program has none
    phase("inference", lambda: infer_layerwise(encoder, messages, config.execution.node_batch_size))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cases", default="small", choices=list(CASES))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cases = CASES[options.cases]
    if options.one is not None:
        print(json.dumps(measure(cases[options.one], options.device)))
        return
    print(header(options.device))
    print(f"{'phase':12}{'planned MB':>11}{'measured MB':>12}{'difference':>11}  case")
    for number, (nodes, facts, values, fields) in enumerate(cases):
        command = [
            sys.executable,
            "-m",
            "tests.bench.plan_accuracy",
            "--device",
            options.device,
            "--cases",
            options.cases,
        ]
        child = subprocess.run(
            [*command, "--one", str(number)], capture_output=True, text=True, check=False
        )
        told = f"{nodes:,} nodes, {facts:,} facts " + ", ".join(
            f"{k} {v}" for k, v in (values | fields).items()
        )
        if child.returncode:
            print(f"failed: {child.stderr.strip().splitlines()[-1][:150]}  {told}")
            continue
        found = json.loads(child.stdout.splitlines()[-1])
        found = dict(sorted(found.items(), key=lambda item: -item[1][1]))
        for phase, (planned, measured) in found.items():
            print(
                f"{phase:12}{planned / 1e6:>11,.0f}{measured / 1e6:>12,.0f}"
                f"{planned / measured - 1:>+11.1%}"
                f"  {told}",
                flush=True,
            )
            told = ""


if __name__ == "__main__":
    main()
