"""The passes written out by hand are exact, whichever kernels run and whatever is kept between
them.
"""

import copy
import importlib

import pytest
import torch

from hgt.kernels import nodes as node_kernels
from hgt.kernels.edges import ChunkedKernels, FusedKernels
from hgt.kernels.nodes import NodeKernels
from hgt.model import attention, layer_pass
from tests.unit.hgt.interpreter import require_interpreter
from tests.unit.hgt.model.random_layers import EDGE_TYPES, NUM_NODES, our_graph, pair, random_edges


def test_gradients_equal_finite_differences():
    """An oracle that shares nothing with either layer's backward pass."""
    _, ours = pair(3, hidden=8, heads=2)
    ours = ours.double()
    graph = our_graph(random_edges(3, sizes=dict.fromkeys(EDGE_TYPES, 9)))
    removed = torch.arange(graph.num_edges) % 4 == 0
    inputs = [
        torch.randn(graph.num_nodes, 8, dtype=torch.float64, requires_grad=True),
        *ours.parameters(),
    ]
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
        assert (grad * direction).sum().item() == pytest.approx(
            (ends[0] - ends[1]) / (2 * step), rel=1e-6, abs=1e-8
        )


def triton_kernels():
    """The CUDA formulation, run by Triton's interpreter on the CPU."""
    require_interpreter()
    edges, nodes = (
        importlib.import_module(f"hgt.{name}")
        for name in ("kernels.triton_edges", "kernels.triton_nodes")
    )
    return edges.TritonKernels(1000), nodes.TritonNodeKernels()


@pytest.mark.parametrize(
    "formulation",
    [
        pytest.param(lambda: (FusedKernels(7), NodeKernels()), id="bags"),
        pytest.param(lambda: (ChunkedKernels(7), NodeKernels()), id="chunks of 7"),
        pytest.param(lambda: (ChunkedKernels(1000), NodeKernels()), id="one chunk"),
        pytest.param(triton_kernels, id="triton", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("dropout", "hidden", "spend"), [(0.0, 16, False), (0.5, 32, True), (0.5, 24, False)]
)
def test_every_formulation_and_chunk_size_gives_the_same(
    monkeypatch, formulation, dropout, hidden, spend
):
    """In float32, against float64.

    Of small inputs: where large scores make the softmax hard, rounding alone comes to 5e-6.
    """
    edges, nodes = formulation()
    _, ours = pair(6, hidden)
    ours.dropout = ours.input_dropout = dropout
    graph = our_graph(random_edges(6))
    x, weight = 0.3 * torch.randn(graph.num_nodes, hidden), torch.randn(graph.num_nodes, hidden)

    def outcome(layer, dtype):
        torch.manual_seed(3)
        given = x.to(dtype).requires_grad_()
        out = layer(given, graph, spend_gradient=spend)
        return out, *torch.autograd.grad(
            (out * weight.to(dtype)).sum(), [given, *layer.parameters()]
        )

    expected = outcome(copy.deepcopy(ours).double(), torch.float64)
    monkeypatch.setattr(attention, "edge_kernels", lambda device: edges)
    monkeypatch.setattr(layer_pass, "node_kernels", lambda device: nodes)
    for found, wanted in zip(outcome(ours, torch.float32), expected, strict=True):
        torch.testing.assert_close(
            found.double(), wanted, atol=2e-6 * wanted.abs().max().item(), rtol=1e-5
        )


def test_the_backward_pass_runs_once():
    """It overwrites what the forward pass kept.

    A second one says so instead of giving wrong gradients.
    """
    _, ours = pair(8)
    out = ours(
        torch.randn(sum(NUM_NODES.values()), 16, requires_grad=True), our_graph(random_edges(8))
    ).sum()
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


@pytest.mark.parametrize(
    ("recompute", "keep_projections"), [(False, True), (True, False), (True, True)]
)
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


def test_long_reductions_are_split_without_changing_the_result(monkeypatch):
    _, ours = pair(7)
    graph = our_graph(random_edges(7))
    x = torch.randn(graph.num_nodes, 16, requires_grad=True)
    whole = torch.autograd.grad(ours(x, graph).square().sum(), [x, *ours.parameters()])
    monkeypatch.setattr(node_kernels, "MAX_REDUCTION_ROWS", 6)
    parts = torch.autograd.grad(ours(x, graph).square().sum(), [x, *ours.parameters()])
    torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-5)
