"""A layout divides a micro-batch's rows among pools, facts and anchors without gaps, and caps its
groups.
"""

import numpy as np
import pytest

from hgt.training import layout as layout_module
from hgt.training.batches import Batches
from hgt.training.layout import no_negatives


@pytest.fixture
def batches(graph, split, make_config):
    return Batches(graph, split, make_config(accumulation_steps=3))


def test_sections_are_pools_then_both_ends_then_the_contrastive_rows(batches):
    layout, contrast = batches.layout, batches.layout.contrast
    assert layout.sections[: layout.head] == tuple(batches.pools.values())
    assert layout.sections[layout.head] == layout.sections[layout.tail] == layout.num_facts
    assert (
        layout.sections[contrast.anchor]
        == layout.sections[contrast.positive]
        == -(-batches.contrast.num_anchors // 3)
    )
    assert layout.sections[contrast.pool] == batches.contrast.pool_size
    assert len(layout.sections) == contrast.pool + 1 == len(layout.log_weights)
    assert layout.shared_and_own == [
        sum(batches.pools.values()),
        layout.num_rows - layout.num_shared,
    ]
    assert layout.rows_of_batch(3) == layout.num_shared + 3 * layout.shared_and_own[1]


def test_relations_cover_the_facts_once_and_name_the_pools_of_their_ends(batches, graph):
    layout, pools = batches.layout, list(batches.pools)
    covered = np.concatenate([np.arange(r.facts.start, r.facts.stop) for r in layout.relations])
    assert covered.tolist() == list(range(layout.num_facts))
    for r in layout.relations:
        assert (pools[r.head_pool], pools[r.tail_pool]) == graph.edge_types[r.relation][::2]
        assert set(layout.relation_of_fact[r.facts]) == {r.relation}


@pytest.mark.parametrize("most", [10**9, 7])
def test_groups_follow_the_facts_pools_and_stay_small(graph, split, config, monkeypatch, most):
    """A reduction over more rows than that is wrong on some devices."""
    monkeypatch.setattr(layout_module, "MAX_REDUCTION_ROWS", most)
    layout = Batches(graph, split, config).layout
    tail_pool, head_pool = (
        np.empty(layout.num_facts, dtype=int),
        np.empty(layout.num_facts, dtype=int),
    )
    for r in layout.relations:
        tail_pool[r.facts], head_pool[r.facts] = r.tail_pool, r.head_pool
    for groups, pool in (
        (layout.tail_groups, tail_pool),
        (layout.head_groups, head_pool[layout.head_order]),
    ):
        assert np.repeat(*np.array(groups).T).tolist() == pool.tolist()
        assert max(n for _, n in groups) <= most


def test_what_is_never_a_negative_are_empty_places_and_nodes_of_the_own_type(batches):
    layout, others = batches.layout, batches.others
    wanted = [r.tail_type for r in batches.relations]
    never = no_negatives(layout, wanted, others)
    types = [t for t, n in others.items() for _ in range(n)]
    assert never[:, : layout.pool_width].all()
    for node_type, r in zip(wanted, layout.relations, strict=True):
        assert (never[r.facts, layout.pool_width :] == [t == node_type for t in types]).all()
