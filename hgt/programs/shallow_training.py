"""The shallow baselines: a vector for each node, trained without messages.

In: an open run. Out: a `Baseline`. They train with the run's own batches, negatives and optimizer,
but without early stopping.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from hgt.config import RunConfig
from hgt.device.memory_use import DeviceMemory
from hgt.evaluation.fact_index import FactIndex
from hgt.evaluation.ranking import sample_facts
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import VAL, EdgeSplit
from hgt.messages.step_messages import AllEdges, no_messages
from hgt.model.shallow import ShallowModel
from hgt.programs.baseline_table import Baseline
from hgt.programs.mrr_by_scope import mrr_of_test_facts
from hgt.run.opened import OpenRun
from hgt.run.parent import stop_without_parent
from hgt.seeds import Stream, torch_seed
from hgt.training.batches import Batches
from hgt.training.batches_ahead import batches_ahead
from hgt.training.optimizer import adam
from hgt.training.steps import Steps
from hgt.training.trainee import Trainee
from hgt.training.val_metrics import evaluate_val

# A node's row changes only in steps that contain the node; HGT's weights change in every step.
# Tuned ComplEx is best with a rate of 0.02 to 0.04 on two graphs (tests/bench/README.md). A larger
# rate takes fewer steps, which matters because its time is limited.
_RATE_OVER_HGT = 10.0
# N3 = _N3 / (facts per node), at most _MOST_N3. Tuned ComplEx is best with 0.04 at 26 facts per
# node, and with 0.1 at 10 and at 3.7 (the same page).
_N3, _MOST_N3 = 1.0, 0.1


def shallow_trainee(
    kind: str,
    config: RunConfig,
    graph: KnowledgeGraph,
    split: EdgeSplit,
    device: torch.device,
    accumulation_steps: int | None = None,
) -> Trainee:
    """A shallow model with the run's batches, negatives, optimizer and dropout, with the link loss
    and N3.

    kind: distmult or complex.
    accumulation_steps: number of micro-batches per step; None for the configuration's.

    Everything that would weaken the baseline is left out. First, the losses that serve the geometry
    of the embeddings and not the ranks. Second, the correction of the softmax, which costs ranks
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
    """Weight of N3. The fewer facts a node has, the larger it is, up to the best value on sparse
    graphs.
    """
    return min(_N3 * num_nodes / num_facts, _MOST_N3)


def train_shallow(name: str, run: OpenRun, index: FactIndex, limit_seconds: float) -> Baseline:
    """Train all epochs, or until the time is up. The figures of the best epoch count.

    limit_seconds: time for the steps.

    There is no early stopping. With N3 the validation MRR of a table of vectors falls for dozens of
    epochs, then rises above its start (demo graph, ComplEx: 0.41 after 3 epochs, 0.38 after 13,
    0.45 after 38).
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
    test_mrr = mrr_of_test_facts(run, index, embeddings, trainee.model.decoder)
    return Baseline(name, test_mrr, num_steps, seconds, f"{ended}, the best is {best_epoch + 1}")


def _train_epoch(
    trainee: Trainee, epoch: int, limit_seconds: float, memory: DeviceMemory
) -> tuple[int, float]:
    """One epoch, or a part of it. Returns the number of steps, at least one, and their seconds."""
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
