"""The baseline program: `python -m hgt.baselines <run folder>`, run after the evaluation. How far
would one get without HGT?

Ranks the run's test facts among the same candidates with what knows less: nothing (random), each
node's number of training facts in the relation (degree), and shallow models (distmult, complex),
trained with the run's own batches, negatives and optimizer, but without early stopping. Writes
`report/baselines.json` and its table as text; HGT's figures are those of `report/validation.json`.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hgt.config import RunConfig
from hgt.device.memory_use import DeviceMemory
from hgt.evaluation.ranking import FactIndex, rank_facts, sample_facts
from hgt.evaluation.validation import shortened
from hgt.graph.facts import edge_type_name
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import TEST, TRAIN, VAL, EdgeSplit
from hgt.messages.step_messages import AllEdges, no_messages
from hgt.model.decoders import Decoder, DistMult
from hgt.model.shallow import ShallowModel
from hgt.run.events import epochs_by_number
from hgt.run.folder import RunFolder
from hgt.run.identity import Identity
from hgt.run.opened import OpenRun, open_run
from hgt.run.parent import stop_without_parent
from hgt.run.program import OnEvent, run_program
from hgt.run.report import read_report
from hgt.seeds import Stream, torch_seed
from hgt.training.batch_sizes import num_batches_per_epoch
from hgt.training.batches import Batches
from hgt.training.batches_ahead import batches_ahead
from hgt.training.optimizer import adam
from hgt.training.steps import Steps
from hgt.training.trainee import Trainee
from hgt.training.val_metrics import evaluate_val
from hgt.whole_file import written_whole

# A table's row moves only in steps that its node is in, HGT's weights in every one. Tuned, ComplEx
# is best with a rate of 0.02 to 0.04 on two graphs (tests/bench/README.md), and the larger, the
# fewer steps it takes: that counts where its time is limited.
_RATE_OVER_HGT = 10.0
# Over the facts per node. Tuned, ComplEx is best with N3 0.04 where there are 26 of them, with 0.1
# where there are 10 or 3.7 (the same).
_N3, _MOST_N3 = 1.0, 0.1
Mrr = dict[str, float]  # {"all nodes", "typed" or an edge type's name: MRR}


@dataclass(frozen=True)
class Baseline:
    """One baseline's MRR, and for a shallow model its training: steps, seconds of them, and why it
    ended.
    """

    name: str
    mrr: Mrr
    num_steps: int = 0
    seconds: float = 0.0
    ended: str = ""


@dataclass(frozen=True)
class Comparison:
    """hgt: its MRR on the same facts; training_seconds: of HGT's steps"""

    hgt: Mrr
    training_seconds: float
    baselines: tuple[Baseline, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON. ratio: HGT's MRR over the baseline's, above 1 where HGT is ahead"""
        told = [
            {**vars(b), "ratio": {scope: self.hgt[scope] / mrr for scope, mrr in b.mrr.items()}}
            for b in self.baselines
        ]
        return {"hgt": self.hgt, "training_seconds": self.training_seconds, "baselines": told}

    def table(self) -> str:
        """For people: MRR by scope, and how far HGT is ahead of (or behind) the best baseline
        there.
        """
        names = [b.name for b in self.baselines]
        lines = [
            f"{'MRR against baselines on the same facts':<50}{'HGT':>9}"
            + "".join(f"{n:>10}" for n in names)
            + f"{'HGT / best':>12}"
        ]
        ratios, rows = [], []
        for scope, mrr in self.hgt.items():
            others = [b.mrr[scope] for b in self.baselines]
            title = {"all nodes": "among all nodes", "typed": "among nodes of the right type"}.get(
                scope, f"  {scope}"
            )
            ratios.append(mrr / max(others))
            rows.append(
                f"{title[:50]:<50}{mrr:>9.4f}"
                + "".join(f"{o:>10.4f}" for o in others)
                + f"{ratios[-1]:>10.2f} x"
            )
        worst = [rows[i] for i in sorted(range(2, len(rows)), key=lambda i: ratios[i])]
        lines += rows[:2] + shortened(rows[2:], "edge types", "with most ranks", worst)
        lines += [
            f"{b.name}: {b.num_steps} steps in {b.seconds:.0f} s "
            f"(HGT: {self.training_seconds:.0f} s), {b.ended}"
            for b in self.baselines
            if b.ended
        ]
        return "\n".join([*lines, self.verdict()])

    def verdict(self) -> str:
        """One sentence: HGT against whichever baseline is best among nodes of the right type, among
        all, and on each edge type.
        """
        told = []
        for scope, title in (("typed", "nodes of the right type"), ("all nodes", "all nodes")):
            best = max(self.baselines, key=lambda b: b.mrr[scope])
            ratio = self.hgt[scope] / best.mrr[scope]
            told.append(
                f"{ratio:.2f} x the MRR of {best.name} among {title}"
                f" ({'ahead' if ratio > 1 else 'not ahead'})"
            )
        edge_types = [scope for scope in self.hgt if scope not in ("typed", "all nodes")]
        ahead = sum(
            self.hgt[scope] > max(b.mrr[scope] for b in self.baselines) for scope in edge_types
        )
        return (
            f"against the best baseline: HGT has {told[0]}, {told[1]}, and is ahead on {ahead} of"
            f" {len(edge_types)} edge types"
        )


def compare_run(folder: RunFolder, on_event: OnEvent) -> None:
    """Write the comparison of an evaluated run; none where there was nothing to rank."""
    run = open_run(folder)
    hgt = _hgt_mrr(folder, run.identity)
    if hgt is None:
        on_event("compared", message="no baselines: nothing was held out that could be ranked")
        return
    index, seconds = FactIndex(run.graph), _training_seconds(run)
    baselines = tuple(
        _baseline(name, run, index, seconds) for name in run.config.baseline.baselines
    )
    comparison = Comparison(hgt, seconds, baselines)
    for name, text in (
        ("baselines.json", json.dumps(comparison.as_dict(), indent=2)),
        ("baselines.txt", comparison.table()),
    ):
        with written_whole(folder.report / name) as new:
            new.write_text(text + "\n")
    on_event("compared", message=comparison.verdict(), **run.memory.as_dict())


def _test_mrr(run: OpenRun, index: FactIndex, embeddings: Tensor, decoder: Decoder) -> Mrr:
    """Of the test facts, ranked as HGT's are."""
    with run.memory.phase("evaluation"):
        facts = run.split.of(TEST)
        report = rank_facts(embeddings.to(run.device), decoder.to(run.device), facts, index)
    by_edge_type = {edge_type_name(e): m.mrr for e, m in report.by_edge_type.items()}
    return {"all nodes": report.all_nodes.mrr, "typed": report.typed.mrr, **by_edge_type}


def _training_seconds(run: OpenRun) -> float:
    """Of all of HGT's steps, wherever they were made."""
    largest_edge_type = int(torch.bincount(run.split.of(TRAIN)[1]).max())
    sum_of_means = sum(
        epoch["step_seconds"]
        for epoch in epochs_by_number(run.folder.events, "step_seconds").values()
    )
    return float(sum_of_means * num_batches_per_epoch(largest_edge_type, run.config))


def _hgt_mrr(folder: RunFolder, identity: Identity) -> Mrr | None:
    """From the run's own report; None where nothing was ranked."""
    path = folder.report / "validation.json"
    report = read_report(path)
    identity.check(report, path)
    ranking = report["ranking"]
    if ranking is None:
        return None
    largest_first = sorted(ranking["by_edge_type"], key=lambda m: -int(m["num_ranks"]))
    by_edge_type = {edge_type_name(m["edge_type"]): m["mrr"] for m in largest_first}
    return {
        "all nodes": ranking["all_nodes"]["mrr"],
        "typed": ranking["typed"]["mrr"],
        **by_edge_type,
    }


def _baseline(name: str, run: OpenRun, index: FactIndex, hgt_seconds: float) -> Baseline:
    num_relations, dim = len(run.graph.edge_types), run.config.model.embedding_dim
    if name == "random":
        torch.manual_seed(torch_seed(run.config.split.seed, Stream.RANDOM_VECTORS))
        vectors = torch.randn(run.graph.total_nodes, dim)
        return Baseline(name, _test_mrr(run, index, vectors, DistMult(num_relations, dim)))
    if name == "degree":
        degrees = training_degrees(run.graph, run.split)
        return Baseline(name, _test_mrr(run, index, degrees, DegreeScores()))
    return _train_shallow(name, run, index, run.config.baseline.baseline_time * hgt_seconds)


def training_degrees(graph: KnowledgeGraph, split: EdgeSplit) -> Float[Tensor, "num_nodes _"]:
    """[num_nodes, 2 num_relations]: of each relation, in how many training facts a node is the
    tail, and in how many the head.

    A symmetric relation's facts have no direction: both ends count as both.
    """
    head, relation, tail = split.of(TRAIN)
    symmetric = torch.tensor([e in graph.symmetric for e in graph.edge_types])[relation]
    degrees = torch.zeros(graph.total_nodes, 2 * len(graph.edge_types))
    one = torch.ones(len(head))
    for tails, heads, r in (
        (tail, head, relation),
        (head[symmetric], tail[symmetric], relation[symmetric]),
    ):
        degrees.index_put_((tails, 2 * r), one[: len(r)], accumulate=True)
        degrees.index_put_((heads, 2 * r + 1), one[: len(r)], accumulate=True)
    return degrees


class DegreeScores(Decoder):
    """On `training_degrees`: a candidate's score is its degree in the relation, on the side that is
    asked for, whatever the other end.

    A `Decoder`, as that is what facts are ranked with; it learns nothing.
    """

    def __init__(self) -> None:
        super().__init__(0, 0)

    def tail_query(
        self, head: Float[Tensor, "n dim"], relation: int | Int[Tensor, " n"]
    ) -> Float[Tensor, "n dim"]:
        return _picking(2 * relation, head)

    def head_query(
        self, tail: Float[Tensor, "n dim"], relation: int | Int[Tensor, " n"]
    ) -> Float[Tensor, "n dim"]:
        return _picking(2 * relation + 1, tail)


def _picking(column: int | Tensor, given: Tensor) -> Tensor:
    """Rows whose product with a node's degrees is the degree in that column."""
    query = torch.zeros_like(given)
    query[torch.arange(len(given), device=given.device), column] = 1
    return query


def shallow_trainee(
    kind: str,
    config: RunConfig,
    graph: KnowledgeGraph,
    split: EdgeSplit,
    device: torch.device,
    accumulation_steps: int | None = None,
) -> Trainee:
    """kind: distmult or complex. The run's batches, negatives, optimizer and dropout; the link
    loss, and N3.

    What would make the baseline a weaker one is left out: the losses that serve the embeddings'
    geometry, not the ranks that are compared, and the correction of the softmax, which costs them
    (ComplEx on Hetionet: MRR 0.183, not 0.186, among all nodes 0.066, not 0.104).
    """
    rate = _RATE_OVER_HGT * config.optimizer.learning_rate
    config = replace(
        config,
        model=replace(config.model, edge_dropout=0.0),
        optimizer=replace(config.optimizer, learning_rate=rate),
        batches=replace(config.batches, num_neighbors=None),
        losses=replace(
            config.losses, contrastive_weight=0.0, isotropy_weight=0.0, softmax_correction=0.0
        ),
    )
    torch.manual_seed(torch_seed(config.split.seed, Stream.SHALLOW_WEIGHTS))
    model = ShallowModel(graph, config.model.embedding_dim, config.model.dropout, kind)
    model.to(device)
    optimizer = adam(model, config.optimizer, device)
    messages = AllEdges(no_messages(graph).to(device))
    batches = Batches(graph, split, config, accumulation_steps, messages)
    n3 = n3_weight(graph.total_nodes, graph.total_facts)
    return Trainee(config, device, model, optimizer, batches, n3)


def n3_weight(num_nodes: int, num_facts: int) -> float:
    """The fewer facts a node has, the more its vector is held back, up to what was best on sparse
    graphs.
    """
    return min(_N3 * num_nodes / num_facts, _MOST_N3)


def _train_shallow(name: str, run: OpenRun, index: FactIndex, limit_seconds: float) -> Baseline:
    """Train all epochs, or until the time is up; the best epoch's figures count.

    Without early stopping: with N3 the validation MRR of a table of vectors falls for dozens of
    epochs before it rises again, above what it was (demo graph, ComplEx: 0.41 after 3 epochs, 0.38
    after 13, 0.45 after 38).
    """
    parts = run.form.accumulation_steps if run.form else None
    trainee = shallow_trainee(name, run.config, run.graph, run.split, run.device, parts)
    stopping = run.config.stopping
    facts = sample_facts(run.split.of(VAL), stopping.num_val_edges, run.config.split.seed)
    best, best_epoch, num_steps, seconds, state = -1.0, 0, 0, 0.0, {}
    for epoch in range(stopping.num_epochs):
        steps, spent = _train_epoch(trainee, epoch, limit_seconds - seconds, run.memory)
        num_steps, seconds = num_steps + steps, seconds + spent
        with run.memory.phase("evaluation"):
            mrr = evaluate_val(trainee, facts, index).mrr
        if mrr > best:
            best, best_epoch = mrr, epoch
            with trainee.averaged():
                state = {
                    n: tensor.cpu().clone() for n, tensor in trainee.model.state_dict().items()
                }
        if seconds >= limit_seconds:
            break
    trainee.model.load_state_dict(state)
    trainee.model.eval()
    with torch.no_grad():
        embeddings = trainee.model.encoder.encode(trainee.messages)
    ended = (
        f"its time was up after epoch {epoch + 1}"
        if seconds >= limit_seconds
        else f"ended after epoch {epoch + 1}"
    )
    test_mrr = _test_mrr(run, index, embeddings, trainee.model.decoder)
    return Baseline(name, test_mrr, num_steps, seconds, f"{ended}, the best is {best_epoch + 1}")


def _train_epoch(
    trainee: Trainee, epoch: int, limit_seconds: float, memory: DeviceMemory
) -> tuple[int, float]:
    """Number of steps made, at least one, and their seconds."""
    started, step, number = time.monotonic(), Steps(trainee, epoch), 0
    losses: dict[str, Tensor] = {}
    trainee.model.train()
    for number, batch in batches_ahead(trainee.batches, epoch, range(trainee.batches.num_batches)):
        stop_without_parent()
        seed = trainee.config.split.seed
        torch.manual_seed(torch_seed(seed, Stream.SHALLOW_DROPOUT, epoch, number))
        with memory.phase("step"):
            losses = step(batch)
        if time.monotonic() - started >= limit_seconds:
            break
    losses["total"].item()  # waits for the device
    return number + 1, time.monotonic() - started


if __name__ == "__main__":
    sys.exit(run_program("baselines", sys.argv[1:], compare_run))
