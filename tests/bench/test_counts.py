"""What the limit counts against what really happens: torch's own count of operations, the kernels'
gathers, and lists written by hand.
"""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hgt.config import ModelConfig, RunConfig
from hgt.graph.split import split_facts
from hgt.kernels.edges import ChunkedKernels
from hgt.messages.training_messages import build_message_graph
from hgt.model import attention
from hgt.model.layer import HGTLayer
from hgt.training.losses import micro_batch_loss
from hgt.training.trainee import build_trainee
from tests.bench import counts
from tests.bench.counts import MessageSizes, Work, message_sizes, supervised_sizes
from tests.bench.graphs import primekg_like

NUM_NODES = {"drug": 30, "gene": 50, "disease": 20}
EDGE_TYPES = (
    ("drug", "targets", "gene"),
    ("gene", "rev_targets", "drug"),
    ("gene", "binds", "gene"),
    ("disease", "about", "gene"),
)
SMALL = ModelConfig(
    embedding_dim=24, hidden_dim=16, num_heads=2, num_layers=1, dropout=0.0, input_dropout=0.0
)


@pytest.fixture(scope="module")
def edges():
    generator = torch.Generator().manual_seed(0)
    return {
        e: tuple(torch.randint(NUM_NODES[end], (90,), generator=generator) for end in (e[0], e[2]))
        for e in EDGE_TYPES
    }


@pytest.fixture(scope="module")
def messages(edges):
    return build_message_graph(NUM_NODES, EDGE_TYPES, edges)


@pytest.fixture(scope="module")
def counted(messages):
    """[forward, backward] operations of one layer as torch counts them, and the edges that the
    kernels gathered rows for.
    """
    torch.manual_seed(0)
    layer = HGTLayer(list(NUM_NODES), len(EDGE_TYPES), SMALL.hidden_dim, SMALL.num_heads)
    x = torch.randn(messages.num_nodes, SMALL.hidden_dim, requires_grad=True)
    kernels = CountingKernels(chunk=1024)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "edge_kernels", lambda device_type: kernels)
        with operations() as forward:
            out = layer(x, messages)
        with operations() as backward:
            out.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops(), kernels.gathered


class CountingKernels(ChunkedKernels):
    gathered = 0

    def edge_dot(self, nodes, table, group, out):
        self.gathered += len(out)
        super().edge_dot(nodes, table, group, out)

    def add_weighted_sum(self, out, summands, weights, edges):
        self.gathered += len(edges.row)
        super().add_weighted_sum(out, summands, weights, edges)


def operations():
    """torch's counter, which leaves out products that are added in place."""
    in_place = {torch.ops.aten.addmm_: lambda out, a, b, *_, **__: 2 * a[0] * a[1] * b[1]}
    return FlopCounterMode(display=False, custom_mapping=in_place)


def dense(sizes):
    parts = (
        counts.projections(sizes, SMALL),
        counts.relation_transforms(sizes, SMALL),
        counts.output_maps(sizes, SMALL),
    )
    return sum(p.operations for p in parts)


def test_a_layers_products(messages, counted):
    """Forward exactly what the layer computes, once its padding and its nodes without edges are put
    in; backward twice that, and what the layer computes again is at most another forward pass.
    """
    sizes = message_sizes(messages)
    forward, backward, _ = counted
    with_padding = dataclasses.replace(
        sizes,
        sources=sizes.nodes,
        targets=sizes.nodes,
        target_rows=0,
        source_rows=sum(len(g.nodes) for g in messages.groups),
    )
    assert dense(with_padding) == 3 * forward
    assert 0.8 * 3 * forward < dense(sizes) < 3 * forward
    assert 2 * forward <= backward <= 3 * forward


def test_a_layers_gathers(messages, counted):
    """Six rows per edge; the layer gathers the values of some edges once more."""
    assert 6 * messages.num_edges <= counted[2] <= 7 * messages.num_edges


