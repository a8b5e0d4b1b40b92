"""TransE and RotatE, written as inner products, rank by the distances that they are defined by; N3 is what it is called."""

import pytest
import torch

from hgt.batches import Batches
from hgt.config import RunConfig
from hgt.losses import micro_batch_loss
from hgt.message_graph import MessageGraph
from hgt.model import Decoder
from hgt.split import split_facts
from tests.bench.graphs import primekg_like
from tests.bench.quality import DistanceDecoder, DistanceTable, with_n3


@pytest.fixture(scope="module")
def graph_and_batches():
    graph, config = primekg_like(300, 1_000), RunConfig.from_flat({"edge_sample_size": 200, "contrastive_weight": 0.0})
    return graph, config, Batches(graph, split_facts(graph, config.split), config)


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
        moved, back = (torch.cat([z.real, z.imag], -1) for z in (as_complex * turn, as_complex / turn))
    for query, place in ((decoder.tail_query(embeddings[:5], 1), moved), (decoder.head_query(embeddings[:5], 1), back)):
        expected = 0.5 * place.square().sum(1, keepdim=True) - 0.5 * torch.cdist(place, x).square()
        torch.testing.assert_close(query @ embeddings.T, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["distmult", "complex"])
def test_n3_is_the_mean_sum_of_cubes_of_a_batchs_facts(graph_and_batches, kind):
    graph, config, batches = graph_and_batches
    torch.manual_seed(0)
    decoder, embeddings = Decoder(len(graph.edge_types), 8, kind), torch.randn(graph.total_nodes, 8)
    batch = batches.draw(0, 0)
    told = [
        loss(embeddings[micro.nodes.long()], micro, batches.layout, decoder, config.train).total
        for micro in batch.micro_batches
        for loss in (with_n3(0.3), micro_batch_loss)
    ]
    facts = batches.facts[:, batch.supervised[batch.supervised < batches.num_train]]
    vectors = torch.cat([embeddings[facts[0]], decoder.relation[facts[1]], embeddings[facts[2]]])
    moduli = vectors.abs() if kind == "distmult" else torch.complex(*vectors.chunk(2, -1)).abs()
    torch.testing.assert_close(sum(told[::2]) - sum(told[1::2]), 0.3 * moduli.pow(3).sum() / facts.shape[1], rtol=1e-4, atol=1e-4)
