"""Decoders: their formulas, what they tell apart, and that the configuration names each of them."""

import pytest
import torch

from hgt.config import parameters
from hgt.model.decoders import DECODERS, ComplEx
from hgt.model.hgt_model import HGTModel


def test_the_configuration_names_every_decoder(graph, make_config):
    """As the run's own decoder, and as a shallow baseline."""
    choices = {p.name: p.choices for p in parameters()}
    assert list(choices["decoder"]) == list(DECODERS)
    assert set(choices["baselines"]) - {"random", "degree", "none"} == set(DECODERS)
    for name, decoder in DECODERS.items():
        assert type(HGTModel(graph, make_config(decoder=name).model).decoder) is decoder


@pytest.mark.parametrize("name", DECODERS)
def test_both_queries_give_one_score_and_what_training_needs_is_there(name):
    """The contract of the interface, for whoever adds a decoder."""
    torch.manual_seed(6)
    decoder = DECODERS[name](4, 12, [2])
    decoder.relation.data += torch.randn(4, 12)
    head, tail = torch.randn(5, 12), torch.randn(5, 12)
    relation = torch.tensor([0, 1, 2, 3, 2])
    of_tails, of_heads = decoder.tail_query(head, relation), decoder.head_query(tail, relation)
    torch.testing.assert_close((of_tails * tail).sum(1), (of_heads * head).sum(1))
    torch.testing.assert_close(
        decoder.tail_query(head[:1], 2), decoder.tail_query(head[:1], relation[2:3])
    )
    assert decoder.relation_vectors().shape == (4, 12)
    assert torch.equal(decoder.squared_moduli(2 * head), 4 * decoder.squared_moduli(head))
    torch.testing.assert_close(decoder.squared_moduli(head).sum(1), head.square().sum(1))
    assert list(decoder.state_dict()) == ["relation"], "the name that files have it by"
    assert decoder.query_tensors >= 2


def formula(kind, h, r, t):
    if kind == "distmult":
        return (h * r * t).sum(-1)
    h, r, t = (torch.complex(*x.chunk(2, -1)) for x in (h, r, t))
    return (h * r * t.conj()).sum(-1).real


@pytest.mark.parametrize("kind", ["distmult", "complex"])
def test_both_queries_equal_the_formula(kind):
    torch.manual_seed(4)
    decoder = DECODERS[kind](3, 10)
    decoder.relation.data = torch.randn(3, 10)
    h, t = torch.randn(6, 10), torch.randn(6, 10)
    for r in range(3):
        expected = formula(kind, h, decoder.relation[r], t)
        torch.testing.assert_close((decoder.tail_query(h, r) * t).sum(-1), expected)
        torch.testing.assert_close((decoder.head_query(t, r) * h).sum(-1), expected)


@pytest.mark.parametrize(("kind", "tells"), [("distmult", False), ("complex", True)])
def test_complex_tells_direction(kind, tells):
    torch.manual_seed(5)
    decoder = DECODERS[kind](1, 8)
    decoder.relation.data = torch.randn(1, 8)
    a, b = torch.randn(1, 8), torch.randn(1, 8)
    forth, back = ((decoder.tail_query(x, 0) * y).sum() for x, y in ((a, b), (b, a)))
    assert bool((forth - back).abs() > 0.1) == tells


def test_a_symmetric_relation_has_no_direction_and_keeps_none_while_training():
    torch.manual_seed(5)
    decoder = ComplEx(3, 8, symmetric=[1])
    a, b = torch.randn(5, 8), torch.randn(5, 8)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (decoder.tail_query(a, torch.tensor([0, 1, 2, 1, 1])) * b).sum().backward()
        optimizer.step()
    for r in range(3):
        forth, back = ((decoder.tail_query(x, r) * y).sum(1) for x, y in ((a, b), (b, a)))
        assert torch.allclose(forth, back, atol=1e-5) == (r == 1)
        torch.testing.assert_close((decoder.head_query(b, r) * a).sum(1), forth)
    assert not decoder.relation[1, 4:].any()
    assert (decoder.relation[1, :4] - 1).abs().max() > 0.1, "it learns"
    assert torch.equal(decoder.relation_vectors(), decoder.relation)
    assert list(decoder.state_dict()) == ["relation"]
