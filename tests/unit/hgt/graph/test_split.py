"""No held-out fact, mirror or reverse can be reached from what trains; every training fact is there
in both directions.
"""

from collections import Counter

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hgt.config import GraphConfig, SplitConfig
from hgt.errors import InputError
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import TEST, TRAIN, VAL, EdgeSplit, all_facts, split_facts
from hgt.messages.grouping import edge_list
from hgt.messages.training_messages import (
    training_message_graph,
)
from hgt.reading.edge_table import read_edge_table
from tests.conftest import DATA

NUM_NODES = {"disease": 11, "drug": 17, "gene": 23}
TREATS, PPI, REGULATES = (
    ("drug", "treats", "disease"),
    ("gene", "ppi", "gene"),
    ("gene", "regulates", "gene"),
)
# one relation, read as directed
TWO_WAYS = [("disease", "told", "drug"), ("drug", "told", "disease")]
FEW = ("drug", "rare", "gene")


def random_graph(seed, share=0.5):
    """Random facts in PrimeKG's shapes: across types, symmetric, directed with mirrors, and in both
    directions across types.
    """
    rng = np.random.default_rng(seed)

    def pairs(heads, tails, keep):
        index = np.argwhere(rng.random((heads, tails)) < keep)
        return torch.from_numpy(
            index[index[:, 0] != index[:, 1]].T.copy() if heads == tails else index.T.copy()
        )

    n = NUM_NODES
    ppi = pairs(n["gene"], n["gene"], share)
    index = {
        TWO_WAYS[0]: pairs(n["disease"], n["drug"], share),
        TREATS: pairs(n["drug"], n["disease"], share),
        TWO_WAYS[1]: pairs(n["drug"], n["disease"], share),
        FEW: torch.tensor([[0, 1, 2], [0, 1, 2]]),
        PPI: ppi[:, ppi[0] < ppi[1]],
        REGULATES: pairs(n["gene"], n["gene"], share),
    }
    ids = {t: np.array([str(i) for i in range(k)], dtype=object) for t, k in n.items()}
    return KnowledgeGraph(
        ids, ids, {e: i for e, i in index.items() if i.shape[1]}, frozenset({PPI})
    )


def edges_of(graph, messages):
    """Every message edge as (source, relation name without rev_, target) with global node numbers,
    with its fact and direction.
    """
    told, all_edges = [], edge_list(messages)
    for r, s, t, f in torch.stack(
        [all_edges.relation, all_edges.source, all_edges.target, messages.fact]
    ).T.tolist():
        head, name, tail = messages.edge_types[r]
        for node_type, node in ((head, s), (tail, t)):
            start, stop = messages.node_ranges[node_type]
            assert start <= node < stop
        told.append((s, name, t, f))
    return told


SHARES = st.sampled_from([0.05, 0.2, 0.4])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), share=st.sampled_from([0.1, 0.3, 0.8]), val=SHARES, test=SHARES)
def test_nothing_held_out_is_reachable_and_training_facts_are_there_in_both_directions(
    seed, share, val, test
):
    graph = random_graph(seed, share)
    split = split_facts(graph, SplitConfig(val_fraction=val, test_fraction=test, seed=seed))
    names = [r for _, r, _ in graph.edge_types]
    edges = edges_of(graph, training_message_graph(graph, split))

    reachable = {(frozenset((s, t)), name.removeprefix("rev_")) for s, name, t, _ in edges}
    held_out = {
        (frozenset((h, t)), names[r])
        for h, r, t in torch.cat([split.of(VAL), split.of(TEST)], dim=1).T.tolist()
    }
    assert held_out
    assert not held_out & reachable
    between = {
        p: {(frozenset((h, t)), names[r]) for h, r, t in split.of(p).T.tolist()}
        for p in (TRAIN, VAL, TEST)
    }
    assert not between[VAL] & between[TEST]

    expected = Counter()
    for head, relation, tail in split.of(TRAIN).T.tolist():
        symmetric = graph.edge_types[relation] in graph.symmetric
        expected[(head, names[relation], tail)] += 1
        expected[(tail, names[relation] if symmetric else f"rev_{names[relation]}", head)] += 1
    assert Counter((s, name, t) for s, name, t, _ in edges) == expected

    facts = split.of(TRAIN).T.tolist()
    assert Counter(f for *_, f in edges) == dict.fromkeys(range(len(facts)), 2)
    for s, name, t, f in edges:
        head, relation, tail = facts[f]
        assert name.removeprefix("rev_") == names[relation]
        assert {s, t} == {head, tail}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), share=st.sampled_from([0.3, 0.9]))
