"""No held-out fact, mirror or reverse can be reached from what trains; every training fact is there
in both directions.
"""

import re
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
from hgt.messages.message_graph import (
    MAX_SEGMENT_EDGES,
    GroupLimits,
    build_message_graph,
    edge_list,
    message_edge_types,
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


HOLDOUT = SplitConfig(split="disease-holdout", val_fraction=0.2, test_fraction=0.3)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    share=st.sampled_from([0.3, 0.8]),
    held=st.sampled_from(["disease", "drug"]),
)
def test_a_holdout_split_tests_all_facts_of_its_nodes_with_drugs_and_no_others(seed, share, held):
    graph = random_graph(seed, share)
    config = SplitConfig(split=f"{held}-holdout", val_fraction=0.2, test_fraction=0.3, seed=seed)
    split = split_facts(graph, config)
    between = {graph.edge_types.index(e) for e in (TREATS, *TWO_WAYS)}
    nodes = graph.type_range(held)
    side = {}
    for (head, relation, tail), part in zip(
        split.facts.T.tolist(), split.part.tolist(), strict=True
    ):
        if relation in between:
            node = head if nodes.start <= head < nodes.stop else tail
            assert side.setdefault(node, part) == part
            assert split.node_part[node] == part
        else:
            assert part != TEST
    for edge_type in (PPI, REGULATES):
        of_type = split.part[split.facts[1] == graph.edge_types.index(edge_type)]
        assert (of_type == VAL).float().mean() == pytest.approx(0.2, abs=0.05), (
            "they steer early stopping, too"
        )
    counts = Counter(side.values())
    assert (counts[VAL], counts[TEST]) == (int(0.2 * len(side)), int(0.3 * len(side)))
    assert int((split.node_part != TRAIN).sum()) == counts[VAL] + counts[TEST]
    messages = edges_of(graph, training_message_graph(graph, split))
    reachable = {(frozenset((s, t)), name.removeprefix("rev_")) for s, name, t, _ in messages}
    names = [r for _, r, _ in graph.edge_types]
    assert (
        not {
            (frozenset((h, t)), names[r])
            for h, r, t in split.facts[:, split.part != TRAIN].T.tolist()
        }
        & reachable
    )
    treated = {
        n
        for s, name, t, _ in messages
        if name.removeprefix("rev_") in ("treats", "told")
        for n in (s, t)
    }
    assert not treated & {n for n, part in side.items() if part != TRAIN}


def test_only_the_named_relations_are_held_out():
    graph = random_graph(1, 0.8)
    for relation, edge_types in (("told", set(TWO_WAYS)), ("treats", {TREATS})):
        split = split_facts(
            graph,
            SplitConfig(
                split="disease-holdout",
                holdout_relations=(relation,),
                val_fraction=0.2,
                test_fraction=0.2,
            ),
        )
        tested = torch.unique(split.facts[1, split.part == TEST])
        assert {graph.edge_types[i] for i in tested.tolist()} == edge_types
        assert split.unsplit == (FEW,)


def test_a_fact_between_two_held_out_nodes_goes_with_the_test_node():
    graph = random_graph(3, 0.8)
    split = split_facts(
        graph,
        SplitConfig(
            split="gene-holdout", holdout_relations=("ppi",), val_fraction=0.3, test_fraction=0.3
        ),
    )
    ppi = split.facts[1] == graph.edge_types.index(PPI)
    one, other = split.node_part[split.facts[0, ppi]], split.node_part[split.facts[2, ppi]]
    assert torch.equal(split.part[ppi], torch.maximum(one, other))
    assert {(VAL, TEST), (TEST, VAL)} & set(zip(one.tolist(), other.tolist(), strict=True))
    assert (split.part[~ppi] != TEST).all()


