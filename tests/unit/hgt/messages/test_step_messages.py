"""Whether messages pass along all edges or drawn ones: what a step and the plan see of it."""

import dataclasses

import pytest
import torch

from hgt.graph.split import TRAIN
from hgt.messages.grouping import edge_list
from hgt.messages.step_messages import (
    AllEdges,
    DrawnEdges,
    draws_edges,
    no_messages,
    num_step_edges,
    step_messages,
)
from hgt.messages.training_messages import training_message_graph
from hgt.training.step import removed_edges, train_step
from hgt.training.step_form import StepForm
from hgt.training.trainee import build_trainee
from tests.unit.hgt.live_bytes import tensors_in

CPU = torch.device("cpu")


@pytest.mark.parametrize("num_neighbors", [None, 1, 4])
def test_the_plan_counts_the_edges_that_a_step_gets(graph, split, config, num_neighbors):
    source = step_messages(graph, split, num_neighbors, StepForm.of(config).limits, CPU)
    assert isinstance(source, DrawnEdges) == draws_edges(num_neighbors)
    edges, drawn = (
        edge_list(e) for e in (training_message_graph(graph, split), source.draw(0, 0, 0))
    )
    for relation in edges.relation.unique().tolist():
        in_degrees = torch.bincount(edges.target[edges.relation == relation]).float()
        assert int((drawn.relation == relation).sum()) == num_step_edges(in_degrees, num_neighbors)


def test_facts_of_drawn_edges_stay_on_the_cpu(graph, split, config):
    source = step_messages(graph, split, 2, StepForm.of(config).limits, CPU)
    drawn = source.draw(0, 0, 0)
    assert drawn.fact is not None
    assert source.on_device(drawn).fact is None
    assert torch.equal(edge_list(source.on_device(drawn)).source, edge_list(drawn).source)


def test_no_messages_are_no_edges_between_the_graphs_nodes(graph):
    nothing = no_messages(graph)
    assert (nothing.num_edges, nothing.num_nodes) == (0, graph.total_nodes)


@pytest.mark.parametrize(
    "form", [{}, {"table_rows": 64, "group_edges": 200}], ids=["few groups", "many groups"]
)
def test_a_cap_above_all_degrees_changes_nothing(graph, split, make_config, form):
    """Hidden states and all gradients of the encoder, in float64, with the step's supervised
    facts removed.
    """
    results = []
    for values in ({}, {"num_neighbors": 100_000}):
        config = make_config(**values)
        trainee = build_trainee(
            config, graph, split, CPU, dataclasses.replace(StepForm.of(config), **form)
        )
        encoder = trainee.model.encoder.double()
        batch = trainee.batches.draw(0, 1)
        assert (batch.messages is trainee.messages) == (not values)
        removed = removed_edges(trainee, batch)
        assert 0 < int(removed.sum()) < len(removed)
        hidden = encoder.hidden(batch.messages, removed)
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(hidden.shape, generator=generator, dtype=torch.float64)
        (hidden * weight).sum().backward()
        results.append(
            [
                hidden.detach(),
                *(p.grad for p in encoder.layers.parameters()),
                encoder.node_embedding.grad,
            ]
        )
    for mine, whole in zip(*results, strict=True):
        torch.testing.assert_close(mine, whole, atol=1e-10, rtol=1e-10)


def test_without_a_cap_nothing_is_drawn(graph, split, config):
    trainee = build_trainee(config, graph, split, CPU)
    source = trainee.batches.step_messages
    assert isinstance(source, AllEdges)
    assert trainee.batches.draw(0, 0).messages is source.all_edges is trainee.messages
    assert source.on_device(trainee.messages) is trainee.messages, "nothing is copied"


def test_no_message_passes_along_a_supervised_fact(graph, split, make_config):
    """Of what was drawn, exactly the edges that tell a fact of the batch or its mirror are
    removed, in both directions.
    """
    trainee = build_trainee(make_config(num_neighbors=4), graph, split, CPU)
    batch = trainee.batches.draw(0, 0)
    removed = removed_edges(trainee, batch)
    head, relation, tail = split.of(TRAIN)[
        :, batch.supervised[batch.supervised < trainee.batches.num_train]
    ]
    supervised = set()
    for h, r, t in zip(head.tolist(), relation.tolist(), tail.tolist(), strict=True):
        name = graph.edge_types[r][1]
        # a mirror's, or a symmetric relation's
        supervised |= {(name, h, t), (f"rev_{name}", t, h), (name, t, h), (f"rev_{name}", h, t)}
    edges = edge_list(batch.messages)
    names = [batch.messages.edge_types[r][1] for r in edges.relation.tolist()]
    expected = [
        edge in supervised
        for edge in zip(names, edges.source.tolist(), edges.target.tolist(), strict=True)
    ]
    assert removed.tolist() == expected
    assert any(expected)


def test_a_step_depends_on_what_was_drawn_for_it(graph, split, make_config):
    """And on nothing else of the message edges: a trainee whose graph with all edges is gone
    takes the same step.
    """
    results = {}
    for name in ("drawn", "all edges lost", "another draw"):
        trainee = build_trainee(make_config(num_neighbors=2), graph, split, CPU)
        batch = trainee.batches.draw(0, 0)
        if name == "all edges lost":
            empty = dataclasses.replace(
                trainee.messages, groups=(), fact=torch.zeros(0, dtype=torch.int32)
            )
            trainee.batches.step_messages = dataclasses.replace(
                trainee.batches.step_messages, all_edges=empty
            )
        if name == "another draw":
            batch = dataclasses.replace(batch, messages=trainee.batches.step_messages.draw(0, 0, 1))
        train_step(trainee, batch)
        results[name] = trainee.model.encoder.node_embedding.grad
    assert torch.equal(results["drawn"], results["all edges lost"])
    assert not torch.allclose(results["drawn"], results["another draw"], atol=1e-4)


def test_batches_repeat_with_their_edges(graph, split, make_config):
    config = make_config(num_neighbors=3)
    one, other = (build_trainee(config, graph, split, CPU).batches for _ in range(2))
    one.draw(0, 1)
    for a, b in zip(tensors_in(one.draw(2, 1)), tensors_in(other.draw(2, 1)), strict=True):
        assert torch.equal(a, b)
