"""No true fact is ever used as a negative, and every other sampled node is."""

import numpy as np
import scipy.sparse

from hgt.graph.split import TRAIN
from hgt.training.batches import Batches
from hgt.training.negatives import Pool, known_in_pool


def test_a_pool_is_a_sample_without_repetition_in_no_order():
    pool = Pool(np.random.default_rng(0), 50, 20)
    assert len(np.unique(pool.nodes)) == 20
    assert not np.array_equal(pool.nodes, np.sort(pool.nodes))
    assert [pool.place[n] for n in pool.nodes] == list(range(20))
    assert (pool.place < 0).sum() == 30


def test_the_filter_equals_a_look_up_of_each_pair():
    rng = np.random.default_rng(1)
    dense = rng.random((30, 40)) < 0.2
    dense[7] = False  # a row without any fact
    pool, rows = Pool(rng, 40, 15), np.array([3, 7, 3, 29, 0])
    known = known_in_pool(scipy.sparse.csr_array(dense), rows, pool, 8)
    assert np.array_equal(known[:5], dense[rows][:, pool.nodes])
    assert known.shape == (8, 15)
    assert not known[5:].any(), "padding"


def true_pairs(graph, facts):
    """{(head, relation, tail)} in global numbers; symmetric ones in both directions."""
    out = set()
    for h, r, t in facts.T.tolist():
        out.add((h, r, t))
        if graph.edge_types[r] in graph.symmetric:
            out.add((t, r, h))
    return out


def test_filters_hide_every_true_training_fact_and_nothing_else(graph, split, config):
    batches = Batches(graph, split, config)
    true = true_pairs(graph, split.of(TRAIN))
    width = batches.layout.pool_width
    types_of_others = [t for t, n in batches.others.items() for _ in range(n)]
    assert len(set(types_of_others)) == len(graph.node_types)
    masked = 0
    for micro in (m for b in range(batches.num_batches) for m in batches.draw(1, b).micro_batches):
        sections = micro.nodes.split(batches.layout.sections)
        for r in batches.layout.relations:
            head_type, _, tail_type = graph.edge_types[r.relation]
            for pool, node_type in (
                (sections[r.tail_pool], tail_type),
                (sections[r.head_pool], head_type),
            ):
                allowed = graph.type_range(node_type)
                assert allowed.start <= pool.min()
                assert pool.max() < allowed.stop
                assert len(pool.unique()) == len(pool)
            heads, tails = (
                sections[s][r.facts].tolist() for s in (batches.layout.head, batches.layout.tail)
            )
            for i, weight in enumerate(micro.weight[r.facts].tolist()):
                if not weight:
                    continue
                assert (heads[i], r.relation, tails[i]) in true
                pool = sections[r.tail_pool].tolist()
                known = micro.tail_known[r.facts][i]
                assert known[: len(pool)].tolist() == [
                    (heads[i], r.relation, n) in true for n in pool
                ]
                assert known[len(pool) : width].all(), (
                    "places beyond a small type's nodes are no negatives"
                )
                assert known[width:].tolist() == [t == tail_type for t in types_of_others], (
                    "of its own type it has the whole pool"
                )
                pool = sections[r.head_pool].tolist()
                known = micro.head_known[r.facts][i]
                assert known[: len(pool)].tolist() == [
                    (n, r.relation, tails[i]) in true for n in pool
                ]
                assert known[len(pool) : width].all()
                assert known[width:].tolist() == [t == head_type for t in types_of_others]
                masked += 1
    assert masked == split.of(TRAIN).shape[1]