def test_the_seed_decides_which_nodes_are_held_out():
    graph = random_graph(1)
    one, same, other = (
        split_facts(
            graph, SplitConfig(split="disease-holdout", val_fraction=0.2, test_fraction=0.2, seed=s)
        )
        for s in (3, 3, 4)
    )
    assert torch.equal(one.node_part, same.node_part)
    assert not torch.equal(one.node_part, other.node_part)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"split": "illness-holdout"},
            "has no node type illness; its types are disease, drug, gene.",
        ),
        (
            {"split": "gene-holdout"},
            (
                "no edge type connects gene with drug; the graph's types are disease, drug, gene."
                " Name the relations"
            ),
        ),
        (
            {"split": "gene-holdout", "holdout_relations": ("pppi",)},
            "gene has no relation pppi; its relations are ppi, regulates.",
        ),
        (
            {"split": "disease-holdout"},
            (
                "11 nodes of type disease have such facts, too few to hold 0.05 of them out for"
                " validation and 0.05 for"
            ),
        ),
        ({"holdout_relations": ("ppi",)}, "means something for a holdout split alone"),
    ],
)
def test_a_holdout_that_cannot_be_is_refused_in_one_sentence(values, words):
    graph = random_graph(1)
    few = graph.edge_index | {FEW: graph.edge_index[FEW][:, :0]}
    graph = KnowledgeGraph(
        graph.node_ids,
        graph.node_names,
        {e: i for e, i in few.items() if i.shape[1]},
        graph.symmetric,
    )
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        split_facts(graph, SplitConfig(**values))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("pairs", "seeds", "words"), [
    ([(0, i) for i in range(1, 30)], range(40), "leave no fact to train on, of 29"),
    ([(2 * i, 2 * i + 1) for i in range(10)], range(40), "leave no fact for validation, of 10"),
])  # fmt: skip
def test_a_holdout_that_leaves_nothing_is_refused(pairs, seeds, words):
    """A star whose hub is held out; pairs, of which the one that validates goes with its end in the
    test.
    """
    ids = {"disease": np.array([str(i) for i in range(30 if len(pairs) == 29 else 20)])}
    edge = ("disease", "is_a", "disease")
    graph = KnowledgeGraph(ids, ids, {edge: torch.tensor(pairs).T.contiguous()}, frozenset())
    share = 0.3 if len(pairs) == 29 else 0.05
    said = set()
    for seed in seeds:
        config = SplitConfig(
            split="disease-holdout",
            holdout_relations=("is_a",),
            val_fraction=share,
            test_fraction=share,
            seed=seed,
        )
        try:
            split = split_facts(graph, config)
        except InputError as error:
            said.add(str(error))
        else:
            assert all(split.of(part).shape[1] for part in (TRAIN, VAL, TEST))
    (sentence,) = said
    assert words in sentence


def test_the_held_out_nodes_are_saved_with_the_split(tmp_path):
    graph, path = random_graph(4), tmp_path / "split.safetensors"
    split = split_facts(graph, HOLDOUT)
    split.save(path, graph)
    again = EdgeSplit.load(path, graph, HOLDOUT)
    assert again.holdout == split.holdout
    assert torch.equal(again.part, split.part)
    assert torch.equal(again.node_part, split.node_part)
    safetensors.torch.save_file(
        {"part": split.part, "node_part": split.node_part[1:].clone()},
        path,
        metadata={"graph_hash": graph.hash},
    )
    with pytest.raises(InputError, match="tells no part for each of 51 nodes"):
        EdgeSplit.load(path, graph, HOLDOUT)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"split": "random"}, None),
        ({"split": "disease-holdout"}, ("disease", "drug")),
        ({"split": "drug-holdout"}, ("drug", "disease")),
        ({"split": "gene-holdout", "holdout_relations": ("ppi", "regulates")}, ("gene", "gene")),
    ],
)
def test_a_split_knows_what_it_holds_out(tmp_path, values, named):
    graph, path = random_graph(4), tmp_path / "split.safetensors"
    config = SplitConfig(val_fraction=0.3, test_fraction=0.3, **values)
    split = split_facts(graph, config)
    split.save(path, graph)
    if named is None:
        assert split.holdout is None
    else:
        ends, edge_types = set(named), split.holdout.edge_types
        assert split.holdout.node_type == named[0]
        assert edge_types
        assert edge_types == tuple(e for e in graph.edge_types if {e[0], e[2]} == ends)
    assert EdgeSplit.load(path, graph, config).holdout == split.holdout
    # the file is as before: it has the parts alone
    with safetensors.safe_open(path, "pt") as file:
        assert set(file.keys()) <= {"part", "node_part"}
        assert set(file.metadata()) == {"graph_hash", "split_hash"}
