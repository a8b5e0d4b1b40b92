"""N3, InfoNCE and isotropy against loops, their optimum, and when the link loss is the whole
loss.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from hgt.graph.split import TRAIN
from hgt.model.decoders import DECODERS, DistMult
from hgt.training.batches import Batches
from hgt.training.losses import anisotropy, concentration, info_nce, isotropy_loss
from tests.unit.hgt.training.summed_losses import loss_of, summed


@pytest.mark.parametrize("kind", ["distmult", "complex"])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_n3_is_the_mean_sum_of_cubes_of_a_batchs_facts(graph, split, make_config, kind, weight):
    config = make_config(accumulation_steps=3, contrastive_weight=weight)
    batches = Batches(graph, split, config)
    torch.manual_seed(0)
    decoder = DECODERS[kind](len(graph.edge_types), 8)
    embeddings, batch = torch.randn(graph.total_nodes, 8), batches.draw(0, 0)
    without, told = (
        summed(embeddings, batch, batches, decoder, config.losses, n3) for n3 in (0.0, 0.3)
    )
    facts = split.of(TRAIN)[:, batch.supervised[batch.supervised < batches.num_train]]
    vectors = torch.cat([embeddings[facts[0]], decoder.relation[facts[1]], embeddings[facts[2]]])
    moduli = vectors.abs() if kind == "distmult" else torch.complex(*vectors.chunk(2, -1)).abs()
    torch.testing.assert_close(
        told["total"] - without["total"],
        0.3 * moduli.pow(3).sum() / facts.shape[1],
        rtol=1e-4,
        atol=1e-4,
    )
    assert torch.equal(told["link"], without["link"])


def test_contrastive_loss_equals_a_naive_loop(graph, split, make_config):
    config = make_config(accumulation_steps=3)
    batches = Batches(graph, split, config)
    torch.manual_seed(1)
    embeddings = torch.randn(graph.total_nodes, 8)
    batch, contrast = batches.draw(0, 0), batches.layout.contrast
    losses = []
    for micro in batch.micro_batches:
        sections = micro.nodes.split(batches.layout.sections)
        for i in torch.nonzero(micro.anchor_weight).squeeze(1).tolist():
            a, p = (embeddings[sections[s][i]] for s in (contrast.anchor, contrast.positive))
            others = [
                embeddings[n]
                for n, known in zip(sections[contrast.pool], micro.anchor_known[i], strict=True)
                if not known
            ]
            cosines = [
                torch.cosine_similarity(a, x, dim=0) / config.losses.contrastive_temperature
                for x in (p, *others)
            ]
            losses.append(torch.logsumexp(torch.stack(cosines), 0) - cosines[0])
    got = summed(embeddings, batch, batches, DistMult(len(graph.edge_types), 8), config.losses)
    torch.testing.assert_close(got["contrastive"], torch.stack(losses).mean(), atol=1e-5, rtol=1e-5)


def test_info_nce_by_hand():
    anchor, positive = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    pool = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    loss = info_nce(anchor, positive, pool, torch.tensor([[True, False]]), 0.5)
    torch.testing.assert_close(loss, torch.tensor([math.log(1 + math.exp(-2))]))


def test_info_nce_is_best_at_cosine_one():
    """Free vectors of two groups: within a group they attract, and those of the other group
    repel.
    """
    torch.manual_seed(2)
    x = torch.randn(12, 6, requires_grad=True)
    group = torch.arange(12) % 2
    alike = group[:, None] == group
    optimizer = torch.optim.Adam([x], lr=0.05)
    for step in range(300):
        # every other member of the group in turn
        positive = (torch.arange(12) + 2 + 2 * (step % 5)) % 12
        optimizer.zero_grad()
        info_nce(x, x[positive], x, alike, 0.5).mean().backward()
        optimizer.step()
    unit = torch.nn.functional.normalize(x.detach(), dim=1)
    cosine = unit @ unit.T
    assert cosine[alike].min() > 0.95
    assert cosine[~alike].max() < 0


def test_info_nce_falls_with_the_positives_cosine():
    angle = torch.linspace(0, math.pi, 9)
    positive = torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)
    anchor = torch.tensor([[1.0, 0, 0]]).expand(9, -1)
    loss = info_nce(
        anchor, positive, torch.tensor([[0.0, 0, 1]]), torch.zeros(9, 1, dtype=torch.bool), 0.1
    )
    assert (loss.diff() > 0).all(), "smallest at cosine 1"


@pytest.mark.parametrize(
    "values",
    [
        {"contrastive_node_type": "no such type"},
        {"similarity_threshold": 1.0, "contrastive_node_type": "exposure"},
        {"contrastive_weight": 0.0},
    ],
)
def test_without_alike_pairs_the_link_loss_is_the_whole_loss(graph, split, make_config, values):
    config = make_config(**values)
    batches = Batches(graph, split, config)
    assert batches.layout.contrast is None
    embeddings = torch.randn(graph.total_nodes, 8)
    got = summed(
        embeddings, batches.draw(0, 0), batches, DistMult(len(graph.edge_types), 8), config.losses
    )
    assert got["total"] == got["link"] > 0
    assert got["contrastive"] == 0


@pytest.mark.parametrize("node_type", ["disease", "gene/protein", "drug"])
def test_any_node_type_can_be_contrasted(graph, split, make_config, node_type):
    config = make_config(contrastive_node_type=node_type)
    batches = Batches(graph, split, config)
    embeddings = torch.randn(graph.total_nodes, 8)
    got = summed(
        embeddings, batches.draw(0, 0), batches, DistMult(len(graph.edge_types), 8), config.losses
    )
    assert got["contrastive"] > 0
    anchors = (
        batches.draw(0, 0)
        .micro_batches[0]
        .nodes.split(batches.layout.sections)[batches.layout.contrast.anchor]
    )
    span = graph.type_range(node_type)
    assert all(span.start <= n < span.stop for n in anchors.tolist())


def test_padding_and_filtered_nodes_get_no_gradient(graph, split, make_config):
    config = make_config(min_batches_per_epoch=7, accumulation_steps=1, contrastive_weight=0.0)
    batches = Batches(graph, split, config)
    (micro,) = batches.draw(0, 0).micro_batches
    assert (micro.weight == 0).any(), "this batch has padding"
    rows = torch.randn(len(micro.nodes), 8, requires_grad=True)
    loss_of(rows, micro, batches.layout, DistMult(len(graph.edge_types), 8), config.losses)[
        "total"
    ].backward()
    grads = rows.grad.split(batches.layout.sections)
    for r in batches.layout.relations:
        padding = micro.weight[r.facts] == 0
        head, tail = (grads[s][r.facts] for s in (batches.layout.head, batches.layout.tail))
        assert (head[padding] == 0).all()
        assert (tail[padding] == 0).all()
        assert (head[~padding] != 0).any(1).all()


@pytest.mark.parametrize("dim", [8, 64], ids=["fewer dimensions than rows", "more"])
def test_concentration_is_that_of_all_nodes_directions(dim):
    """Each type counts by its share of all nodes, however many of them are sampled."""
    torch.manual_seed(0)
    by_type, shares = (
        [1 + torch.randn(n, dim) * torch.rand(n, 1) for n in (5, 20, 1, 12)],
        [0.5, 0.3, 0.05, 0.15],
    )
    expected = torch.zeros(())
    for (a, share), (b, other) in itertools.product(zip(by_type, shares, strict=True), repeat=2):
        expected += share * other * functional.cosine_similarity(a[:, None], b[None], dim=-1).mean()
    nodes = np.concatenate([functional.normalize(x, dim=1).numpy() for x in by_type])
    weights = np.concatenate(
        [np.full(len(x), share / len(x)) for x, share in zip(by_type, shares, strict=True)]
    )
    variances = np.linalg.eigvalsh(np.cov(nodes.T, aweights=weights, ddof=0))
    cosine, concentrated = concentration(by_type, shares)
    torch.testing.assert_close(cosine, expected)
    assert 1 / concentrated.item() == pytest.approx(
        variances.sum() ** 2 / np.square(variances).sum(), rel=1e-4
    )


@pytest.mark.parametrize("used", [1, 4, 16])
def test_directions_used_alike_are_as_many_as_the_components(used):
    """Both ways along each of them, so that their mean is zero."""
    rows = torch.eye(16)[:used].repeat(4, 1)
    cosine, concentrated = concentration([3 * rows, -rows], [0.5, 0.5])
    assert cosine.item() == pytest.approx(0, abs=1e-6)
    assert 1 / concentrated.item() == pytest.approx(used)


def test_anisotropy_is_zero_where_directions_are_enough():
    torch.manual_seed(0)
    spread, few = torch.randn(500, 64), torch.randn(500, 4) @ torch.randn(4, 64)
    assert anisotropy([spread], [1.0]).item() == 0
    assert anisotropy([spread + 0.5], [1.0]).item() == 0, "a mean cosine of 0.2"
    assert anisotropy([spread + 1], [1.0]).item() == pytest.approx(0.5 - 0.3, abs=0.02)
    assert 1 / 4 - 1 / 16 < anisotropy([few], [1.0]).item() < 1 / 2, (
        "16 components of 64 dimensions are asked for, there are at most 4"
    )


def test_anisotropy_of_one_single_direction_is_finite():
    rows = torch.ones(100, 16, requires_grad=True)
    found = anisotropy([rows], [1.0])
    found.backward()
    assert found.item() == pytest.approx(1 - 0.3)
    assert rows.grad.isfinite().all()


def test_the_isotropy_loss_spreads_what_points_one_way(graph, split, make_config):
    """Descent along it alone: a cloud far from the origin in four of 64 dimensions comes to lie
    around it in many.
    """
    torch.manual_seed(0)
    config = make_config(isotropy_weight=7.0)
    layout = Batches(graph, split, config).layout
    num_rows = sum(n for _, n, _ in layout.directions)
    rows = (torch.randn(num_rows, 4) @ torch.randn(4, 64) + 4 * torch.randn(1, 64)).requires_grad_()
    optimizer, found = torch.optim.Adam([rows], lr=0.1), []
    for _ in range(200):
        optimizer.zero_grad()
        losses = isotropy_loss(rows, layout, config.losses)
        assert losses["total"].item() == pytest.approx(7 * losses["isotropy"].item())
        losses["total"].backward()
        optimizer.step()
        found.append(losses["isotropy"].item())
    assert found[0] > 0.4
    assert found[-1] == pytest.approx(0, abs=0.01)


def test_every_type_shows_the_isotropy_loss_some_of_its_nodes(graph, split, config):
    batches = Batches(graph, split, config)
    parts = [
        micro.nodes.split(batches.layout.sections) for micro in batches.draw(0, 0).micro_batches
    ]
    compared, *others = (
        torch.cat([sections[pool][:n] for pool, n, _ in batches.layout.directions])
        for sections in parts
    )
    assert all(torch.equal(compared, other) for other in others), "each micro-batch has them"
    assert sum(share for _, _, share in batches.layout.directions) == pytest.approx(1)
    for node_type in graph.node_types:
        span = graph.type_range(node_type)
        # pools are of 20 nodes
        assert ((compared >= span.start) & (compared < span.stop)).sum() == min(
            20, graph.num_nodes[node_type]
        )
