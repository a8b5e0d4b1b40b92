"""One relation's facts are dealt out once an epoch, in even shares, in another order each time."""

import numpy as np
import pytest

from hgt.graph.split import TRAIN
from hgt.training.deal import RelationDeal
from hgt.training.negatives import Pool


@pytest.fixture
def deal(graph, split):
    """`deal(num_batches, num_parts)`: of the largest relation."""
    facts = split.of(TRAIN).numpy()
    number = int(np.bincount(facts[1]).argmax())
    return lambda num_batches, num_parts: RelationDeal(graph, facts, number, num_batches, num_parts)


@pytest.fixture
def pools(graph):
    rng = np.random.default_rng(0)
    return {t: Pool(rng, n, min(n, 9)) for t, n in graph.num_nodes.items()}


@pytest.mark.parametrize(("num_batches", "num_parts"), [(1, 1), (4, 3), (10_000, 2)])
def test_an_epoch_deals_each_fact_once(deal, pools, num_batches, num_parts):
    relation = deal(num_batches, num_parts)
    batches = [relation.draw(0, 2, b, pools).fact for b in range(num_batches)]
    assert {len(fact) for fact in batches} == {relation.size}
    assert relation.size == num_parts * relation.part_size
    shares = [int((fact >= 0).sum()) for fact in batches]
    assert max(shares) - min(shares) <= 1
    dealt = np.concatenate(batches)
    assert np.sort(dealt[dealt >= 0]).tolist() == relation.fact.tolist()


def test_epochs_and_seeds_have_orders_of_their_own_that_repeat(deal, pools):
    relation = deal(3, 1)
    first = relation.draw(0, 0, 1, pools).fact
    for seed, epoch in ((0, 1), (1, 0)):
        assert not np.array_equal(relation.draw(seed, epoch, 1, pools).fact, first)
    assert np.array_equal(relation.draw(0, 0, 1, pools).fact, first)
    assert np.array_equal(deal(3, 1).draw(0, 0, 1, pools).fact, first)


def test_filters_have_a_row_for_each_fact_and_none_for_padding(deal, pools):
    relation = deal(4, 3)
    dealt = relation.draw(0, 0, 0, pools)
    known = relation.known.toarray()
    num = int((dealt.fact >= 0).sum())
    assert num < relation.size, "there is padding"
    place = np.searchsorted(relation.fact, dealt.fact[:num])
    tails, heads = pools[relation.tail_type].nodes, pools[relation.head_type].nodes
    assert np.array_equal(dealt.tail_known[:num], known[relation.head[place]][:, tails])
    assert np.array_equal(dealt.head_known[:num], known[:, relation.tail[place]].T[:, heads])
    assert not dealt.tail_known[num:].any()
