"""The layer computes what PyG's HGTConv computes (the oracle), forward and gradients, on random heterogeneous graphs."""

import pytest
import torch
from torch_geometric.nn import HGTConv

from hgt import edge_kernels
from hgt import layer as layer_module
from hgt.layer import HGTLayer, linear_by_rows
from hgt.message_graph import build_message_graph

NUM_NODES = {"drug": 13, "gene": 40, "disease": 7, "lonely": 5}
EDGE_TYPES = [
    ("drug", "treats", "disease"),
    ("disease", "rev_treats", "drug"),
    ("gene", "interacts", "gene"),
    ("gene", "regulates", "gene"),
    ("drug", "targets", "gene"),
    ("disease", "empty", "gene"),
    ("lonely", "points_at", "drug"),
]


def random_edges(seed, sizes=None):
    generator = torch.Generator().manual_seed(seed)
    sizes = sizes or dict.fromkeys(EDGE_TYPES, 60)
    return {
        e: torch.stack([torch.randint(NUM_NODES[end], (n,), generator=generator) for end in (e[0], e[2])])
        for e, n in ((e, 0 if e[1] == "empty" else sizes[e]) for e in EDGE_TYPES)
    }


def pair(seed, hidden=16, heads=4):
    """PyG's layer and ours with the same parameters, none of them at its initial value."""
    torch.manual_seed(seed)
    conv = HGTConv(hidden, hidden, (list(NUM_NODES), EDGE_TYPES), heads)
    with torch.no_grad():
        for p in conv.parameters():
            p.add_(0.3 * torch.randn_like(p))
    ours = HGTLayer(list(NUM_NODES), len(EDGE_TYPES), hidden, heads)
    ours.load_pyg(conv)
    return conv, ours


def our_graph(edges):
    return build_message_graph(NUM_NODES, EDGE_TYPES, {e: (i[0], i[1]) for e, i in edges.items()})


