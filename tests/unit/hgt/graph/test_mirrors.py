"""Mirrors: facts that are stored in both directions."""

import numpy as np

from hgt.graph.mirrors import mirror_facts


def test_each_fact_is_paired_with_the_one_in_the_other_direction(make_graph):
    """Within a directed relation and between two edge types; against a loop."""
    ends = [(f"p{a}", f"p{b}") for a, b in [(0, 1), (1, 2), (2, 0), (1, 0), (3, 1), (0, 3), (1, 3)]]
    rows = [("person", a, "follows", "person", b) for a, b in ends]
    rows += [("person", a, "owns", "book", f"b{a}") for a, _ in ends]
    rows += [("book", f"b{a}", "owns", "person", a) for a, _ in ends[:2]]
    graph = make_graph(rows, directed_relations=["follows", "owns"])
    assert not graph.symmetric
    facts = facts_of(graph)
    named = [(h, graph.edge_types[r][1], t) for h, r, t in facts.T.tolist()]
    place = {fact: number for number, fact in enumerate(named)}
    expected = [place.get(fact[::-1], len(named)) for fact in named]
    assert mirror_facts(graph, facts).tolist() == [*expected, len(named)]
    assert {named[f][1] for f, mirror in enumerate(expected) if mirror < len(named)} == {
        "follows",
        "owns",
    }


def test_without_mirrors_nothing_is_kept_for_them(make_graph):
    graph = make_graph(
        [
            ("drug", "a", "treats", "disease", "b"),
            ("gene", "g", "binds", "gene", "h"),
            ("gene", "g", "binds", "gene", "i"),
        ]
    )
    assert len(mirror_facts(graph, facts_of(graph))) == 0


def facts_of(graph):
    """[3, num_facts] all facts in global numbers."""
    ends = map(graph.global_facts, graph.edge_types)
    return np.concatenate(
        [np.stack([h.numpy(), np.full(len(h), r), t.numpy()]) for r, (h, t) in enumerate(ends)], 1
    )
