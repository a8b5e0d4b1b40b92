"""The link loss and its gradients against a loop over facts."""

import pytest
import torch

from hgt.graph.split import TRAIN
from hgt.model.decoders import DECODERS, DistMult
from hgt.training import sampled_softmax
from hgt.training.batches import Batches
from tests.unit.hgt.pairwise import pairwise
from tests.unit.hgt.training.summed_losses import summed


def score(decoder, head, relation, tail):
    """The two decoders' formulas, on complex numbers where they are meant."""
    r = decoder.relation[relation]
    if isinstance(decoder, DistMult):
        return (head * r * tail).sum()
    h, r, t = (torch.complex(*x.chunk(2)) for x in (head, r, tail))
    return (h * r * t.conj()).sum().real


def naive_link_loss(embeddings, batch, facts, graph, batches, decoder, num_others, correction):
    """Mean over the batch's facts and both sides of -log softmax, one fact at a time.

    The softmax is over the pool and some nodes of each other type, without those of true facts.
    """
    true = set(map(tuple, split_both_ways(facts, graph)))
    pools = {}
    sections = batch.micro_batches[0].nodes.split(batches.layout.sections)
    for r in batches.layout.relations:
        head_type, _, tail_type = graph.edge_types[r.relation]
        pools[tail_type], pools[head_type] = (
            sections[r.tail_pool].tolist(),
            sections[r.head_pool].tolist(),
        )
    losses = []
    for f in batch.supervised[batch.supervised < batches.num_train].tolist():
        h, r, t = facts[:, f].tolist()
        head_type, _, tail_type = graph.edge_types[r]
        own = score(decoder, embeddings[h], r, embeddings[t])
        sides = [
            [
                ((h, r, n), weight)
                for n, weight in competing(pools, tail_type, num_others, graph, correction)
            ],
            [
                ((n, r, t), weight)
                for n, weight in competing(pools, head_type, num_others, graph, correction)
            ],
        ]
        for others in sides:
            left = [
                (score(decoder, embeddings[a], b, embeddings[c]), weight)
                for (a, b, c), weight in others
                if (a, b, c) not in true
            ]
            losses.append(torch.log(own.exp() + sum(weight * s.exp() for s, weight in left)) - own)
    return torch.stack(losses).mean()


def competing(pools, node_type, num_others, graph, correction):
    """All sampled nodes of the type, each as often as it counts, and the first ones of every
    other.
    """
    own = pools[node_type]
    weight = (graph.num_nodes[node_type] / len(own)) ** correction
    return [(n, weight) for n in own] + [
        (n, 1.0) for other, pool in pools.items() if other != node_type for n in pool[:num_others]
    ]


def split_both_ways(facts, graph):
    for h, r, t in facts.T.tolist():
        yield h, r, t
        if graph.edge_types[r] in graph.symmetric:
            yield t, r, h


@pytest.mark.parametrize("kind", ["distmult", "complex"])
@pytest.mark.parametrize(
    ("steps", "num_others", "correction"), [(1, 3, 0.0), (3, 3, 0.0), (1, 0, 0.5), (3, 20, 1.0)]
)
def test_link_loss_equals_a_naive_loop(
    graph, split, make_config, kind, steps, num_others, correction
):
    config = make_config(
        accumulation_steps=steps,
        min_batches_per_epoch=20,
        num_negatives=12,
        num_other_negatives=num_others,
        softmax_correction=correction,
    )
    batches = Batches(graph, split, config)
    torch.manual_seed(0)
    decoder, embeddings = (
        DECODERS[kind](len(graph.edge_types), 8),
        torch.randn(graph.total_nodes, 8),
    )
    with torch.no_grad():
        decoder.relation.add_(torch.randn_like(decoder.relation))
        batch = batches.draw(1, 4)
        expected = naive_link_loss(
            embeddings, batch, split.of(TRAIN), graph, batches, decoder, num_others, correction
        )
        got = summed(embeddings, batch, batches, decoder, config.losses)
    torch.testing.assert_close(got["link"], expected, atol=1e-5, rtol=1e-5)
    w = config.losses.contrastive_weight
    torch.testing.assert_close(got["total"], (1 - w) * got["link"] + w * got["contrastive"])


@pytest.mark.parametrize(
    ("form", "kind"),
    pairwise([(1_000, 20, 1.0), (5, 3, 0.5), (5, 0, 0.0)], ["distmult", "complex"]),
)
def test_the_link_losss_gradients_are_those_of_the_naive_loop(
    graph, split, make_config, monkeypatch, kind, form
):
    """They are written out by hand, some facts at a time."""
    most, num_others, correction = form
    monkeypatch.setattr(sampled_softmax, "rows_at_a_time", lambda device_type: most)
    config = make_config(
        accumulation_steps=2,
        min_batches_per_epoch=20,
        num_negatives=12,
        num_other_negatives=num_others,
        softmax_correction=correction,
        contrastive_weight=0.0,
    )
    batches = Batches(graph, split, config)
    torch.manual_seed(3)
    decoder = DECODERS[kind](len(graph.edge_types), 8).double()
    embeddings = torch.randn(graph.total_nodes, 8, dtype=torch.float64).requires_grad_()
    batch = batches.draw(1, 4)
    (4 * summed(embeddings, batch, batches, decoder, config.losses)["total"]).backward()
    got = [x.grad for x in (embeddings, decoder.relation)]
    embeddings.grad = decoder.relation.grad = None
    (
        4
        * naive_link_loss(
            embeddings, batch, split.of(TRAIN), graph, batches, decoder, num_others, correction
        )
    ).backward()
    for ours, expected in zip(got, (embeddings.grad, decoder.relation.grad), strict=True):
        assert expected.abs().max() > 0.01
        # weights of facts are float32
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)


def test_the_link_loss_goes_back_once_only(graph, split, make_config):
    batches = Batches(graph, split, make_config(contrastive_weight=0.0))
    embeddings = torch.randn(graph.total_nodes, 8, requires_grad=True)
    decoder = DistMult(len(graph.edge_types), 8)
    loss = summed(embeddings, batches.draw(0, 0), batches, decoder, make_config().losses)["link"]
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once only"):
        loss.backward()