def test_a_pair_its_mirror_and_its_repetition_are_on_one_side(seed, share):
    graph = random_graph(seed, share)
    # as HeteroData may have it
    again = {e: torch.cat([i, i[:, :4]], dim=1) for e, i in graph.edge_index.items()}
    graph = KnowledgeGraph(graph.node_ids, graph.node_names, again, graph.symmetric)
    split = split_facts(graph, SplitConfig(0.2, 0.2, seed))
    names = [r for _, r, _ in graph.edge_types]
    side = {}
    for (head, relation, tail), part in zip(
        split.facts.T.tolist(), split.part.tolist(), strict=True
    ):
        assert side.setdefault((names[relation], frozenset((head, tail))), part) == part
    assert set(side.values()) == {TRAIN, VAL, TEST}
    assert len(side) < len(split.part)


def test_the_shares_hold_for_each_edge_type():
    graph = random_graph(0, 0.9)
    split = split_facts(graph, SplitConfig())
    for number, (edge_type, num_facts) in enumerate(graph.num_facts.items()):
        counts = [
            int((split.part[split.facts[1] == number] == p).sum()) for p in (TRAIN, VAL, TEST)
        ]
        assert sum(counts) == num_facts
        if edge_type in (TREATS, PPI):
            assert counts[1:] == [int(0.05 * num_facts)] * 2
        elif edge_type != FEW:  # a pair counts once, with or without its mirror
            assert counts[1:] == pytest.approx([0.05 * num_facts] * 2, abs=0.03 * num_facts)
            assert min(counts) > 0


def test_the_seed_decides_and_only_the_seed():
    graph = random_graph(1)
    one, same, other = (split_facts(graph, SplitConfig(seed=s)).part for s in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_small_edge_types_stay_in_training_and_are_listed():
    graph = random_graph(2)
    split = split_facts(graph, SplitConfig())
    assert split.unsplit == (FEW,)
    assert (split.part[split.facts[1] == graph.edge_types.index(FEW)] == TRAIN).all()
    for num, unsplit in ((19, True), (20, False)):
        few = {TREATS: graph.edge_index[TREATS][:, :num]}
        split = split_facts(KnowledgeGraph(graph.node_ids, graph.node_names, few), SplitConfig())
        assert split.unsplit == ((TREATS,) if unsplit else ())
        assert [int((split.part == p).sum()) for p in (TRAIN, VAL, TEST)] == (
            [19, 0, 0] if unsplit else [18, 1, 1]
        )


def test_facts_are_those_of_the_graph_in_its_order():
    graph = random_graph(3)
    facts = all_facts(graph)
    assert facts.shape == (3, graph.total_facts)
    for number, edge_type in enumerate(graph.edge_types):
        assert torch.equal(facts[:, facts[1] == number][[0, 2]], graph.global_facts(edge_type))


def test_save_and_load_round_trip_and_refusals(tmp_path):
    graph, path = random_graph(4), tmp_path / "split.safetensors"
    split = split_facts(graph, SplitConfig())
    split.save(path, graph)
    again = EdgeSplit.load(path, graph, SplitConfig())
    assert torch.equal(again.part, split.part)
    assert torch.equal(again.facts, split.facts)
    assert again.unsplit == split.unsplit == (FEW,)
    with pytest.raises(InputError, match="was made for graph"):
        EdgeSplit.load(path, random_graph(5), SplitConfig())
    for part, metadata in (
        (split.part[1:], {"graph_hash": graph.hash}),
        (split.part + 1, {"graph_hash": graph.hash}),
        (split.part, None),
    ):
        safetensors.torch.save_file({"part": part.contiguous()}, path, metadata=metadata)
        with pytest.raises(InputError, match="Start the run anew"):
            EdgeSplit.load(path, graph, SplitConfig())
    for data in (b"", b"x" * 40):
        path.write_bytes(data)
        with pytest.raises(InputError, match="no readable split"):
            EdgeSplit.load(path, graph, SplitConfig())
    with pytest.raises(InputError, match="no such file"):
        EdgeSplit.load(tmp_path / "none", graph, SplitConfig())


def test_hetionet_medium_leaks_nothing():
    path = DATA / "hetionet_medium" / "kg.csv.gz"
    if not path.exists():
        pytest.skip("hetionet_medium is not beside the checkout")
    graph = KnowledgeGraph.from_edge_table(read_edge_table(path), GraphConfig())
    split = split_facts(graph, SplitConfig())
    names = [r for _, r, _ in graph.edge_types]
    edges = edges_of(graph, training_message_graph(graph, split))
    reachable = {(min(s, t), max(s, t), name.removeprefix("rev_")) for s, name, t, _ in edges}
    held_out = {
        (min(h, t), max(h, t), names[r])
        for h, r, t in split.facts[:, split.part != TRAIN].T.tolist()
    }
    assert len(edges) == 2 * int((split.part == TRAIN).sum())
    assert 0.09 < len(held_out) / graph.total_facts < 0.1
    assert not held_out & reachable
