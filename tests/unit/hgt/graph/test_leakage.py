"""Planted leaks of every kind are found, counted and named; clean splits pass."""

import re

import numpy as np
import pytest
import torch

from hgt.config import GraphConfig, SplitConfig
from hgt.errors import HgtError, InputError
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.leakage import audit_split
from hgt.graph.split import TEST, TRAIN, VAL, EdgeSplit, split_facts
from hgt.reading.edge_table import read_edge_table
from tests.conftest import data_file

TREATS, PPI, REGULATES = (
    ("drug", "treats", "disease"),
    ("gene", "ppi", "gene"),
    ("gene", "regulates", "gene"),
)
TOLD = [("disease", "told", "drug"), ("drug", "told", "disease")]
NUM_NODES = {"disease": 9, "drug": 8, "gene": 12}


def grid(heads, tails):
    index = np.indices((heads, tails)).reshape(2, -1)
    return torch.from_numpy(index[:, index[0] != index[1]] if heads == tails else index)


@pytest.fixture(scope="module")
def graph():
    """Every pair of every edge type; a repetition of (drug 0, treats, disease 0); ppi in both
    orders, as HeteroData may have it.
    """
    ids = {
        t: np.array([f"{t[:2]}{i}" for i in range(n)], dtype=object) for t, n in NUM_NODES.items()
    }
    n = NUM_NODES
    index = {
        TREATS: torch.cat([torch.tensor([[0], [0]]), grid(n["drug"], n["disease"])], dim=1),
        PPI: grid(n["gene"], n["gene"]),
        REGULATES: grid(n["gene"], n["gene"]),
        TOLD[0]: grid(n["disease"], n["drug"]),
        TOLD[1]: grid(n["drug"], n["disease"]),
    }
    return KnowledgeGraph(ids, ids, index, frozenset({PPI}))


def number_of(graph, split, edge_type, head, tail):
    """The last fact (head, edge type, tail), nodes numbered within their types."""
    ends = torch.tensor(
        [
            head + graph.offsets[edge_type[0]],
            graph.edge_types.index(edge_type),
            tail + graph.offsets[edge_type[2]],
        ]
    )
    return int(torch.nonzero((split.facts == ends[:, None]).all(0))[-1])


