"""The layer computes what PyG's HGTConv computes (the oracle), forward and gradients, on random heterogeneous graphs."""

import copy
import importlib

import pytest
import torch
from torch_geometric.nn import HGTConv

from hgt.kernels import nodes as node_kernels
from hgt.kernels.dropout import draw_seeds, kept_elements
from hgt.kernels.edges import ChunkedKernels, FusedKernels
from hgt.kernels.nodes import NodeKernels
from hgt.messages.message_graph import GroupLimits, build_message_graph, edge_list
from hgt.model import attention, layer_pass
from hgt.model.layer import HGTLayer, linear_by_rows
from tests.hgt.interpreter import require_interpreter

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


def starts(edge_type):
    first = dict(zip(NUM_NODES, torch.tensor([0, *NUM_NODES.values()]).cumsum(0).tolist(), strict=False))
    return torch.tensor([[first[edge_type[0]]], [first[edge_type[2]]]])


def our_graph(edges, limits=None):
    return build_message_graph(NUM_NODES, EDGE_TYPES, {e: (i[0], i[1]) for e, i in edges.items()}, limits=limits)


@pytest.mark.parametrize("limits", [GroupLimits(), GroupLimits(rows=32, edges=40)], ids=["few groups", "many groups"])
@pytest.mark.parametrize("heads", [1, 4, 8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_pyg_forward_and_gradients(seed, heads, limits):
    """In float64 to 1e-10; in float32, where PyG itself is off by up to 5e-5 of its own float64, the outputs to 1e-5."""
    conv, ours = pair(seed, heads=heads)
    edges = random_edges(seed, sizes={e: 10 + 37 * i for i, e in enumerate(EDGE_TYPES)})
    x = torch.randn(sum(NUM_NODES.values()), 16)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        conv, ours = conv.to(dtype), ours.to(dtype)
        x_pyg, x_ours = x.to(dtype).clone().requires_grad_(), x.to(dtype).clone().requires_grad_()
        expected = conv(dict(zip(NUM_NODES, x_pyg.split(list(NUM_NODES.values())), strict=True)), edges)
        got = dict(zip(NUM_NODES, ours(x_ours, our_graph(edges, limits)).split(list(NUM_NODES.values())), strict=True))
        reached = [t for t in NUM_NODES if expected.get(t) is not None]
        assert set(reached) == {"drug", "gene", "disease"}
        for t in reached:
            torch.testing.assert_close(got[t], expected[t], atol=tolerance, rtol=tolerance)
    weight = {t: torch.randn(n, 16, dtype=torch.float64) for t, n in NUM_NODES.items()}
    sum((expected[t] * weight[t]).sum() for t in reached).backward()
    sum((got[t] * weight[t]).sum() for t in reached).backward()
    torch.testing.assert_close(x_ours.grad, x_pyg.grad, atol=1e-10, rtol=0)
    for ours_grad, pyg_grad in gradients_beside(conv, ours, heads):
        torch.testing.assert_close(ours_grad, pyg_grad, atol=1e-10, rtol=0)


def gradients_beside(conv, ours, heads):
    """Every parameter's gradient in our layer's shape, beside PyG's; those that PyG leaves None are left out."""
    blocks = (heads, len(EDGE_TYPES), 16 // heads, 16 // heads)
    yield ours.key_transform.grad, conv.k_rel.weight.grad.view(blocks).transpose(0, 1)
    yield ours.value_transform.grad, conv.v_rel.weight.grad.view(blocks).transpose(0, 1)
    for i, t in enumerate(NUM_NODES):
        maps = ((ours.projection, ours.projection_bias, conv.kqv_lin.lins[t]), (ours.out, ours.out_bias, conv.out_lin.lins[t]))
        for weight, bias, theirs in maps:
            if theirs.weight.grad is not None:
                yield weight.grad[i].view_as(theirs.weight), theirs.weight.grad
                yield bias.grad[i].view_as(theirs.bias), theirs.bias.grad
        if conv.skip[t].grad is not None:
            yield ours.skip.grad[i : i + 1], conv.skip[t].grad
    for i, e in enumerate(EDGE_TYPES):
        if conv.p_rel["__".join(e)].grad is not None:
            yield ours.prior.grad[i], conv.p_rel["__".join(e)].grad[0]


def test_gradients_equal_finite_differences():
    """An oracle that shares nothing with either layer's backward pass."""
    _, ours = pair(3, hidden=8, heads=2)
    ours = ours.double()
    graph = our_graph(random_edges(3, sizes=dict.fromkeys(EDGE_TYPES, 9)))
    removed = torch.arange(graph.num_edges) % 4 == 0
    inputs = [torch.randn(graph.num_nodes, 8, dtype=torch.float64, requires_grad=True), *ours.parameters()]
    weight = torch.randn(graph.num_nodes, 8, dtype=torch.float64)
    grads = torch.autograd.grad((ours(inputs[0], graph, removed) * weight).sum(), inputs)
    step = 1e-5
    for tensor, grad in zip(inputs, grads, strict=True):
        direction = torch.randn_like(tensor)
        ends = []
        for sign in (1, -2):  # up one step, then down two
            with torch.no_grad():
                tensor += sign * step * direction
            ends.append((ours(inputs[0], graph, removed) * weight).sum().item())
        with torch.no_grad():
            tensor += step * direction
        assert (grad * direction).sum().item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6, abs=1e-8)


def test_masked_edges_are_as_good_as_absent():
    _conv, ours = pair(4)
    edges = random_edges(4)
    graph = our_graph(edges)
    kept = {e: torch.rand(i.shape[1]) > 0.3 for e, i in edges.items()}
    kept[("drug", "treats", "disease")][:] = False  # a relation and with it whole nodes without any message
    rows = {e: [(r, *ends) for ends in (edges[e] + starts(e)).T.tolist()] for r, e in enumerate(EDGE_TYPES)}
    gone = {row for e in EDGE_TYPES for row, stays in zip(rows[e], kept[e].tolist(), strict=True) if not stays}
    kept = {e: torch.tensor([row not in gone for row in rows[e]], dtype=torch.bool) for e in EDGE_TYPES}  # an edge may stand there twice
    all_edges = zip(*(column.tolist() for column in vars(edge_list(graph)).values()), strict=True)
    removed = torch.tensor([row in gone for row in all_edges])
    without = our_graph({e: i[:, kept[e]] for e, i in edges.items()})
    x = torch.randn(graph.num_nodes, 16, requires_grad=True)
    masked, absent = ours(x, graph, removed), ours(x, without)
    torch.testing.assert_close(masked, absent, atol=1e-6, rtol=1e-6)
    grads = [torch.autograd.grad(out.square().sum(), [x, ours.prior]) for out in (masked, absent)]
    torch.testing.assert_close(grads[0], grads[1], atol=1e-4, rtol=1e-5)


def test_a_type_without_incoming_edges_keeps_a_defined_embedding():
    _, ours = pair(5)
    x = torch.randn(sum(NUM_NODES.values()), 16)
    lonely = ours(x, our_graph(random_edges(5)))[-NUM_NODES["lonely"] :]
    gate = ours.skip[3].sigmoid()
    torch.testing.assert_close(lonely, gate * ours.out_bias[3] + (1 - gate) * x[-NUM_NODES["lonely"] :])


def triton_kernels():
    """The CUDA formulation, run by Triton's interpreter on the CPU."""
    require_interpreter()
    edges, nodes = (importlib.import_module(f"hgt.{name}") for name in ("triton_kernels", "triton_node_kernels"))
    return edges.TritonKernels(), nodes.TritonNodeKernels()


@pytest.mark.parametrize(
    "formulation",
    [
        pytest.param(lambda: (FusedKernels(7), NodeKernels()), id="bags"),
        pytest.param(lambda: (ChunkedKernels(7), NodeKernels()), id="chunks of 7"),
        pytest.param(lambda: (ChunkedKernels(1000), NodeKernels()), id="one chunk"),
        pytest.param(triton_kernels, id="triton", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("dropout", "hidden", "spend"), [(0.0, 16, False), (0.5, 32, True), (0.5, 24, False)])
def test_every_formulation_and_chunk_size_gives_the_same(monkeypatch, formulation, dropout, hidden, spend):
    """In float32, against float64. Of small inputs: where large scores make the softmax hard, rounding alone comes to 5e-6."""
    edges, nodes = formulation()
    _, ours = pair(6, hidden)
    ours.dropout = ours.input_dropout = dropout
    graph = our_graph(random_edges(6))
    x, weight = 0.3 * torch.randn(graph.num_nodes, hidden), torch.randn(graph.num_nodes, hidden)

    def outcome(layer, dtype):
        torch.manual_seed(3)
        given = x.to(dtype).requires_grad_()
        out = layer(given, graph, spend_gradient=spend)
        return out, *torch.autograd.grad((out * weight.to(dtype)).sum(), [given, *layer.parameters()])

    expected = outcome(copy.deepcopy(ours).double(), torch.float64)
    monkeypatch.setattr(attention, "edge_kernels", lambda device: edges)
    monkeypatch.setattr(layer_pass, "node_kernels", lambda device: nodes)
    for found, wanted in zip(outcome(ours, torch.float32), expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, atol=2e-6 * wanted.abs().max().item(), rtol=1e-5)


def test_the_backward_pass_runs_once():
    """It overwrites what the forward pass kept; a second one says so instead of giving wrong gradients."""
    _, ours = pair(8)
    out = ours(torch.randn(sum(NUM_NODES.values()), 16, requires_grad=True), our_graph(random_edges(8))).sum()
    out.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once only"):
        out.backward()


@pytest.mark.parametrize("training", [True, False], ids=["with dropout", "without"])
def test_a_gradient_that_may_be_spent_gives_the_same_gradients(training):
    """And one that may not be stays as it was handed in: the caller may need it again."""
    _, ours = pair(9)
    ours.dropout, ours.input_dropout, ours.training = 0.5, 0.2, training
    graph = our_graph(random_edges(9))
    x = torch.randn(graph.num_nodes, 16, requires_grad=True)
    handed = torch.randn(graph.num_nodes, 16)

    def gradients(spend_gradient, grad_out):
        torch.manual_seed(1)  # dropout
        out = ours(x, graph, spend_gradient=spend_gradient)
        return torch.autograd.grad(out, [x, *ours.parameters()], grad_out)

    kept, spent = handed.clone(), handed.clone()
    expected, got = gradients(False, kept), gradients(True, spent)
    assert torch.equal(kept, handed)
    assert not torch.equal(spent, handed), "otherwise nothing was saved"
    torch.testing.assert_close(got, expected, atol=0, rtol=0)


def test_a_dropped_input_is_what_the_layer_reads_while_training():
    ours = pair(12)[1].double()
    graph = our_graph(random_edges(12))
    x = torch.randn(graph.num_nodes, 16, dtype=torch.float64, requires_grad=True)

    def outcome(x_read):
        out = ours(x_read, graph)
        return out, *torch.autograd.grad(out.square().sum(), [x, *ours.parameters()])

    torch.manual_seed(1)
    kept = kept_elements(tuple(x.shape), 0.3, draw_seeds(2)[0])
    assert 0.6 < kept.float().mean() < 0.8
    expected = outcome(x * kept / 0.7)
    ours.input_dropout = 0.3
    torch.manual_seed(1)
    torch.testing.assert_close(outcome(x), expected, atol=1e-10, rtol=1e-10)
    ours.eval()
    undisturbed = outcome(x)
    ours.input_dropout = 0.0
    torch.testing.assert_close(outcome(x), undisturbed, atol=0, rtol=0)


@pytest.mark.parametrize(("recompute", "keep_projections"), [(False, True), (True, False), (True, True)])
def test_what_is_kept_for_the_backward_pass_does_not_change_it(recompute, keep_projections):
    ours = pair(10)[1].double()
    ours.dropout, ours.input_dropout = 0.5, 0.2
    graph = our_graph(random_edges(10))
    x = torch.randn(graph.num_nodes, 16, dtype=torch.float64, requires_grad=True)

    def gradients():
        torch.manual_seed(1)  # dropout: computing again must not draw again
        out = ours(x, graph, torch.arange(graph.num_edges) % 5 == 0)
        torch.manual_seed(2)
        return out, torch.autograd.grad(out.square().sum(), [x, *ours.parameters()])

    assert not ours.recompute
    assert not ours.keep_projections
    expected = gradients()
    ours.recompute, ours.keep_projections = recompute, keep_projections
    torch.testing.assert_close(gradients(), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mixed_precision_stays_close_to_float32(seed):
    """bfloat16 has 8 bits: of six seeds the outputs were off by at most 0.8 % of their norm, a gradient by 2.2 %."""
    _, ours = pair(seed)
    graph = our_graph(random_edges(seed, sizes=dict.fromkeys(EDGE_TYPES, 200)))
    x = torch.randn(graph.num_nodes, 16, requires_grad=True)
    weight = torch.randn(graph.num_nodes, 16)

    def results():
        out = ours(x, graph)
        return [out.detach(), *torch.autograd.grad((out * weight).sum(), [x, *ours.parameters()])]

    exact = results()
    ours.compute_dtype = torch.bfloat16
    mixed = results()
    assert {t.dtype for t in mixed} == {torch.float32}
    off = [((m - e).norm() / e.norm()).item() for m, e in zip(mixed, exact, strict=True)]
    assert 1e-3 < off[0] < 0.02, "at 0 nothing was computed in bfloat16"
    assert max(off[1:]) < 0.05, off


def test_long_reductions_are_split_without_changing_the_result(monkeypatch):
    _, ours = pair(7)
    graph = our_graph(random_edges(7))
    x = torch.randn(graph.num_nodes, 16, requires_grad=True)
    whole = torch.autograd.grad(ours(x, graph).square().sum(), [x, *ours.parameters()])
    monkeypatch.setattr(node_kernels, "MAX_REDUCTION_ROWS", 6)
    parts = torch.autograd.grad(ours(x, graph).square().sum(), [x, *ours.parameters()])
    torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-5)


def test_linear_by_rows_equals_linear():
    linear = torch.nn.Linear(4, 3)
    x = torch.randn(70_001, 4)
    torch.testing.assert_close(linear_by_rows(x, linear), linear(x))