@pytest.mark.parametrize("heads", [1, 4, 8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_pyg_forward_and_gradients(seed, heads):
    conv, ours = pair(seed, heads=heads)
    edges = random_edges(seed, sizes={e: 10 + 37 * i for i, e in enumerate(EDGE_TYPES)})
    x = torch.randn(sum(NUM_NODES.values()), 16)
    x_pyg, x_ours = x.clone().requires_grad_(), x.clone().requires_grad_()

    x_dict = dict(zip(NUM_NODES, x_pyg.split(list(NUM_NODES.values())), strict=True))
    expected = conv(x_dict, edges)
    got = dict(zip(NUM_NODES, ours(x_ours, our_graph(edges)).split(list(NUM_NODES.values())), strict=True))
    weight = {t: torch.randn(n, 16) for t, n in NUM_NODES.items()}
    reached = [t for t in NUM_NODES if expected.get(t) is not None]
    assert set(reached) == {"drug", "gene", "disease"}
    for t in reached:
        torch.testing.assert_close(got[t], expected[t], atol=1e-5, rtol=1e-5)
    sum((expected[t] * weight[t]).sum() for t in reached).backward()
    sum((got[t] * weight[t]).sum() for t in reached).backward()

    torch.testing.assert_close(x_ours.grad, x_pyg.grad, atol=1e-5, rtol=1e-5)
    blocks = (heads, len(EDGE_TYPES), 16 // heads, 16 // heads)
    torch.testing.assert_close(ours.key_transform.grad, conv.k_rel.weight.grad.view(blocks).transpose(0, 1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.value_transform.grad, conv.v_rel.weight.grad.view(blocks).transpose(0, 1), atol=1e-5, rtol=1e-5)
    for i, t in enumerate(NUM_NODES):
        for ours_linear, theirs in ((ours.key_query_value[i], conv.kqv_lin.lins[t]), (ours.out[i], conv.out_lin.lins[t])):
            if theirs.weight.grad is not None:
                torch.testing.assert_close(ours_linear.weight.grad, theirs.weight.grad, atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(ours_linear.bias.grad, theirs.bias.grad, atol=1e-5, rtol=1e-5)
        if conv.skip[t].grad is not None:
            torch.testing.assert_close(ours.skip.grad[i : i + 1], conv.skip[t].grad, atol=1e-5, rtol=1e-5)
    for i, e in enumerate(EDGE_TYPES):
        if conv.p_rel["__".join(e)].grad is not None:
            torch.testing.assert_close(ours.prior.grad[i], conv.p_rel["__".join(e)].grad[0], atol=1e-5, rtol=1e-5)


def test_gradients_equal_finite_differences():
    """An oracle that shares nothing with either layer's backward pass."""
    _, ours = pair(3, hidden=8, heads=2)
    ours = ours.double()
    graph = our_graph(random_edges(3, sizes=dict.fromkeys(EDGE_TYPES, 9)))
    keep = (torch.arange(graph.num_edges) % 4 != 0).double()
    x = torch.randn(graph.num_nodes, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ours(x, graph, keep), (x,), fast_mode=True)


def test_masked_edges_are_as_good_as_absent():
    _conv, ours = pair(4)
    edges = random_edges(4)
    graph = our_graph(edges)
    kept = {e: torch.rand(i.shape[1]) > 0.3 for e, i in edges.items()}
    kept[("drug", "treats", "disease")][:] = False  # a relation and with it whole nodes without any message
    keep = torch.ones(graph.num_edges)
    for relation in graph.relations:
        edge_type = graph.edge_types[relation.number]
        order = torch.argsort(edges[edge_type][1], stable=True)
        keep[slice(*relation.edges)] = kept[edge_type][order].float()
    without = our_graph({e: i[:, kept[e]] for e, i in edges.items()})
    x = torch.randn(graph.num_nodes, 16, requires_grad=True)
    masked, absent = ours(x, graph, keep), ours(x, without)
    torch.testing.assert_close(masked, absent, atol=1e-6, rtol=1e-6)
    grads = [torch.autograd.grad(out.square().sum(), [x, ours.prior], retain_graph=True) for out in (masked, absent)]
    torch.testing.assert_close(grads[0], grads[1], atol=1e-4, rtol=1e-5)


def test_a_type_without_incoming_edges_keeps_a_defined_embedding():
    _, ours = pair(5)
    x = torch.randn(sum(NUM_NODES.values()), 16)
    lonely = ours(x, our_graph(random_edges(5)))[-NUM_NODES["lonely"] :]
    gate = ours.skip[3].sigmoid()
    torch.testing.assert_close(lonely, gate * ours.out[3].bias + (1 - gate) * x[-NUM_NODES["lonely"] :])


def test_every_formulation_and_chunk_size_gives_the_same(monkeypatch):
    _, ours = pair(6)
    graph = our_graph(random_edges(6))
    x = torch.randn(graph.num_nodes, 16, requires_grad=True)
    results = []
    for chunk, kernel in ((7, edge_kernels._weighted_sum_by_chunks), (8192, edge_kernels._weighted_sum_by_bags)):
        monkeypatch.setitem(edge_kernels.EDGE_CHUNK, "cpu", chunk)
        monkeypatch.setattr(edge_kernels, "_weighted_sum_by_bags", kernel)
        out = ours(x, graph)
        results.append((out, *torch.autograd.grad(out.square().sum(), [x, ours.value_transform])))
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-5)


def test_long_reductions_are_split_without_changing_the_result(monkeypatch):
    _, ours = pair(7)
    graph = our_graph(random_edges(7))
    x = torch.randn(graph.num_nodes, 16, requires_grad=True)
    whole = torch.autograd.grad(ours(x, graph).square().sum(), [x, *ours.parameters()])
    monkeypatch.setattr(layer_module, "MAX_REDUCTION_ROWS", 6)
    parts = torch.autograd.grad(ours(x, graph).square().sum(), [x, *ours.parameters()])
    torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-5)


def test_linear_by_rows_equals_linear():
    linear = torch.nn.Linear(4, 3)
    x = torch.randn(70_001, 4)
    torch.testing.assert_close(linear_by_rows(x, linear), linear(x))
