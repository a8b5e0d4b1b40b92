"""Message graphs of training facts: edge types, groups sorted by both sides, hubs in segments."""

import pytest
import torch

from hgt.messages.grouping import edge_list
from hgt.messages.message_graph import MAX_SEGMENT_EDGES, GroupLimits
from hgt.messages.training_messages import (
    build_message_graph,
    message_edge_types,
)
from tests.unit.hgt.graph.test_split import NUM_NODES, random_graph


def test_message_edge_types_are_the_facts_and_the_reverses():
    graph = random_graph(6)
    types = message_edge_types(graph)
    assert len(set(types)) == len(types) == 2 * len(graph.edge_types) - 1
    assert ("gene", "rev_ppi", "gene") not in types
    assert ("disease", "rev_treats", "drug") in types


@pytest.mark.parametrize(
    "limits", [GroupLimits(), GroupLimits(rows=64, edges=100), GroupLimits(rows=16, edges=1)]
)
def test_a_message_graph_groups_and_sorts_by_both_sides(limits):
    edges = {e: tuple(i) for e, i in random_graph(7).edge_index.items()}
    messages = build_message_graph(NUM_NODES, tuple(edges), edges, limits=limits)
    assert messages.num_nodes == sum(NUM_NODES.values())
    start = {t: span[0] for t, span in messages.node_ranges.items()}
    given = [
        (i, h + start[e[0]], t + start[e[2]])
        for i, e in enumerate(edges)
        for h, t in zip(*(x.tolist() for x in edges[e]), strict=True)
    ]
    got = edge_list(messages)
    assert sorted(
        zip(got.relation.tolist(), got.source.tolist(), got.target.tolist(), strict=True)
    ) == sorted(given)
    assert [g.edges[0] for g in messages.groups] == [0, *(g.edges[1] for g in messages.groups)][:-1]
    for group in messages.groups:
        num_edges = group.edges[1] - group.edges[0]
        assert len(group.nodes) == len(group.relation) * group.block_rows
        assert len(group.nodes) <= max(limits.rows, group.block_rows)
        table = group.by_source if group.transforms_source else group.by_target
        assert num_edges <= limits.edges or len(table.row.unique()) == 1, (
            "one node's edges stay together"
        )
        for sides in (group.by_target, group.by_source):
            assert len(sides.row) == len(sides.other) == num_edges
            assert (sides.row.diff() >= 0).all()
            assert (sides.rows.diff() >= 0).all()
            lengths = sides.ptr.diff()
            assert sides.ptr[0] == 0
            assert lengths.min() >= 1
            assert lengths.max() <= MAX_SEGMENT_EDGES
            assert torch.equal(torch.repeat_interleave(sides.rows, lengths), sides.row.long())
        assert torch.equal(group.by_target.row[group.by_source.order], group.by_source.other)
        assert torch.equal(group.by_target.other[group.by_source.order], group.by_source.row)


def test_a_hub_is_summed_in_segments():
    n = 3 * MAX_SEGMENT_EDGES + 1
    edges = {("drug", "treats", "disease"): (torch.arange(n), torch.zeros(n, dtype=torch.int64))}
    (group,) = build_message_graph({"drug": n, "disease": 1}, tuple(edges), edges).groups
    assert not group.transforms_source
    assert group.by_target.rows.tolist() == [0, 0, 0, 0]
    assert group.by_target.ptr.tolist() == [0, 128, 256, 384, 385]
