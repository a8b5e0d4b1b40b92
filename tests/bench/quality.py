"""Benchmark 6: HGT against regularised and tuned shallow models on the same split: ranks of the
test facts at each one's best epoch.

    python -m tests.bench.quality --kg FILE [--device cuda] [--seeds 0 1 2] [--models hgt distmult
    complex transe rotate] [--jobs 2] [--minutes 10] [--set num_layers=3 ...] [--hgt '{}'
    '{"dropout": 0.3}' ...] [--every 2] [--curves FOLDER]

Every model is trained with the same batches, negatives and softmax loss (shallow models without its
correction, which costs them) until the minutes are up; before that HGT ends when its validation MRR
has not risen for `patience` epochs, a shallow model after all epochs (with N3 its MRR falls before
it rises again). The best epoch's figures count, and HGT's embeddings are held against the checks of
a run. Shallow models go over a grid of learning rate, dropout and N3 (Lacroix et al. 2018, of a
batch's facts; none where scores are distances), HGT over the points that --hgt gives, with the
first seed; the best by validation MRR goes over the other seeds. --set changes parameters of all
runs. DistMult (Yang et al. 2015), ComplEx (Trouillon et al. 2016), TransE (Bordes et al. 2013) and
RotatE (Sun et al. 2019), the latter two with squared distances.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import os
import queue
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hgt.config import RunConfig
from hgt.device.limits import prepare_device
from hgt.embeddings.table import Embeddings
from hgt.evaluation.fact_index import FactIndex
from hgt.evaluation.ranking import rank_facts, sample_facts
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import TEST, VAL, split_facts
from hgt.model.decoders import ComplEx
from hgt.model.shallow import NodeTable
from hgt.programs.embedding_report import report_on
from hgt.programs.shallow_training import shallow_trainee
from hgt.reading.edge_table import read_edge_table
from hgt.seeds import Stream, torch_seed
from hgt.training.batches_ahead import batches_ahead
from hgt.training.steps import Steps
from hgt.training.trainee import Trainee, build_trainee
from hgt.training.val_metrics import evaluate_val
from tests.bench.harness import header, measure_in_child

Point = dict[str, Any]  # of a shallow model rate, dropout and n3; of HGT parameters of the run
MODELS = ("hgt", "distmult", "complex", "transe", "rotate")
DISTANCES = ("transe", "rotate")


def grid(model: str) -> list[Point]:
    """The points that a shallow model is tuned over."""
    rates, weights = (
        ((0.01, 0.02, 0.03), (0.0,))
        if model in DISTANCES
        else ((0.02, 0.03, 0.04), (0.0, 0.04, 0.1))
    )
    dropouts = (0.1, 0.4)
    return [
        {"rate": rate, "dropout": dropout, "n3": n3}
        for rate, dropout, n3 in itertools.product(rates, dropouts, weights)
    ]


class DistanceTable(NodeTable):
    """Embeddings with a further column, -|x|^2 / 2, so that an inner product ranks by squared
    distance: q . x - |x|^2 / 2.
    """

    def hidden(self, *inputs: Any, **how: Any) -> Tensor:
        x = super().hidden(*inputs, **how)
        return torch.cat([x, -0.5 * x.square().sum(1, keepdim=True)], dim=1)


class DistanceDecoder(ComplEx):
    """transe: head + relation = tail. rotate: head times the relation's phases, in complex numbers,
    = tail.
    """

    def __init__(self, num_relations: int, embedding_dim: int, kind: str):
        super().__init__(num_relations, embedding_dim)
        self.kind = kind
        with torch.no_grad():
            self.relation.copy_(0.05 * torch.randn_like(self.relation))

    def tail_query(self, head: Tensor, relation: int | Tensor) -> Tensor:
        return self._moved(head[:, :-1], self._rows(relation))

    def head_query(self, tail: Tensor, relation: int | Tensor) -> Tensor:
        return self._moved(tail[:, :-1], -self._rows(relation))

    def _rows(self, relation: int | Tensor) -> Tensor:
        return self.relation[relation]

    def _moved(self, x: Tensor, by: Tensor) -> Tensor:
        if self.kind == "transe":
            x = x + by
        else:
            (real, imaginary), phase = x.chunk(2, -1), by.chunk(2, -1)[0]
            cos, sin = torch.cos(phase), torch.sin(phase)
            x = torch.cat([real * cos - imaginary * sin, real * sin + imaginary * cos], -1)
        return torch.cat([x, torch.ones_like(x[:, :1])], -1)


def trainee_of(
    model: str, point: Point, config: RunConfig, graph: KnowledgeGraph, device: torch.device
) -> Trainee:
    split = split_facts(graph, config.split)
    if model == "hgt":
        return build_trainee(config, graph, split, device)
    config = replace(config, model=replace(config.model, dropout=point["dropout"]))
    trainee = shallow_trainee(
        "distmult" if model in DISTANCES else model, config, graph, split, device
    )
    if model in DISTANCES:
        dim = config.model.embedding_dim
        trainee.model.encoder = DistanceTable(graph.total_nodes, dim, point["dropout"]).to(device)
        trainee.model.decoder = DistanceDecoder(len(graph.edge_types), dim, model).to(device)
    optimizer = torch.optim.Adam(
        trainee.model.parameters(), fused=True, capturable=device.type == "cuda"
    )
    config = replace(
        trainee.config, optimizer=replace(trainee.config.optimizer, learning_rate=point["rate"])
    )
    return replace(trainee, optimizer=optimizer, config=config, n3=point["n3"])


def spikes(losses: list[list[float]]) -> tuple[float, int]:
    """Of the steps of a training's second half, by epoch: the largest loss over its epoch's median,
    and how many are above three times.
    """
    ratios = [
        loss / statistics.median(epoch) for epoch in losses[len(losses) // 2 :] for loss in epoch
    ]
    return max(ratios), sum(ratio > 3 for ratio in ratios)


def measure(
    options: argparse.Namespace, seed: int, model: str, point: Point, values: dict[str, Any]
) -> dict:
    """{val, typed, all, macro, ...}: MRR of validation facts, and of test facts at the best epoch
    by it.

    curve: (steps, MRR of validation facts, seconds) of each epoch that was looked at
    spike, num_spikes: see `spikes`
    failed, report: of HGT's embeddings, the required checks that did not pass and all that a run's
        `report/validation.json` holds
    """
    config = RunConfig.from_flat({"seed": seed, **values, **(point if model == "hgt" else {})})
    graph = KnowledgeGraph.from_edge_table(read_edge_table(Path(options.kg)), config.graph)
    trainee = trainee_of(model, point, config, graph, prepare_device(options.device))
    split, index, started = split_facts(graph, config.split), FactIndex(graph), time.monotonic()
    facts = sample_facts(split.of(VAL), config.stopping.num_val_edges, seed)
    best, best_epoch, epoch = -1.0, -1, 0
    curve: list[tuple[int, float, int]] = []
    losses: list[list[float]] = []
    for epoch in range(config.stopping.num_epochs):
        trainee.model.train()
        step, of_epoch = Steps(trainee, epoch), []
        for number, batch in batches_ahead(
            trainee.batches, epoch, range(trainee.batches.num_batches)
        ):
            torch.manual_seed(torch_seed(seed, Stream.DROPOUT, epoch, number))
            of_epoch.append(step(batch)["total"])
        losses.append(torch.stack(of_epoch).tolist())
        del step
        if epoch % options.every:
            continue
        mrr = evaluate_val(trainee, facts, index).mrr
        spent = time.monotonic() - started
        curve.append(((epoch + 1) * trainee.batches.num_batches, mrr, round(spent)))
        if mrr > best:
            best, best_epoch = mrr, epoch
            with trainee.averaged():
                state = {
                    name: tensor.clone() for name, tensor in trainee.model.state_dict().items()
                }
        if (
            model == "hgt" and epoch - best_epoch >= config.stopping.patience
        ) or spent > 60 * options.minutes:
            break
    seconds = time.monotonic() - started
    trainee.model.load_state_dict(state)
    trainee.model.eval()
    with torch.no_grad():
        embeddings = trainee.model.encoder.encode(trainee.messages.to(trainee.device))
    found = {
        "val": best,
        "epochs": best_epoch + 1,
        "steps": (epoch + 1) * trainee.batches.num_batches,
        "seconds": seconds,
        "curve": curve,
    }
    found["spike"], found["num_spikes"] = spikes(losses)
    decoder = trainee.model.decoder
    if model == "hgt":
        relations, origin = (
            decoder.relation_vectors().detach().cpu(),
            {"decoder": config.model.decoder},
        )
        table = Embeddings(
            graph.node_table().astype(str),
            embeddings.cpu(),
            tuple(graph.edge_types),
            relations,
            origin,
        )
        report = report_on(table, graph, split, config, trainee.device)
        ranking = report.ranking
        found |= {
            "failed": [c.key for c in report.checks if c.required and not c.passed],
            "report": report.as_dict(),
        }
    else:
        ranking = rank_facts(embeddings, decoder, split.of(TEST), index)
    if ranking is None:
        raise SystemExit("nothing was held out that could be ranked")
    return found | {
        "typed": ranking.typed.mrr, "all": ranking.all_nodes.mrr, "macro": ranking.typed_macro.mrr,
        "by_edge_type": {" - ".join(e): metrics.mrr for e, metrics in ranking.by_edge_type.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kg", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="most training time of one model at one point"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="trainings at a time, spread over all GPUs"
    )
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="parameters of the run"
    )
    parser.add_argument(
        "--hgt",
        type=json.loads,
        nargs="+",
        default=[{}],
        metavar="JSON",
        help="HGT's points: parameters of the run",
    )
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        help="epochs from one look at the validation facts to the next",
    )
    parser.add_argument(
        "--curves", type=Path, help="folder for what each training reached on the way"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    values = {name: _value(text) for name, text in (pair.split("=", 1) for pair in options.set)}
    if options.one:
        seed, model, point = json.loads(options.one)
        print(json.dumps(measure(options, seed, model, point, values)))
        return
    names = (
        os.environ.get("CUDA_VISIBLE_DEVICES")
        or ",".join(map(str, range(max(torch.cuda.device_count(), 1))))
    ).split(",")
    # a place for each of the trainings that run at a time
    gpus: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for job in range(options.jobs):
        gpus.put(names[job % len(names)] if options.device == "cuda" else None)
    points = {m: options.hgt if m == "hgt" else grid(m) for m in options.models}

    def trained(seed: int, model: str, point: Point) -> dict:
        limits = [
            "--device",
            options.device,
            "--minutes",
            str(options.minutes),
            "--every",
            str(options.every),
        ]
        arguments = [
            "--kg",
            options.kg,
            *limits,
            "--set",
            *options.set,
            "--one",
            json.dumps([seed, model, point]),
        ]
        gpu = gpus.get()
        try:
            found = measure_in_child("tests.bench.quality", arguments, gpu)
        finally:
            gpus.put(gpu)
        if options.curves:
            options.curves.mkdir(parents=True, exist_ok=True)
            (options.curves / f"{model}-{points[model].index(point)}-{seed}.json").write_text(
                json.dumps([point, found])
            )
        figures = "".join(f"{found[name]:>9.4f}" for name in ("val", "typed", "macro", "all"))
        gate = (
            ""
            if model != "hgt"
            else (
                "accepted  " if not found["failed"] else f"rejected: {', '.join(found['failed'])}  "
            )
        )
        training = f"{found['epochs']:>8}{found['seconds']:>9.0f}"
        training += f"{found['spike']:>7.2f}{found['num_spikes']:>4}"
        print(f"{model:<10}{seed:>5}{figures}{training}  {gate}{point or ''}", flush=True)
        return found

    print(header(options.device), values)
    print(
        f"{'model':<10}{'seed':>5}{'val':>9}{'typed':>9}{'macro':>9}{'all':>9}"
        f"{'epochs':>8}{'seconds':>9}{'spike':>7}{'> 3':>4}"
    )
    with ThreadPoolExecutor(options.jobs) as pool:
        first = [
            (m, p, pool.submit(trained, options.seeds[0], m, p))
            for m in options.models
            for p in points[m]
        ]
        found = [(m, p, future.result()) for m, p, future in first]
        chosen = {
            m: max((f for f in found if f[0] == m), key=lambda f: f[2]["val"])
            for m in options.models
        }
        more = {
            m: [pool.submit(trained, seed, m, p) for seed in options.seeds[1:]]
            for m, p, _ in chosen.values()
        }
        over_seeds = {
            m: [chosen[m][2], *(future.result() for future in futures)]
            for m, futures in more.items()
        }
    print("test facts, mean and standard deviation over the seeds")
    for m, results in over_seeds.items():
        told = (
            f"{statistics.mean(v):>9.4f} +- {statistics.pstdev(v):.4f}"
            for v in ([r[s] for r in results] for s in ("typed", "all"))
        )
        print(f"{m:<10}" + "".join(told) + f"  {chosen[m][1] or ''}")


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    main()
