"""Negatives are what they are said to be; AUROC and AUPRC equal brute force over all pairs, with
ties.
"""

import numpy as np
import pytest
import torch

from hgt.evaluation import edge_classification
from hgt.evaluation.edge_classification import classify_facts, draw_negatives
from hgt.evaluation.fact_index import FactIndex
from hgt.graph.split import TEST, all_facts
from hgt.model.decoders import DECODERS, DistMult


def whole_numbers(num_nodes, dim, seed):
    """Embeddings whose scores are exact in float32 and often tie."""
    return torch.randint(
        -2, 3, (num_nodes, dim), generator=torch.Generator().manual_seed(seed)
    ).float()


def known_facts(graph):
    true = {tuple(f) for f in all_facts(graph).T.tolist()}
    return true | {(t, r, h) for h, r, t in true if graph.edge_types[r] in graph.symmetric}


@torch.no_grad()
def score(embeddings, decoder, fact):
    head, relation, tail = fact
    return float(decoder.tail_query(embeddings[head : head + 1], relation)[0] @ embeddings[tail])


def brute_force_auroc(positive, negative):
    return np.mean([(p > n) + (p == n) / 2 for p in positive for n in negative])


def brute_force_auprc(positive, negative):
    """Sum over falling thresholds of precision times the recall that it adds."""
    total, before = 0.0, 0.0
    for threshold in sorted({*positive, *negative}, reverse=True):
        hits, false = sum(p >= threshold for p in positive), sum(n >= threshold for n in negative)
        recall = hits / len(positive)
        total += hits / (hits + false) * (recall - before)
        before = recall
    return total


@pytest.mark.parametrize("kind", ["distmult", "complex"])
@pytest.mark.parametrize("chunk", [1, 2_000_000])
def test_figures_equal_brute_force_with_ties(graph, split, kind, chunk, monkeypatch):
    monkeypatch.setattr(edge_classification, "_VALUES_PER_CHUNK", chunk)
    embeddings, decoder = (
        whole_numbers(graph.total_nodes, 6, 0),
        DECODERS[kind](len(graph.edge_types), 6),
    )
    decoder.relation.data = whole_numbers(len(graph.edge_types), 6, 1)
    facts, index = split.of(TEST), FactIndex(graph)
    report = classify_facts(embeddings, decoder, facts, index, seed=3)
    truth, false = (side.T.tolist() for side in draw_negatives(facts, index, seed=3))
    positive, negative = ([score(embeddings, decoder, f) for f in side] for side in (truth, false))
    assert set(positive) & set(negative), "there are ties"

    def check(metrics, here):
        p, n = [positive[i] for i in here], [negative[i] for i in here]
        assert metrics.num_pairs == len(here)
        assert metrics.auroc == pytest.approx(brute_force_auroc(p, n), abs=1e-12)
        assert metrics.auprc == pytest.approx(brute_force_auprc(p, n), abs=1e-12)

    check(report.micro, range(len(truth)))
    for edge_type, metrics in report.by_edge_type.items():
        check(
            metrics, [i for i, fact in enumerate(truth) if graph.edge_types[fact[1]] == edge_type]
        )
    assert set(report.by_edge_type) == {graph.edge_types[r] for r in facts[1].tolist()}
    assert report.macro.auroc == pytest.approx(
        np.mean([m.auroc for m in report.by_edge_type.values()])
    )
    assert report.macro.auprc == pytest.approx(
        np.mean([m.auprc for m in report.by_edge_type.values()])
    )
    assert report.macro.num_pairs == report.micro.num_pairs == 2 * facts.shape[1]
    assert report.num_without_negative == 0


def test_a_negative_has_one_other_end_of_the_right_type_and_is_no_known_fact(graph, split):
    facts, true = split.of(TEST), known_facts(graph)
    truth, false = draw_negatives(facts, FactIndex(graph), seed=0)
    assert sorted(truth.T.tolist()) == sorted(facts.T.tolist() * 2), (
        "each fact twice: another tail, another head"
    )
    changed = truth != false
    assert changed.sum(0).tolist() == [1] * truth.shape[1]
    assert changed.sum(1).tolist() == [facts.shape[1], 0, facts.shape[1]]
    for head, relation, tail in false.T.tolist():
        head_type, _, tail_type = graph.edge_types[relation]
        assert head in range(graph.total_nodes)[graph.type_range(head_type)]
        assert tail in range(graph.total_nodes)[graph.type_range(tail_type)]
        assert (head, relation, tail) not in true


