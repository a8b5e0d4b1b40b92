"""Filtered ranks equal brute force, one candidate at a time; the metrics equal their
definitions.
"""

import numpy as np
import pytest
import torch

from hgt.evaluation import ranking, ranks
from hgt.evaluation.fact_index import FactIndex
from hgt.evaluation.ranking import rank_facts, rank_typed, sample_facts
from hgt.graph.split import TEST, all_facts
from hgt.model.decoders import DECODERS, ComplEx, DistMult


@torch.no_grad()
def brute_force(embeddings, decoder, facts, graph):
    """{"all_nodes" | "typed": [(edge type, rank, number of candidates), ...]}, tails then heads of
    each fact.
    """
    true = {tuple(f) for f in all_facts(graph).T.tolist()}
    true |= {(t, r, h) for h, r, t in true if graph.edge_types[r] in graph.symmetric}
    out = {"all_nodes": [], "typed": []}
    for h, r, t in facts.T.tolist():
        edge_type = graph.edge_types[r]
        for own, side, node_type in ((t, 0, edge_type[2]), (h, 1, edge_type[0])):
            query = (
                decoder.tail_query(embeddings[h : h + 1], r)
                if side == 0
                else decoder.head_query(embeddings[t : t + 1], r)
            )
            for name, nodes in (
                ("all_nodes", range(graph.total_nodes)),
                ("typed", range(graph.total_nodes)[graph.type_range(node_type)]),
            ):
                made = [(h, r, n) if side == 0 else (n, r, t) for n in nodes]
                rivals = [
                    n for n, fact in zip(nodes, made, strict=True) if n != own and fact not in true
                ]
                scores = [float(query[0] @ embeddings[n]) for n in rivals]
                mine = float(query[0] @ embeddings[own])
                optimistic = 1 + sum(s > mine for s in scores)
                pessimistic = optimistic + sum(s == mine for s in scores)
                out[name].append((edge_type, (optimistic + pessimistic) / 2, 1 + len(rivals)))
    return out


def check(metrics, expected):
    ranks = np.array([rank for _, rank, _ in expected])
    assert metrics.num_ranks == len(ranks)
    assert metrics.mrr == pytest.approx((1 / ranks).mean(), abs=1e-12)
    assert metrics.hits == {k: pytest.approx((ranks <= k).mean()) for k in (1, 3, 10)}
    chance = np.mean([np.mean(1 / np.arange(1, n + 1)) for *_, n in expected])
    assert metrics.chance_mrr == pytest.approx(chance)


def check_macro(metrics, expected):
    """Each edge type counts as much as any other, however many ranks it has."""
    ranks = {e: np.array([rank for other, rank, _ in expected if other == e]) for e, *_ in expected}
    assert len({len(r) for r in ranks.values()}) > 1, "edge types differ in size"
    assert metrics.num_ranks == len(expected)
    assert metrics.mrr == pytest.approx(
        np.mean([(1 / r).mean() for r in ranks.values()]), abs=1e-12
    )
    assert metrics.hits == {
        k: pytest.approx(np.mean([(r <= k).mean() for r in ranks.values()])) for k in (1, 3, 10)
    }
    candidates = {e: [n for other, _, n in expected if other == e] for e in ranks}
    chance = [np.mean([np.mean(1 / np.arange(1, n + 1)) for n in c]) for c in candidates.values()]
    assert metrics.chance_mrr == pytest.approx(np.mean(chance))