@pytest.mark.parametrize("some_removed", [False, True])
def test_message_sizes_equal_sets(messages, edges, some_removed):
    generator = torch.Generator().manual_seed(1)
    removed = torch.rand(messages.num_edges, generator=generator) < 0.7 if some_removed else None
    found = message_sizes(messages, removed)
    triples = zip(*(c.tolist() for c in vars(counts.edge_list(messages)).values()), strict=True)
    kept = [
        t
        for t, r in zip(
            triples, removed.tolist() if some_removed else [False] * messages.num_edges, strict=True
        )
        if not r
    ]
    sources, targets = (
        {r: {t[side] for t in kept if t[0] == r} for r in range(len(EDGE_TYPES))} for side in (1, 2)
    )
    at_source = {r for r in sources if len(sources[r]) <= len(targets[r])}
    at_target = set(sources) - at_source
    assert found == MessageSizes(
        nodes=100,
        node_types=3,
        edge_types=4,
        edges=len(kept),
        sources=len(set().union(*sources.values())),
        targets=len(set().union(*targets.values())),
        source_rows=sum(len(sources[r]) for r in at_source),
        target_rows=sum(len(targets[r]) for r in at_target),
        plain_targets=len(set().union(*(targets[r] for r in at_source))),
        plain_sources=len(set().union(*(sources[r] for r in at_target))),
    )


def test_bytes_of_a_small_layer_listed_by_hand():
    """Two drugs -> three genes with four edges, one lonely node; 8 dimensions, 2 heads: rows of 32
    bytes.
    """
    sizes, model = (
        MessageSizes(6, 2, 1, 4, 2, 3, 2, 0, 3, 0),
        ModelConfig(hidden_dim=8, num_heads=2, embedding_dim=10),
    )
    active, drugs, genes, every = 3, 2, 3, 6
    forward = active + genes + 2 * drugs  # x; q, k, v
    # x; their gradients; the output's; that of x
    backward = active + genes + 2 * drugs + every + every
    assert counts.projections(sizes, model).bytes == 32 * (forward + backward) + 4 * 3 * (
        2 * 3 * 8 * 8
    )
    tables = 2 * (drugs + drugs)  # keys and values: read, written
    assert counts.relation_transforms(sizes, model).bytes == 32 * tables + 4 * 3 * (2 * 2 * 4 * 4)
    passes = (genes + genes) + (genes + genes + genes) + (drugs + drugs + drugs + drugs)
    numbers = 4 * (3 * 4 + 5 * 2 * 4)
    along = counts.edge_passes(sizes, model)
    assert along.bytes == 32 * (passes + 6 * 4) + numbers
    assert along.cached_bytes == 32 * (passes + 2 * (2 * drugs) + 2 * genes) + numbers
    maps = (genes + every + every) + (every + genes + every + genes)
    assert counts.output_maps(sizes, model).bytes == 32 * maps + 4 * 3 * (2 * 8 * 8)
    assert counts.final_projection(6, model).bytes == 4 * 6 * ((8 + 10) + (10 + 8 + 8)) + 4 * 3 * 80


def test_a_steps_products():
    """Loss and projection of a real batch: below what is computed by no more than padding and
    filtered pairs.
    """
    config = RunConfig.from_flat(
        {
            **{f: getattr(SMALL, f) for f in ("embedding_dim", "hidden_dim", "num_heads")},
            "num_negatives": 20,
        }
    )
    graph = primekg_like(600, 4000)
    trainee = build_trainee(config, graph, split_facts(graph, config.split), torch.device("cpu"))
    batch, layout, model = trainee.batches.draw(0, 0), trainee.batches.layout, trainee.model
    sizes = supervised_sizes(batch, layout)
    micro = batch.micro_batches[0]
    rows = torch.randn(len(micro.nodes), SMALL.hidden_dim, requires_grad=True)
    with operations() as projection:
        embeddings = model.encoder.project(rows)
    with operations() as one_loss:
        # with its gradients
        micro_batch_loss(
            *embeddings.split(layout.shared_and_own), micro, layout, model.decoder, config.losses
        )
    assert (
        counts.final_projection(len(rows), config.model).operations
        == 3 * projection.get_total_flops()
    )
    computed = len(batch.micro_batches) * one_loss.get_total_flops()
    assert 0.5 * computed < counts.loss(sizes, config.model).operations < computed
    assert sizes.rows <= graph.total_nodes


def test_limits():
    work = Work(operations=600, bytes=80, cached_bytes=20).times(2) + Work(0, 40, 40)
    assert work == Work(1200, 200, 80)
    assert work.limit_seconds(flops=100, bandwidth=10) == 12 + 20
    assert work.hard_limit_seconds(flops=100, bandwidth=10) == 12