def test_negatives_are_seeded(graph, split):
    facts, index = split.of(TEST), FactIndex(graph)
    (_, first), (_, again), (_, other) = (draw_negatives(facts, index, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_unknown_node_is_drawn_as_often_as_any_other(make_graph):
    """Drug 0 treats diseases 0, 3 and 4 of 7."""
    rows = [("drug", "0", "treats", "disease", d) for d in "034"] + [
        ("drug", "1", "treats", "disease", d) for d in "1256"
    ]
    index = FactIndex(make_graph(rows))
    drawn = edge_classification._unknown(
        index.known[0][0], np.zeros(40_000, dtype=np.int64), np.random.default_rng(0)
    )
    counts = np.bincount(drawn, minlength=7)
    assert counts[[0, 3, 4]].tolist() == [0, 0, 0]
    assert abs(counts[[1, 2, 5, 6]] - 10_000).max() < 400  # 4.6 standard deviations


def test_an_end_that_goes_with_every_node_has_no_negative(make_graph):
    graph = make_graph(
        [("drug", "all", "treats", "disease", f"b{i}") for i in range(5)]
        + [("drug", "one", "treats", "disease", "b0")]
    )
    facts, index = all_facts(graph), FactIndex(graph)
    truth, false = draw_negatives(facts, index, seed=0)
    # Tails: only `one` has diseases left. Heads: only b0 has no drug left.
    assert truth.shape[1] == 1 + 4
    report = classify_facts(torch.randn(graph.total_nodes, 4), DistMult(1, 4), facts, index, seed=0)
    assert (report.micro.num_pairs, report.num_without_negative) == (5, 7)
    assert not {tuple(f) for f in false.T.tolist()} & known_facts(graph)


def test_a_graph_without_any_negative_is_not_classified(make_graph):
    graph = make_graph([("drug", "a", "treats", "disease", "b")])
    assert (
        classify_facts(
            torch.randn(2, 4), DistMult(1, 4), all_facts(graph), FactIndex(graph), seed=0
        )
        is None
    )


def test_perfect_constant_and_opposite_tables(make_graph):
    graph = make_graph([("drug", f"a{i}", "treats", "disease", f"b{i}") for i in range(30)])
    decoder = DistMult(1, 30)
    decoder.relation.data = torch.ones(1, 30)
    facts, index, eye = all_facts(graph), FactIndex(graph), torch.eye(30)
    for vectors, auroc, auprc in (
        ([eye, eye], 1, 1),
        ([eye * 0 + 1] * 2, 0.5, 0.5),
        ([eye, -eye], 0, 0.5),
    ):
        found = classify_facts(torch.cat(vectors), decoder, facts, index, seed=0).micro
        assert (found.auroc, found.auprc) == (auroc, auprc)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_never_helps(make_graph, value):
    graph = make_graph([("drug", f"a{i}", "treats", "disease", f"b{i}") for i in range(30)])
    decoder = DistMult(1, 30)
    decoder.relation.data = torch.ones(1, 30)
    facts, index, embeddings = all_facts(graph), FactIndex(graph), torch.eye(30).repeat(2, 1)
    assert (
        classify_facts(
            torch.full_like(embeddings, value), decoder, facts, index, seed=0
        ).micro.auroc
        == 0
    )
    spoilt = embeddings.clone()
    spoilt[:10] = value
    assert classify_facts(spoilt, decoder, facts, index, seed=0).micro.auroc < 0.8


def test_the_embeddings_stay_as_they_are(graph, split):
    embeddings, decoder = torch.randn(graph.total_nodes, 6), DistMult(len(graph.edge_types), 6)
    before, relation = embeddings.clone(), decoder.relation.detach().clone()
    classify_facts(embeddings, decoder, split.of(TEST), FactIndex(graph), seed=0)
    assert torch.equal(embeddings, before)
    assert torch.equal(decoder.relation, relation)
