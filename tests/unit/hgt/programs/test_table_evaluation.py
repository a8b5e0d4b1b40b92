"""Any table of embeddings: rows in any order, tables of others, and what does not fit."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch

from hgt.embeddings.table import Embeddings
from hgt.errors import InputError
from hgt.programs.embedding_report import report_on
from hgt.programs.table_evaluation import evaluate_table
from tests.unit.hgt.programs.test_evaluation import CPU


def values(report):
    return [(c.name, pytest.approx(c.value), c.verdict) for c in report.checks]


def test_a_table_is_judged_like_its_run(table, kg_csv, embeddings, graph, split, config):
    report = evaluate_table(table, kg_csv)
    assert [(c.name, c.value, c.verdict) for c in report.checks] == values(
        report_on(embeddings, graph, split, config, CPU)
    )
    assert report.ranking.typed.mrr > 2 * report.ranking.typed.chance_mrr


def test_relations_are_found_by_name_and_nodes_by_key(
    embeddings, kg_csv, tmp_path, graph, split, config
):
    order = torch.randperm(graph.total_nodes)
    shuffled = Embeddings(
        embeddings.nodes.iloc[order.numpy()],
        embeddings.vectors[order],
        embeddings.edge_types[::-1],
        embeddings.relations.flip(0),
        embeddings.origin,
    )
    shuffled.save(tmp_path)
    report = evaluate_table(tmp_path / "embeddings.parquet", kg_csv)
    assert [(c.name, c.value, c.verdict) for c in report.checks] == values(
        report_on(embeddings, graph, split, config, CPU)
    )


def test_a_csv_is_judged_like_its_run_as_long_as_its_relations_lie_beside_it(table, kg_csv):
    told = []
    report = evaluate_table(table.parents[1] / "alone" / "out.csv", kg_csv, told.append)
    assert [(c.name, c.value, c.verdict) for c in report.checks] == values(
        evaluate_table(table, kg_csv)
    )
    assert told == []


def test_a_csv_of_elsewhere_is_scored_by_inner_products(table, kg_csv):
    csv, told = table.parents[1] / "alone" / "out.csv", []
    csv.with_name("out.relations.parquet").unlink()
    report = evaluate_table(csv, kg_csv, told.append)
    assert report.ranking is not None
    (sentence,) = told
    assert "its training data is unknown" in sentence
    assert "inner product" in sentence
    assert report.geometry.mean_cosine == pytest.approx(
        evaluate_table(table, kg_csv).geometry.mean_cosine
    )
    assert report.ranking.typed.mrr != evaluate_table(table, kg_csv).ranking.typed.mrr


def test_rows_of_other_nodes_are_left_out_and_told(table, embeddings, kg_csv, tmp_path):
    nodes, vectors, told = embeddings.nodes, embeddings.vectors, []
    others = nodes.iloc[[3, 5]].assign(node_id=["elsewhere", "nowhere"])
    more = replace(
        embeddings,
        nodes=pd.concat([others, nodes], ignore_index=True),
        vectors=torch.cat([torch.zeros(2, 16), vectors]),
    )
    more.save(tmp_path / "more")
    report = evaluate_table(tmp_path / "more" / "embeddings.parquet", kg_csv, told.append)
    assert [(c.name, c.value, c.verdict) for c in report.checks] == values(
        evaluate_table(table, kg_csv)
    )
    (sentence,) = told
    assert f"2 of its {len(nodes) + 2:,} rows have nodes that the graph lacks" in sentence
    assert f"the first being ({nodes.node_type[3]}, elsewhere)" in sentence


def test_true_facts_score_above_false_ones(table, kg_csv):
    pairs = evaluate_table(table, kg_csv).measured.classification
    assert pairs.micro.auroc > 0.6
    assert pairs == evaluate_table(table, kg_csv).measured.classification, (
        "negatives are drawn alike in every run"
    )


@pytest.mark.parametrize("dim", [1, 2, 128])
def test_a_foreign_table_of_any_width_is_judged(graph, kg_csv, tmp_path, dim):
    torch.manual_seed(1)
    foreign = Embeddings(
        graph.node_table().astype(str),
        torch.randn(graph.total_nodes, dim),
        (),
        torch.zeros(0, dim),
        {},
    )
    foreign.save(tmp_path)
    (tmp_path / "relations.parquet").unlink()
    report = evaluate_table(tmp_path / "embeddings.parquet", kg_csv)
    assert "mrr" in {c.key for c in report.checks if c.verdict == "FAIL"}
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["accepted"] is False


@pytest.mark.parametrize(
    "rows", [[("gene", "a", "ppi", "gene", "b")], [("drug", "a", "treats", "disease", "b")]]
)
def test_two_nodes_of_one_type_or_two_are_judged(tmp_path, rows):
    pd.DataFrame(rows, columns=["x_type", "x_id", "relation", "y_type", "y_id"]).to_csv(
        tmp_path / "kg.csv", index=False
    )
    (head, a, _, tail, b), *_ = rows
    nodes = pd.DataFrame(
        {
            "node_type": [head, tail],
            "node_id": [a, b],
            "node_name": [a, b],
            "dim_0": [1.0, 2.0],
            "dim_1": [0.5, 0.1],
        }
    )
    nodes.to_csv(tmp_path / "table.csv", index=False)
    report = evaluate_table(tmp_path / "table.csv", tmp_path / "kg.csv")
    assert report.ranking is None
    assert {c.key for c in report.checks if c.value is None} >= {"silhouette", "type_spread", "mrr"}
    assert not report.accepted
    assert "components for 90 % of variance" in report.table().splitlines()[-1]


def refusal(path, kg):
    with pytest.raises(InputError) as caught:
        evaluate_table(path, kg)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_rows(embeddings, rows, folder):
    nodes = embeddings.nodes.iloc[rows]
    Embeddings(
        nodes,
        embeddings.vectors[rows],
        embeddings.edge_types,
        embeddings.relations,
        embeddings.origin,
    ).save(folder)
    return folder / "embeddings.parquet"


def test_refuses_a_node_that_stands_in_it_twice(embeddings, kg_csv, tmp_path):
    rows = [*range(len(embeddings.nodes)), 4]
    node = embeddings.nodes.iloc[4]
    assert f"node ({node.node_type}, {node.node_id}) has more than one row" in refusal(
        with_rows(embeddings, rows, tmp_path), kg_csv
    )


def test_refuses_a_table_that_lacks_nodes(embeddings, kg_csv, tmp_path):
    message = refusal(
        with_rows(embeddings, list(range(2, len(embeddings.nodes))), tmp_path), kg_csv
    )
    assert f"lacks 2 of the graph's {len(embeddings.nodes)} nodes" in message


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ("node_id", "write the table's ids as the graph's file has them"),
        ("node_type", "write the table's node types as"),
    ],
)
def test_a_table_of_none_of_the_graphs_nodes_shows_one_of_each_side(
    embeddings, kg_csv, tmp_path, column, told
):
    nodes = embeddings.nodes.assign(
        **{column: [f"MONDO:{value}" for value in embeddings.nodes[column]]}
    )
    replace(embeddings, nodes=nodes).save(tmp_path)
    message = refusal(tmp_path / "embeddings.parquet", kg_csv)
    first, ours = nodes.iloc[0], embeddings.nodes.iloc[0]
    assert (
        f"has none of the graph's {len(nodes)} nodes: the graph has ({ours.node_type},"
        f" {ours.node_id})" in message
    )
    assert f"the table ({first.node_type}, {first.node_id})" in message
    assert told in message


def test_refuses_another_graph(table, kg_csv, tmp_path, graph):
    other = tmp_path / "other.csv"
    pd.read_csv(kg_csv).iloc[:-40].to_csv(other, index=False)
    message = refusal(table, other)
    assert graph.hash[:16] in message
    assert "was trained on" in message


def test_refuses_relations_without_the_graphs_edge_types(embeddings, kg_csv, tmp_path):
    Embeddings(
        embeddings.nodes,
        embeddings.vectors,
        embeddings.edge_types[1:],
        embeddings.relations[1:],
        embeddings.origin,
    ).save(tmp_path)
    assert " - ".join(embeddings.edge_types[0]) in refusal(tmp_path / "embeddings.parquet", kg_csv)


def test_refuses_a_table_of_nothing_but_nan(embeddings, kg_csv, tmp_path):
    nothing = torch.full_like(embeddings.vectors, float("nan"))
    Embeddings(
        embeddings.nodes, nothing, embeddings.edge_types, embeddings.relations, embeddings.origin
    ).save(tmp_path)
    assert "Only 0 of" in refusal(tmp_path / "embeddings.parquet", kg_csv)


def test_a_nan_row_is_rejected_not_refused(embeddings, kg_csv, tmp_path):
    spoilt = embeddings.vectors.clone()
    spoilt[3] = float("nan")
    Embeddings(
        embeddings.nodes, spoilt, embeddings.edge_types, embeddings.relations, embeddings.origin
    ).save(tmp_path)
    report = evaluate_table(tmp_path / "embeddings.parquet", kg_csv)
    assert not report.accepted
    assert report.geometry.num_not_finite == 1


def test_refuses_a_missing_graph(table, tmp_path):
    assert "no such file" in refusal(table, tmp_path / "nowhere.csv")
