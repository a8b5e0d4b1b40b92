"""Encoder: PyG's calling form, refusals, dropout, layer-wise inference in chunks."""

import pytest
import torch
from torch_geometric.data import HeteroData

from hgt.embeddings.inference import infer_layerwise
from hgt.errors import InputError
from hgt.graph.split import EdgeSplit, all_facts
from hgt.messages.training_messages import message_edge_types, training_message_graph
from hgt.model.hgt_model import HGTModel


def with_reverses(data, graph):
    """PyG's dictionary of edges, with what the encoder's message passing adds: reverses, and both
    directions of symmetric ones.
    """
    out = {}
    for (h, r, t), index in data.edge_index_dict.items():
        if (h, r, t) in graph.symmetric:
            out[h, r, t] = torch.cat([index, index.flip(0)], dim=1)
        else:
            out[h, r, t], out[t, f"rev_{r}", h] = index, index.flip(0)
    return out


@pytest.fixture(scope="module")
def model(graph, config):
    torch.manual_seed(3)
    return HGTModel(graph, config.model).eval()


@pytest.fixture(scope="module")
def whole(graph):
    """The message graph of all facts, as `to_hetero_data` has them."""
    facts = all_facts(graph)
    return training_message_graph(
        graph, EdgeSplit(facts, torch.zeros(facts.shape[1], dtype=torch.uint8), ())
    )


@torch.no_grad()
def test_the_encoder_takes_pygs_dictionaries(graph, model, whole):
    data = graph.to_hetero_data()
    assert isinstance(data, HeteroData)
    sizes = list(graph.num_nodes.values())
    for (node_type, n), x in zip(
        graph.num_nodes.items(), model.encoder.node_embedding.split(sizes), strict=True
    ):
        assert data[node_type].num_nodes == n
        data[node_type].x = x.clone()
    edges = with_reverses(data, graph)
    out = model.encoder(data.x_dict, edges)
    assert list(out) == graph.node_types
    expected = model.encoder.encode(whole)
    torch.testing.assert_close(torch.cat(list(out.values())), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        torch.cat(list(model.encoder(None, edges).values())), expected, atol=1e-5, rtol=1e-5
    )
    other = {t: x + 1 for t, x in data.x_dict.items()}
    assert (torch.cat(list(model.encoder(other, edges).values())) - expected).abs().max() > 1e-3, (
        "inputs count"
    )


@torch.no_grad()
def test_every_node_has_an_embedding_without_any_edge(graph, model):
    out = model.encoder(None, {})
    assert {t: x.shape for t, x in out.items()} == {t: (n, 16) for t, n in graph.num_nodes.items()}
    assert all(torch.isfinite(x).all() for x in out.values())


def learned(model, graph):
    return dict(
        zip(
            graph.node_types,
            model.encoder.node_embedding.detach().split(list(graph.num_nodes.values())),
            strict=True,
        )
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda x: x | {"disease": torch.ones_like(x["disease"])},
            "x_dict\\['disease'\\] is the same for all .* collapse",
        ),
        (
            lambda x: {t: v for t, v in x.items() if t != "drug"},
            "x_dict\\['drug'\\] must be .* not nothing",
        ),
        (lambda x: x | {"drug": x["drug"][:, :3]}, "x_dict\\['drug'\\] must be"),
        (lambda x: x | {"planet": torch.randn(3, 16)}, "no node type planet"),
    ],
)
def test_refused_inputs(graph, model, change, says):
    with pytest.raises(InputError, match=says):
        model.encoder(change(learned(model, graph)), {})


def test_refused_edges(graph, model):
    with pytest.raises(InputError, match=r"no edge type .*orbits"):
        model.encoder(None, {("drug", "orbits", "drug"): torch.zeros(2, 1, dtype=torch.long)})
    for bad in (graph.num_nodes["disease"], -1):
        with pytest.raises(InputError, match="names nodes outside"):
            model.encoder(None, {("drug", "indication", "disease"): torch.tensor([[0], [bad]])})


def test_every_edge_type_has_a_reverse_and_symmetric_ones_are_their_own(graph):
    types = message_edge_types(graph)
    assert len(types) == 2 * len(graph.edge_types) - len(graph.symmetric)
    assert len(set(types)) == len(types)


@torch.no_grad()
@pytest.mark.parametrize(
    "node_batch_size", [pytest.param(1, marks=pytest.mark.slow), 7, 64, 10_000]
)
def test_inference_in_chunks_equals_one_forward(model, whole, node_batch_size):
    whole_pass = model.encoder.encode(whole)
    torch.testing.assert_close(
        infer_layerwise(model.encoder, whole, node_batch_size), whole_pass, atol=1e-5, rtol=1e-5
    )


def test_inference_turns_dropout_off(graph, make_config, whole):
    torch.manual_seed(0)
    encoder = HGTModel(graph, make_config(dropout=0.5, input_dropout=0.5).model).train().encoder
    torch.testing.assert_close(
        infer_layerwise(encoder, whole, 50), infer_layerwise(encoder, whole, 50), atol=0, rtol=0
    )


def test_inputs_are_dropped_while_training_only(graph, make_config, whole):
    def hidden(share, seed, training=True):
        torch.manual_seed(0)
        encoder = HGTModel(graph, make_config(input_dropout=share).model).train(training).encoder
        torch.manual_seed(seed)
        return encoder.hidden(whole)

    assert torch.equal(hidden(0.5, 1), hidden(0.5, 1))
    assert (hidden(0.5, 1) - hidden(0.5, 2)).abs().max() > 1e-2
    assert torch.equal(hidden(0.5, 1, training=False), hidden(0.0, 1))
