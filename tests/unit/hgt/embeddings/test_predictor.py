"""Ranked tails of a head and a relation: as brute force finds them, known facts told apart,
questions without an answer refused.
"""

import dataclasses

import numpy as np
import pytest
import torch

from hgt.embeddings.predictor import Predictor
from hgt.embeddings.table import Embeddings
from hgt.errors import InputError
from hgt.model.hgt_model import HGTModel

DIM = 8


def predictor_of(graph, decoder="complex"):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(graph.total_nodes, DIM, generator=generator)
    relations = torch.randn(len(graph.edge_types), DIM, generator=generator)
    origin = {"graph_hash": graph.hash, "decoder": decoder, "parameters": {}}
    return Predictor(
        Embeddings(
            graph.node_table().astype(str), vectors, tuple(graph.edge_types), relations, origin
        ),
        graph,
    )


@pytest.fixture(scope="module")
def predictor(graph):
    return predictor_of(graph)


def known_pairs(graph, edge_type):
    pairs = {tuple(pair) for pair in graph.edge_index[edge_type].T.tolist()}
    return pairs | ({(b, a) for a, b in pairs} if edge_type in graph.symmetric else set())


def score(predictor, edge_type, head, tail):
    """Re(sum h r conj(t)) in complex numbers."""

    def numbers(row):
        return row[: DIM // 2].numpy() + 1j * row[DIM // 2 :].numpy()

    g, e = predictor.graph, predictor.embeddings
    h, t = e.vectors[g.offsets[edge_type[0]] + head], e.vectors[g.offsets[edge_type[2]] + tail]
    return float(
        (numbers(h) * numbers(e.relations[g.edge_types.index(edge_type)]) * numbers(t).conj())
        .sum()
        .real
    )


def test_a_symmetric_relation_answers_alike_from_both_ends(graph, config):
    """What the product's own model says, however it was trained: (a, r, b) scores as (b, r, a)."""
    torch.manual_seed(0)
    model = HGTModel(graph, config.model)
    with torch.no_grad():
        # as a run's checkpoint of another version might be
        model.decoder.relation.add_(torch.randn_like(model.decoder.relation))
    vectors = torch.randn(graph.total_nodes, config.model.embedding_dim)
    relations, origin = (
        model.decoder.relation_vectors().detach(),
        {"graph_hash": graph.hash, "decoder": "complex"},
    )
    predictor = Predictor(
        Embeddings(
            graph.node_table().astype(str), vectors, tuple(graph.edge_types), relations, origin
        ),
        graph,
    )
    assert graph.symmetric
    for node_type, relation, _ in graph.symmetric:
        ids = graph.node_ids[node_type][:6]
        found = {
            i: predictor.tails(
                i, relation, len(graph.node_ids[node_type]), node_type, include_known=True
            )
            for i in ids
        }
        scores = {i: dict(zip(f.tail_id, f.score, strict=True)) for i, f in found.items()}
        for a in ids:
            assert [scores[a][b] for b in ids if b != a] == pytest.approx(
                [scores[b][a] for b in ids if b != a], rel=1e-4, abs=1e-4
            )
            reverse = predictor.tails(a, f"rev_{relation}", 5, node_type, include_known=True)
            assert reverse.tail_id.tolist() == found[a].tail_id[:5].tolist()


@pytest.mark.parametrize("forward", [True, False], ids=["tails", "heads"])
@pytest.mark.parametrize("include_known", [True, False])
def test_equals_brute_force(predictor, graph, forward, include_known):
    for edge_type in graph.edge_types:
        if edge_type in graph.symmetric and not forward:
            continue
        given_type, wanted_type = (
            (edge_type[0], edge_type[2]) if forward else (edge_type[2], edge_type[0])
        )
        relation = edge_type[1] if forward else f"rev_{edge_type[1]}"
        known = known_pairs(graph, edge_type)
        pairs = [(lambda n, i=given: (i, n) if forward else (n, i)) for given in range(3)]
        for given, pair in enumerate(pairs):
            wanted = range(graph.num_nodes[wanted_type])
            scores = {
                n: score(predictor, edge_type, *pair(n))
                for n in wanted
                if given_type != wanted_type or n != given
            }
            ranked = sorted(
                (n for n in scores if include_known or pair(n) not in known),
                key=lambda n: -scores[n],
            )[:6]
            head = str(graph.node_ids[given_type][given])
            found = predictor.tails(head, relation, 6, given_type, include_known)
            found = found[found["tail_type"] == wanted_type]
            assert found["tail_id"].tolist() == [graph.node_ids[wanted_type][n] for n in ranked]
            assert found["tail_name"].tolist() == [graph.node_names[wanted_type][n] for n in ranked]
            assert found["rank"].tolist() == list(range(1, len(ranked) + 1))
            np.testing.assert_allclose(
                found["score"], [scores[n] for n in ranked], rtol=1e-4, atol=1e-5
            )
            assert found["known"].tolist() == [pair(n) in known for n in ranked]


def test_a_relation_towards_several_types_gives_each(make_graph):
    rows = [
        ("drug", "a", "acts on", "gene", "g"),
        ("drug", "a", "acts on", "disease", "d"),
        ("drug", "b", "acts on", "gene", "h"),
    ]
    found = predictor_of(make_graph(rows)).tails("a", "acts on", k=1, include_known=True)
    assert set(found["tail_type"]) == {"gene", "disease"}
    assert found["rank"].tolist() == [1, 1]


def test_a_relation_that_is_called_as_the_reverse_of_a_symmetric_one_is_itself(make_graph):
    both = [("g", a, "x", "g", b) for a, b in ("12", "21", "13", "31")]
    found = predictor_of(
        make_graph([*both, ("g", "1", "rev_x", "g", "4"), ("g", "5", "rev_x", "g", "4")])
    ).tails("1", "rev_x", k=9)
    assert found["rank"].tolist() == list(range(1, len(found) + 1)), "one relation's"
    assert found["tail_id"].is_unique


@pytest.fixture
def named(make_graph):
    """Drug x and gene x share an id, two drugs share a name, and a gene's name is a drug's id."""
    graph = make_graph(
        [
            ("drug", "x", "hits", "gene", "x"),
            ("drug", "y", "hits", "gene", "z"),
            ("drug", "w", "hits", "gene", "v"),
        ]
    )
    names = {
        "drug": np.array(["twin", "twin", "solo"], dtype=object),
        "gene": np.array(["w", "Gene Z", "other"], dtype=object),
    }
    return dataclasses.replace(graph, node_names=names)


def test_a_head_is_found_by_id_before_name(named):
    predictor = predictor_of(named)
    assert predictor.tails("w", "hits", include_known=True)["tail_id"].nunique() == 3, (
        "the drug of this id, not the gene of this name"
    )
    by_name = predictor.tails("solo", "hits", include_known=True)
    solo = named.node_ids["drug"][list(named.node_names["drug"]).index("solo")]
    assert by_name.equals(predictor.tails(solo, "hits", head_type="drug", include_known=True))


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"head": "x", "relation": "hits"}, "name of 2 nodes .*Give the id and head_type"),
        ({"head": "twin", "relation": "hits"}, "name of 2 nodes"),
        ({"head": "Gene Y", "relation": "hits"}, "no node of this id or name; like it are Gene Z"),
        (
            {"head": "y", "relation": "hit"},
            "has no nodes of type drug. Such nodes have hits",
        ),
        (
            {"head": "z", "relation": "hits"},
            "has no nodes of type gene. Such nodes have rev_hits",
        ),
        ({"head": "y", "relation": "hits", "head_type": "durg"}, "no such type. It has drug, gene"),
        ({"head": "y", "relation": "hits", "k": 0}, "Give at least 1"),
    ],
)
def test_questions_without_an_answer(named, question, words):
    with pytest.raises(InputError, match=words):
        predictor_of(named).tails(**question)


def test_files_of_two_runs_are_refused(graph, make_graph, tmp_path):
    predictor_of(graph).embeddings.save(tmp_path / "embeddings")
    make_graph([("drug", "a", "treats", "disease", "b")]).save(tmp_path / "graph")
    with pytest.raises(InputError, match="Give the files of one run"):
        Predictor.load(tmp_path / "embeddings" / "embeddings.parquet", tmp_path / "graph")