def whole_numbers(num_nodes, dim, seed):
    """Embeddings whose scores are exact in float32 and often tie."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, (num_nodes, dim), generator=generator).float()


@pytest.mark.parametrize("kind", ["distmult", "complex"])
@pytest.mark.parametrize("chunk", [1, 2_000, 16_000_000])
def test_filtered_ranks_equal_brute_force_with_ties(graph, split, kind, chunk, monkeypatch):
    monkeypatch.setattr(ranks, "SCORES_PER_CHUNK", chunk)
    embeddings, decoder = (
        whole_numbers(graph.total_nodes, 6, 0),
        DECODERS[kind](len(graph.edge_types), 6),
    )
    decoder.relation.data = whole_numbers(len(graph.edge_types), 6, 1)
    facts = split.of(TEST)
    expected = brute_force(embeddings, decoder, facts, graph)
    assert any(rank % 1 for _, rank, _ in expected["typed"]), "there are ties"
    report = rank_facts(embeddings, decoder, facts, FactIndex(graph))
    check(report.all_nodes, expected["all_nodes"])
    check(report.typed, expected["typed"])
    check(rank_typed(embeddings, decoder, facts, FactIndex(graph)), expected["typed"])
    assert set(report.by_edge_type) == {graph.edge_types[r] for r in facts[1].tolist()}
    assert {e for e in report.by_edge_type if e in graph.symmetric}, (
        "symmetric relations are among them"
    )
    assert {e for e in report.by_edge_type if e[0] == e[2] and e not in graph.symmetric}, (
        "and directed ones within a type"
    )
    for edge_type, metrics in report.by_edge_type.items():
        check(metrics, [e for e in expected["typed"] if e[0] == edge_type])
    for edge_type, metrics in report.by_edge_type_all_nodes.items():
        check(metrics, [e for e in expected["all_nodes"] if e[0] == edge_type])
    check_macro(report.typed_macro, expected["typed"])
    check_macro(report.all_nodes_macro, expected["all_nodes"])


@pytest.mark.parametrize(
    ("scores", "compared"), [(1, 1), (2_000, 900), (3_001, 100_000), (16_000_000, 700)]
)
def test_chunks_do_not_change_ranks(graph, split, scores, compared, monkeypatch):
    embeddings, decoder = whole_numbers(graph.total_nodes, 6, 0), ComplEx(len(graph.edge_types), 6)
    decoder.relation.data = whole_numbers(len(graph.edge_types), 6, 1)
    facts, index = split.of(TEST), FactIndex(graph)
    whole, typed = (
        rank_facts(embeddings, decoder, facts, index),
        rank_typed(embeddings, decoder, facts, index),
    )
    monkeypatch.setattr(ranks, "SCORES_PER_CHUNK", scores)
    monkeypatch.setattr(ranks, "COMPARED_PER_CHUNK", compared)
    assert rank_facts(embeddings, decoder, facts, index) == whole
    assert rank_typed(embeddings, decoder, facts, index) == typed


def test_nodes_of_other_types_are_not_scored(make_graph):
    graph = make_graph(
        [("drug", f"a{i % 3}", "treats", "disease", f"b{i}") for i in range(6)]
        + [("gene", "c0", "affects", "drug", "a0")]
    )
    embeddings, decoder = whole_numbers(graph.total_nodes, 4, 0), DistMult(2, 4)
    treats = graph.edge_types.index(("drug", "treats", "disease"))
    facts, index = all_facts(graph), FactIndex(graph)
    facts = facts[:, facts[1] == treats]
    told = rank_typed(embeddings, decoder, facts, index)
    assert told == rank_facts(embeddings, decoder, facts, index).typed
    embeddings[graph.type_range("gene")] = torch.nan
    assert rank_typed(embeddings, decoder, facts, index) == told


def test_queries_take_no_more_than_scores_where_candidates_are_few(make_graph, monkeypatch):
    graph = make_graph([("drug", f"a{i}", "treats", "disease", f"b{i % 2}") for i in range(300)])
    embeddings, decoder = whole_numbers(graph.total_nodes, 8, 0), DistMult(1, 8)
    asked, query = [], decoder.tail_query
    monkeypatch.setattr(
        decoder, "tail_query", lambda x, relation: asked.append(len(x)) or query(x, relation)
    )
    facts, index = all_facts(graph), FactIndex(graph)
    whole = rank_typed(embeddings, decoder, facts, index)
    monkeypatch.setattr(ranks, "SCORES_PER_CHUNK", 1_600)
    assert rank_typed(embeddings, decoder, facts, index) == whole
    assert asked == [300, *[50] * 6], (
        "50 queries of 8 dimensions, four times, are 1,600 numbers; scores against two diseases"
        " would be 100"
    )


def test_a_query_is_scored_once_for_all_facts_that_ask_it(make_graph):
    graph = make_graph([("drug", f"a{i % 2}", "treats", "disease", f"b{i}") for i in range(6)])
    asked = []

    class Asked(DistMult):
        def tail_query(self, head, relation):
            asked.append(len(head))
            return super().tail_query(head, relation)

    embeddings = whole_numbers(graph.total_nodes, 4, 0)
    decoder = Asked(1, 4)
    facts, index = all_facts(graph), FactIndex(graph)
    report = rank_facts(embeddings, decoder, facts, index)
    assert asked == [2]
    check(report.typed, brute_force(embeddings, decoder, facts, graph)["typed"])
    backwards = rank_facts(embeddings, decoder, facts.flip(1), index)
    assert backwards.typed.mrr == pytest.approx(report.typed.mrr, abs=1e-12)


def test_the_embeddings_stay_as_they_are(graph, split):
    """Scores are spent in place; what they come from is not."""
    embeddings, decoder = torch.randn(graph.total_nodes, 6), DistMult(len(graph.edge_types), 6)
    before, relation = embeddings.clone(), decoder.relation.detach().clone()
    rank_facts(embeddings, decoder, split.of(TEST), FactIndex(graph))
    assert torch.equal(embeddings, before)
    assert torch.equal(decoder.relation, relation)


def test_a_perfect_and_a_collapsed_table(make_graph):
    """Perfect: MRR 1. All vectors the same: every rank in the middle, whatever the order of the
    nodes.
    """
    graph = make_graph([("drug", f"a{i}", "treats", "disease", f"b{i}") for i in range(8)])
    eye = torch.eye(8)
    decoder = DistMult(1, 8)
    decoder.relation.data = torch.ones(1, 8)
    facts, index = all_facts(graph), FactIndex(graph)
    perfect = rank_facts(torch.cat([eye, eye]), decoder, facts, index)
    assert perfect.typed.mrr == 1
    assert perfect.typed.hits == {1: 1, 3: 1, 10: 1}
    # Among all nodes the query's own node scores as high as the true end.
    assert perfect.all_nodes.mrr == pytest.approx(1 / 1.5)
    collapsed = rank_facts(torch.ones(16, 8), decoder, facts, index)
    assert collapsed.typed.mrr == pytest.approx(1 / 4.5)
    assert collapsed.typed.hits == {1: 0, 3: 0, 10: 1}


def test_filtering_uses_both_directions_of_symmetric_relations(make_graph):
    """a-b, a-c: c must not stand before b in the ranking of a's partners, on whichever side a is
    stored.
    """
    rows = [("gene", x, "ppi", "gene", y) for x, y in (("a", "b"), ("c", "a"), ("b", "d"))]
    graph = make_graph(rows + [(t, y, r, h, x) for h, x, r, t, y in rows])
    assert graph.symmetric
    decoder = DistMult(1, 2)
    decoder.relation.data = torch.ones(1, 2)
    embeddings = torch.tensor([[1.0, 0], [0.5, 0], [0.9, 0], [0.1, 0]])  # a, b, c, d
    facts = torch.tensor([[0], [0], [1]])  # a-b
    report = rank_facts(embeddings, decoder, facts, FactIndex(graph))
    # tails of a: b 0.5 against a itself 1 and d 0.1 (c is known): rank 2. Heads of b: a 0.5 against
    # b 0.25, c 0.45 (d is known): rank 1.
    assert report.typed.mrr == pytest.approx((1 / 2 + 1) / 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_ranks_last(make_graph, value):
    graph = make_graph([("drug", f"a{i}", "treats", "disease", f"b{i}") for i in range(6)])
    decoder = DistMult(1, 6)
    decoder.relation.data = torch.ones(1, 6)
    embeddings = torch.eye(6).repeat(2, 1)
    facts, index = all_facts(graph), FactIndex(graph)
    spoilt = embeddings.clone()
    spoilt[0] = value  # a0, the head of fact 0
    ranks = rank_facts(spoilt, decoder, facts[:, :1], index).typed
    assert ranks.mrr == pytest.approx(1 / 6), "neither as query nor as answer does it gain a place"
    assert (
        rank_facts(spoilt, decoder, facts, index).typed.mrr
        < rank_facts(embeddings, decoder, facts, index).typed.mrr
    )
    nothing = rank_facts(torch.full_like(embeddings, value), decoder, facts, index)
    assert nothing.typed.mrr == pytest.approx(1 / 6)
    assert nothing.all_nodes.mrr == pytest.approx(1 / 12)


def test_chance_mrr_is_what_random_embeddings_reach(graph, split):
    """Over many draws. Within a type a node resembles itself, so only relations between two types
    are by chance alone.
    """
    generator = torch.Generator().manual_seed(3)
    between = torch.tensor([e[0] != e[2] for e in graph.edge_types])
    facts, index = split.of(TEST), FactIndex(graph)
    facts = facts[:, between[facts[1]]]
    decoder = DistMult(len(graph.edge_types), 16)
    reports = [
        rank_facts(torch.randn(graph.total_nodes, 16, generator=generator), decoder, facts, index)
        for _ in range(80)
    ]
    mrr = np.array([r.typed.mrr for r in reports])
    assert (
        abs(mrr.mean() - reports[0].typed.chance_mrr)
        < 3 * mrr.std() / np.sqrt(len(mrr))
        < 0.2 * reports[0].typed.chance_mrr
    )


def test_chance_mrr_equals_a_simulation():
    rng = np.random.default_rng(0)
    candidates = np.array([3, 10, 40])
    ranks = rng.integers(1, candidates + 1, size=(200_000, 3))
    metrics = ranking._metrics(np.ones(3), candidates)
    assert metrics.chance_mrr == pytest.approx((1 / ranks).mean(), rel=0.01)


def test_nothing_to_rank_is_an_error(graph):
    with pytest.raises(ValueError, match="no facts"):
        rank_facts(
            torch.zeros(graph.total_nodes, 4),
            DistMult(15, 4),
            torch.zeros(3, 0, dtype=torch.long),
            FactIndex(graph),
        )


@pytest.mark.parametrize("limit", [20, 47, 200])
def test_a_sample_keeps_every_edge_type_and_the_limit(graph, limit):
    facts = all_facts(graph)
    sample = sample_facts(facts, limit, seed=1)
    assert sample.shape[1] <= limit
    assert set(sample[1].tolist()) == set(facts[1].tolist())
    assert {tuple(f) for f in sample.T.tolist()} <= {tuple(f) for f in facts.T.tolist()}
    assert len(sample.unique(dim=1).T) == sample.shape[1]
    assert torch.equal(sample, sample_facts(facts, limit, seed=1))
    assert not torch.equal(sample, sample_facts(facts, limit, seed=2))
    share = torch.bincount(facts[1]) / facts.shape[1]
    assert ((torch.bincount(sample[1]) - share * limit).abs() <= len(graph.edge_types)).all()
    assert sample_facts(facts, facts.shape[1], seed=1) is facts


def test_many_small_edge_types_do_not_exceed_the_limit():
    facts = torch.stack(
        [torch.arange(108), torch.tensor([0] * 100 + list(range(1, 9))), torch.arange(108)]
    )
    sample = sample_facts(facts, 12, seed=0)
    assert torch.bincount(sample[1]).tolist() == [4] + [1] * 8
