"""An epoch supervises every training fact once, and batches repeat exactly."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch

from hgt.graph.split import TRAIN, split_facts
from hgt.training.batches import Batches


def of_batch(batch, num_train):
    return batch.supervised[batch.supervised < num_train]


@pytest.mark.parametrize(
    "values",
    [{}, {"edge_sample_size": 7}, {"min_batches_per_epoch": 25}, {"accumulation_steps": 8}],
)
@pytest.mark.parametrize("epoch", [0, 3])
def test_an_epoch_supervises_every_training_fact_exactly_once(
    graph, split, make_config, values, epoch
):
    config = make_config(**values)
    batches = Batches(graph, split, config)
    facts = split.of(TRAIN)
    drawn = [
        of_batch(batches.draw(epoch, b), batches.num_train) for b in range(batches.num_batches)
    ]
    assert torch.equal(torch.cat(drawn).sort().values, torch.arange(facts.shape[1]))
    largest = int(torch.bincount(facts[1]).max())
    assert batches.num_batches == max(
        math.ceil(largest / config.batches.edge_sample_size), config.batches.min_batches_per_epoch
    )
    per_batch = torch.stack(
        [torch.bincount(facts[1][d], minlength=len(graph.edge_types)) for d in drawn]
    )
    assert int(per_batch.max()) <= config.batches.edge_sample_size
    assert int((per_batch.max(0).values - per_batch.min(0).values).max()) <= 1, (
        "each edge type is spread evenly over the batches"
    )


def test_two_epochs_deal_the_facts_differently(graph, split, config):
    batches = Batches(graph, split, config)
    assert not torch.equal(batches.draw(0, 0).supervised, batches.draw(1, 0).supervised)


def tensors_of(batch):
    yield batch.supervised
    for micro in batch.micro_batches:
        yield from (getattr(micro, f.name) for f in fields(micro))


def test_draw_is_a_pure_function(graph, split, config):
    one, other = Batches(graph, split, config), Batches(graph, split, config)
    for b in range(one.num_batches):
        one.draw(0, b)
    np.random.default_rng(0).random(7)
    for again in (one, other):
        for a, b in zip(
            tensors_of(again.draw(2, 1)),
            tensors_of(Batches(graph, split, config).draw(2, 1)),
            strict=True,
        ):
            assert torch.equal(a, b)
    assert not torch.equal(
        one.draw(2, 1).micro_batches[0].nodes, one.draw(2, 2).micro_batches[0].nodes
    )


@pytest.mark.parametrize("steps", [1, 3])
def test_shapes_are_the_same_from_batch_to_batch(graph, split, make_config, steps):
    batches = Batches(graph, split, make_config(accumulation_steps=steps, min_batches_per_epoch=11))
    shapes = set()
    for epoch in range(2):
        for b in range(batches.num_batches):
            batch = batches.draw(epoch, b)
            assert len(batch.micro_batches) == steps
            shapes |= {
                (batch.supervised.shape, *(getattr(m, f.name).shape for f in fields(m)))
                for m in batch.micro_batches
            }
    assert len(shapes) == 1
    assert sum(batches.layout.sections) == len(batches.draw(0, 0).micro_batches[0].nodes)


def test_the_graph_has_all_kinds_of_relations(graph, split):
    """What the other tests rely on: symmetric, between types, directed within a type.

    Held-out facts.
    """
    within = {e for e in graph.edge_types if e[0] == e[2]}
    assert graph.symmetric
    assert within - graph.symmetric
    assert set(graph.edge_types) - within
    assert split.of(TRAIN).shape[1] < split.facts.shape[1]


def test_weights_of_a_batch_add_up_to_one(graph, split, make_config):
    batches = Batches(graph, split, make_config(accumulation_steps=3))
    for b in range(batches.num_batches):
        batch = batches.draw(0, b)
        num = len(of_batch(batch, batches.num_train))
        weights = torch.cat([m.weight for m in batch.micro_batches])
        assert torch.equal((weights > 0).sum(), torch.tensor(num))
        torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
        torch.testing.assert_close(
            torch.cat([m.anchor_weight for m in batch.micro_batches]).sum(), torch.tensor(1.0)
        )


@pytest.mark.parametrize(
    "directed", [(), ("paired",)], ids=["of one edge type", "of two edge types"]
)
def test_a_supervised_facts_mirror_is_silent(make_graph, make_config, directed):
    """(b, follows, a) beside (a, follows, b): the split holds the two out together, so no ranked
    fact has the other among its messages.
    """
    rng, names = np.random.default_rng(0), [f"p{i:02}" for i in range(60)]
    ends = [(names[a], names[b]) for a, b in rng.integers(60, size=(300, 2)) if a != b]
    rows = [("person", a, "follows", "person", b) for a, b in ends] + [
        ("person", b, "follows", "person", a) for a, b in ends[::5]
    ]
    rows += [("person", a, "reads", "book", b) for a, b in ends]
    if directed:
        rows += [("person", a, "paired", "book", b) for a, b in ends] + [
            ("book", b, "paired", "person", a) for a, b in ends[::3]
        ]
    graph = make_graph(rows, directed_relations=directed)
    assert not graph.symmetric
    config = make_config(directed_relations=directed)
    batches = Batches(graph, split_facts(graph, config.split), config)
    facts = [(h, graph.edge_types[r][1], t) for h, r, t in batches.facts.T.tolist()]
    place, mirrored = {fact: i for i, fact in enumerate(facts)}, set()
    for number in range(batches.num_batches):
        batch = batches.draw(0, number)
        supervised = set(of_batch(batch, batches.num_train).tolist())
        mirrors = {place[facts[f][::-1]] for f in supervised if facts[f][::-1] in place}
        assert set(batch.silent.tolist()) - {batches.num_train} == supervised | mirrors
        mirrored |= {facts[m][1] for m in mirrors}
    assert mirrored == {"follows", *directed}


def test_edge_dropout_leaves_out_its_share_of_facts(graph, split, make_config):
    config = make_config(edge_dropout=0.25)
    batches = Batches(graph, split, config, 2)
    plain = Batches(graph, split, make_config(), 2)
    left_out = []
    for number in range(20):
        batch, without = (
            batches.draw(0, number % batches.num_batches),
            plain.draw(0, number % batches.num_batches),
        )
        assert torch.equal(batch.supervised, without.supervised)
        more = set(batch.silent.tolist()) - set(without.silent.tolist())
        left_out.append(len(more) / (batches.num_train - len(set(without.silent.tolist()))))
    assert sum(left_out) / len(left_out) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(batches.draw(0, 1).silent, batches.draw(0, 1).silent)
    assert not torch.equal(batches.draw(0, 1).silent, batches.draw(1, 1).silent)