LEAKS = {
    "duplicate": (
        [(TREATS, 0, 0, TEST)],
        1,
        "the same fact",
        "(drug, dr0) - treats - (disease, di0) (test)",
    ),
    "validated and tested": (
        [(REGULATES, 3, 4, VAL), (REGULATES, 4, 3, TEST)],
        1,
        "its mirror",
        "(gene, ge4) - regulates - (gene, ge3)",
    ),
    "mirror": (
        [(REGULATES, 3, 4, TEST)],
        1,
        "its mirror",
        "(gene, ge4) - regulates - (gene, ge3) (training)",
    ),
    "symmetric": (
        [(PPI, 2, 5, VAL)],
        1,
        "the same fact of a symmetric relation",
        "(gene, ge5) - ppi - (gene, ge2) (training)",
    ),
    "reverse": (
        [(TOLD[0], 6, 7, TEST)],
        1,
        "its reverse",
        "(drug, dr7) - told - (disease, di6) (training)",
    ),
    "several": (
        [(REGULATES, 0, i, TEST) for i in range(1, 8)],
        7,
        "its mirror",
        "(gene, ge0) - regulates - (gene, ge1) (test)",
    ),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_planted_leak_is_found_counted_and_shown(graph, name, tmp_path):
    planted, count, form, example = LEAKS[name]
    split = split_facts(graph, SplitConfig())
    split.part[:] = TRAIN
    for edge_type, head, tail, part in planted:
        split.part[number_of(graph, split, edge_type, head, tail)] = part
    with pytest.raises(
        HgtError, match=re.escape(f" {count} fact(s) have {form} on another side, such as ")
    ) as caught:
        audit_split(graph, split)
    assert not isinstance(caught.value, InputError), "a split that we made is our defect"
    assert example in str(caught.value)
    with pytest.raises(InputError, match="start the run anew") as caught:
        audit_split(graph, split, tmp_path / "split.safetensors")
    assert str(tmp_path / "split.safetensors") in str(caught.value)


def test_every_kind_is_told_when_there_are_several(graph):
    split = split_facts(graph, SplitConfig())
    split.part[:] = TRAIN
    for planted, *_ in LEAKS.values():
        for edge_type, head, tail, part in planted[:1]:
            split.part[number_of(graph, split, edge_type, head, tail)] = part
    with pytest.raises(HgtError) as caught:
        audit_split(graph, split)
    for _, _, form, _ in LEAKS.values():
        assert f"have {form} on another side" in str(caught.value)


@pytest.mark.parametrize("holdout_relations", [(), ("told",), ("treats", "told")])
def test_a_fact_of_a_held_out_node_that_trains_is_found(graph, holdout_relations):
    config = SplitConfig(
        split="disease-holdout",
        holdout_relations=holdout_relations,
        val_fraction=0.2,
        test_fraction=0.2,
    )
    split = split_facts(graph, config)
    audit_split(graph, split)
    disease = int(torch.nonzero(split.node_part == TEST)[0]) - graph.offsets["disease"]
    # both, or it would be a fact and its reverse as well
    for told, ends in ((TOLD[0], (disease, 3)), (TOLD[1], (3, disease))):
        split.part[number_of(graph, split, told, *ends)] = TRAIN
    with pytest.raises(
        HgtError, match=r"2 fact\(s\) of held-out nodes are on another side than their node"
    ) as caught:
        audit_split(graph, split)
    assert (
        f"(disease, di{disease}) - told - (drug, dr3), which is in training while its disease is"
        " held out for test" in str(caught.value)
    )


def test_a_holdout_split_without_its_nodes_is_refused(graph, tmp_path):
    path = tmp_path / "split.safetensors"
    split_facts(graph, SplitConfig()).save(path, graph)
    split = EdgeSplit.load(path, graph, SplitConfig(split="disease-holdout"))
    with pytest.raises(
        InputError, match="names no held-out nodes, which --split disease-holdout has"
    ):
        audit_split(graph, split, path)


@pytest.mark.parametrize("split", ["random", "disease-holdout", "drug-holdout"])
@pytest.mark.parametrize("name", ["demo", "every pair", "hetionet_medium"])
def test_clean_splits_pass_and_say_what_was_audited(name, split, request):
    if name == "hetionet_medium":
        graph = KnowledgeGraph.from_edge_table(read_edge_table(data_file(name)), GraphConfig())
    else:
        graph = request.getfixturevalue("graph" if name == "every pair" else "demo_graph")
    config = SplitConfig(split=split, val_fraction=0.15, test_fraction=0.15)
    made = split_facts(graph, config)
    audit = audit_split(graph, made)
    assert sum(audit.num_facts.values()) == graph.total_facts
    assert min(audit.num_facts.values()) > 0
    assert f"{graph.total_facts:,} facts of {len(graph.edge_types)} edge types" in str(audit)
    assert "\n" not in str(audit)
    assert ("zero-shot: " in str(audit)) == (split != "random")


@pytest.fixture(scope="module")
def demo_graph(tmp_path_factory):
    from hgt.graph.demo_graph import write_demo_graph

    path = tmp_path_factory.mktemp("demo") / "kg.csv"
    write_demo_graph(path, num_nodes=1_000, num_facts=10_000, num_communities=10, seed=0)
    return KnowledgeGraph.from_edge_table(read_edge_table(path), GraphConfig())


def test_a_relation_that_tells_the_same_pairs_as_another_is_pointed_out(make_graph):
    pairs = [("drug", f"d{i}", "disease", f"s{i * j % 7}") for i in range(12) for j in (1, 2, 3)]
    rows = [(h, i, r, t, j) for h, i, t, j in pairs for r in ("treats", "cures")]
    rows += [("disease", j, "treated by", "drug", i) for _, i, _, j in pairs]
    rows += [("drug", f"d{i}", "harms", "disease", f"s{i % 5}") for i in range(12)]
    graph = make_graph(rows)
    config = SplitConfig(val_fraction=0.1, test_fraction=0.1)
    split = EdgeSplit(**vars(split_facts(graph, config)))
    split.part[:] = TRAIN
    split.part[
        torch.nonzero(split.facts[1] == graph.edge_types.index(("drug", "treats", "disease")))[:5]
    ] = TEST
    twins = audit_split(graph, split).twins
    assert len(twins) == 1
    named = [
        f"drug - treats - disease as {other} (100%)"
        for other in ("disease - treated by - drug", "drug - cures - disease")
    ]
    assert (
        "In 2 cases 80% or more of an edge type's held-out pairs of nodes are in training as"
        " another edge type" in twins[0]
    )
    assert all(name in twins[0] for name in named)
