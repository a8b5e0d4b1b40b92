"""A step gives the same in every form, whatever its batch holds, and masks what it supervises."""

from dataclasses import replace

import pytest
import torch

from hgt.graph.split import TRAIN, split_facts
from hgt.messages.training_messages import (
    build_message_graph,
    message_edge_types,
    training_message_graph,
)
from hgt.training.step import removed_edges, train_step
from hgt.training.step_form import StepForm
from hgt.training.trainee import build_trainee

CPU = torch.device("cpu")
FEW_ROWS = {
    "num_negatives": 2,
    "contrastive_weight": 0.0,
    "min_batches_per_epoch": 100,
    "accumulation_steps": 1,
}


def test_fewer_facts_than_batches_give_finite_steps(make_graph, make_config):
    graph = make_graph([("drug", f"a{i}", "treats", "disease", f"b{i % 2}") for i in range(4)])
    config = make_config(min_batches_per_epoch=10, contrastive_weight=0.0)
    split = split_facts(graph, config.split)
    trainee = build_trainee(config, graph, split, CPU)
    for b in range(trainee.batches.num_batches):
        losses = train_step(trainee, trainee.batches.draw(0, b))
        assert all(torch.isfinite(v) for v in losses.values())
    assert all(torch.isfinite(p).all() for p in trainee.model.parameters())


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("min_batches", [3, 10])
def test_accumulated_gradients_equal_the_whole_batchs(
    graph, split, make_config, dropout, min_batches
):
    results = {}
    for steps in (1, 2, 4, 8, 7):
        config = make_config(
            accumulation_steps=steps,
            dropout=dropout,
            min_batches_per_epoch=min_batches,
            max_grad_norm=1e9,
        )
        trainee = build_trainee(config, graph, split, CPU)
        trainee.model.train()
        torch.manual_seed(11)  # dropout
        losses = train_step(trainee, trainee.batches.draw(0, 1))
        results[steps] = (losses, [p.grad for p in trainee.model.parameters()])
    assert any(int(g.abs().max() > 0) for g in results[1][1])
    for steps, (losses, grads) in results.items():
        torch.testing.assert_close(
            losses, results[1][0], atol=1e-5, rtol=1e-5, msg=lambda m, n=steps: f"{n} steps: {m}"
        )
        torch.testing.assert_close(
            grads, results[1][1], atol=1e-5, rtol=1e-5, msg=lambda m, n=steps: f"{n} steps: {m}"
        )


@pytest.mark.parametrize("values", [{}, FEW_ROWS], ids=["many rows", "few rows"])
def test_every_form_of_the_step_gives_the_same(graph, split, make_config, values):
    """Smaller tables and groups, computing again, more micro-batches: losses and gradients stay,
    and dropout drops the same.
    """
    config = make_config(dropout=0.3, max_grad_norm=1e9, **values)
    planned = [StepForm.of(config)]
    while (smaller := planned[-1].smaller()) is not None:
        planned.append(smaller)
    (without_projections,) = [
        f for f in planned if f.table_rows == planned[0].table_rows and not f.keep_projections
    ]
    chosen = [planned[0], without_projections, planned[-1]]
    # a graph as small as this one has few groups otherwise
    forms = chosen + [replace(f, table_rows=64, group_edges=100) for f in chosen]
    results, num_groups = [], set()
    for form in forms:
        trainee = build_trainee(config, graph, split, CPU, form)
        trainee.model.train()
        num_groups.add(len(trainee.messages.groups))
        torch.manual_seed(11)  # dropout
        losses = train_step(trainee, trainee.batches.draw(0, 1))
        results.append([*losses.values(), *(p.grad for p in trainee.model.parameters())])
    assert min(num_groups) == 2, "one for each side that is transformed"
    assert max(num_groups) > 10
    for form, found in zip(forms, results, strict=True):
        for tensor, whole in zip(found, results[0], strict=True):
            assert (tensor - whole).norm() <= 1e-5 * whole.norm(), form


def test_no_message_passes_along_a_supervised_fact(graph, split, trainee):
    """Nor along its mirror.

    The masked embeddings are those of a message graph built from the other facts alone, and differ
    from those of the whole one.
    """
    encoder = trainee.model.encoder.eval()
    batch = trainee.batches.draw(0, 0)
    facts = split.of(TRAIN)
    named = [(h, graph.edge_types[r][1], t) for h, r, t in facts.T.tolist()]
    asked = {
        named[f] for f in batch.supervised[batch.supervised < trainee.batches.num_train].tolist()
    }
    stays = torch.tensor([fact not in asked and fact[::-1] not in asked for fact in named])
    edges = {}
    for r, (head_type, name, tail_type) in enumerate(graph.edge_types):
        h, _, t = facts[:, stays & (facts[1] == r)]
        h, t = h - graph.offsets[head_type], t - graph.offsets[tail_type]
        if (head_type, name, tail_type) in graph.symmetric:
            edges[head_type, name, tail_type] = (torch.cat([h, t]), torch.cat([t, h]))
        else:
            edges[head_type, name, tail_type] = (h, t)
            edges[tail_type, f"rev_{name}", head_type] = (t, h)
    without = build_message_graph(graph.num_nodes, message_edge_types(graph), edges)
    with torch.no_grad():
        masked = encoder.encode(trainee.messages, removed_edges(trainee, batch))
        torch.testing.assert_close(masked, encoder.encode(without), atol=1e-5, rtol=1e-5)
        assert (masked - encoder.encode(training_message_graph(graph, split))).abs().max() > 1e-2
