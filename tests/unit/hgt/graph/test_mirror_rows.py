"""Rows become facts: mirrors, repetitions and self-loops are merged or dropped, and counted."""

import pytest

from hgt.errors import InputError
from tests.unit.hgt.graph.rows import PPI, TREATS, graph_of, mirror, told


def test_a_row_and_its_mirror_across_types_are_one_fact_in_the_first_direction():
    graph = graph_of([*TREATS, *map(mirror, TREATS)])
    assert graph.edge_types == [("drug", "treats", "disease")]
    assert told(graph) == {(x, str(a), r, y, str(b)) for x, a, r, y, b in TREATS}
    assert graph.dropped.as_dict() == {
        "mirror": 5,
        "duplicate": 0,
        "self_loop": 0,
        "filtered_type": 0,
        "outside_sample": 0,
    }


def test_mirrors_that_stand_alone_are_facts_too():
    # 2 of 6 rows have their mirror
    graph = graph_of([*TREATS[:3], *map(mirror, TREATS[2:])], min_mirrored_share=0.3)
    assert told(graph) == {(x, str(a), r, y, str(b)) for x, a, r, y, b in TREATS}
    assert graph.dropped.mirror == 1


def test_duplicates_and_self_loops_are_dropped_and_counted():
    rows = [
        *TREATS,
        TREATS[0],
        TREATS[0],
        ("drug", 1, "like", "drug", 1),
        mirror(TREATS[1]),
        mirror(TREATS[1]),
    ]
    graph = graph_of(rows, min_mirrored_share=0.2)
    assert graph.total_facts == 5
    assert (graph.dropped.mirror, graph.dropped.duplicate, graph.dropped.self_loop) == (1, 3, 1)
    assert graph.edge_types == [("drug", "treats", "disease")]


def test_equal_ids_of_different_types_are_no_self_loop_and_one_relation_may_join_several_types():
    graph = graph_of(
        [
            ("drug", 1, "linked", "disease", 1),
            ("drug", 1, "linked", "gene", 1),
            ("gene", 1, "linked", "disease", 1),
        ]
    )
    assert graph.total_nodes == 3
    assert graph.edge_types == [
        ("drug", "linked", "disease"),
        ("drug", "linked", "gene"),
        ("gene", "linked", "disease"),
    ]
    assert graph.dropped.self_loop == 0


def test_a_relation_within_a_type_is_symmetric_when_nearly_all_rows_have_their_mirror():
    graph = graph_of([*PPI, *map(mirror, PPI[:19])])  # 38 of 39 rows have a mirror
    assert graph.symmetric == {("gene", "ppi", "gene")}
    assert graph.total_facts == 20
    assert graph.dropped.mirror == 19
    assert (
        graph.edge_index["gene", "ppi", "gene"][0] < graph.edge_index["gene", "ppi", "gene"][1]
    ).all()
    assert "gene - ppi - gene  (symmetric)" in graph.table()


def test_otherwise_it_is_directed_and_a_mirror_is_another_fact():
    graph = graph_of([*PPI, *map(mirror, PPI[:10])])
    assert graph.symmetric == frozenset()
    assert graph.total_facts == 30
    assert graph.dropped.mirror == 0
    assert "gene - ppi - gene  (directed)" in graph.table()


def test_both_overrides_and_the_threshold():
    half, whole = [*PPI, *map(mirror, PPI[:10])], [*PPI, *map(mirror, PPI)]
    forced = graph_of(half, symmetric_relations=("ppi",))
    assert (len(forced.symmetric), forced.total_facts, forced.dropped.mirror) == (1, 20, 10)
    assert graph_of(half, min_mirrored_share=0.6).hash == forced.hash
    kept = graph_of(whole, directed_relations=("ppi",))
    assert (len(kept.symmetric), kept.total_facts, kept.dropped.mirror) == (0, 40, 0)
    across = graph_of([*TREATS, *map(mirror, TREATS)], directed_relations=("treats",))
    assert across.num_facts == {("disease", "treats", "drug"): 5, ("drug", "treats", "disease"): 5}
    with pytest.raises(
        InputError, match="symmetric_relations: treats has no rows within one node type"
    ):
        graph_of([*TREATS, *half], symmetric_relations=("treats",))
    for name in ("symmetric_relations", "directed_relations"):
        with pytest.raises(InputError, match=r"Unknown relation.*pppi.*the file has ppi"):
            graph_of(half, **{name: ("pppi",)})
