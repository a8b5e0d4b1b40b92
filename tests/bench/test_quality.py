"""TransE and RotatE, written as inner products, rank by the distances that they are defined by;
spikes are told by epoch.
"""

import pytest
import torch

from hgt.messages.message_graph import MessageGraph
from tests.bench.quality import DistanceDecoder, DistanceTable, spikes


@pytest.mark.parametrize("kind", ["transe", "rotate"])
def test_inner_products_rank_by_squared_distance(kind):
    torch.manual_seed(0)
    table, decoder = DistanceTable(30, 8, dropout=0.0), DistanceDecoder(3, 8, kind)
    embeddings = table.encode(MessageGraph({"node": (0, 30)}, (), (), None))
    x, r = embeddings[:, :-1], decoder.relation[1]
    if kind == "transe":
        moved, back = x[:5] + r, x[:5] - r
    else:
        as_complex, turn = torch.complex(*x[:5].chunk(2, -1)), torch.polar(torch.ones(4), r[:4])
        moved, back = (
            torch.cat([z.real, z.imag], -1) for z in (as_complex * turn, as_complex / turn)
        )
    for query, place in (
        (decoder.tail_query(embeddings[:5], 1), moved),
        (decoder.head_query(embeddings[:5], 1), back),
    ):
        expected = 0.5 * place.square().sum(1, keepdim=True) - 0.5 * torch.cdist(place, x).square()
        torch.testing.assert_close(query @ embeddings.T, expected, atol=1e-5, rtol=1e-5)


def test_spikes_are_those_of_the_second_half():
    assert spikes([[1.0, 1.0, 50.0], [2.0, 2.0, 9.0], [1.0, 1.0, 3.0]]) == (4.5, 1)
