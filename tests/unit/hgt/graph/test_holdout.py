"""Holdout splits: all facts of a held-out node are on one side, and what cannot be is refused."""

import re
from collections import Counter

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hgt.config import SplitConfig
from hgt.errors import InputError
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import TEST, TRAIN, VAL, EdgeSplit, split_facts
from hgt.messages.training_messages import (
    training_message_graph,
)
from tests.unit.hgt.graph.test_split import (
    FEW,
    PPI,
    REGULATES,
    TREATS,
    TWO_WAYS,
    edges_of,
    random_graph,
)

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
    with pytest.raises(InputError, match="lacks the part of each of 51 nodes"):
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
