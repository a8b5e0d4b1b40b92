"""The model card says what the reports say."""

import json

import torch

from hgt.embeddings.table import Embeddings
from hgt.evaluation.model_card import model_card
from hgt.programs.baseline_table import Baseline, Comparison
from hgt.programs.embedding_report import report_on

_NOTHING_MEASURED = {"ranking": None, "classification": None, "checks": []}


def test_every_figure_comes_from_the_reports(graph, split, make_config):
    config = make_config(min_mrr_over_chance=1000.0)
    torch.manual_seed(0)
    vectors, relations = torch.randn(graph.total_nodes, 16), torch.ones(len(graph.edge_types), 16)
    embeddings = Embeddings(
        graph.node_table(), vectors, tuple(graph.edge_types), relations, {"decoder": "distmult"}
    )
    report = json.loads(
        json.dumps(report_on(embeddings, graph, split, config, torch.device("cpu")).as_dict())
    )
    typed = report["ranking"]["typed"]
    comparison = Comparison(
        {"typed": typed["mrr"], "all nodes": 0.5},
        1.0,
        (Baseline("degree", {"typed": 0.1234, "all nodes": 0.2}),),
    )
    card = model_card("run-7", config, graph, report, comparison.as_dict())
    lines = card.splitlines()
    assert lines[0].endswith("run run-7")
    for words in (
        graph.hash,
        f"{graph.total_nodes:,} nodes",
        "5% of the facts of each edge type",
        "seed 0",
        "learning_rate = 0.003",
    ):
        assert words in card
    (ranks,) = [line for line in lines if line.startswith("| among nodes of the right type |")]
    assert ranks.split("|")[2:6] == [
        f" {v:.4f} "
        for v in (typed["mrr"], typed["hits"]["1"], typed["hits"]["3"], typed["hits"]["10"])
    ]
    assert "| degree | 0.1234 | 0.2000 |" in lines
    assert f"AUROC {report['classification']['micro']['auroc']:.3f}" in card
    weakest = min(report["ranking"]["by_edge_type"], key=lambda m: m["mrr"] / m["chance_mrr"])
    assert (
        f"weakest edge types on held-out facts: {' - '.join(weakest['edge_type'])} (MRR"
        f" {weakest['mrr']:.3f}" in card
    )
    failed = [c for c in report["checks"] if not c["passed"]]
    assert failed, "random vectors do not rank"
    assert all(any(line.startswith(f"- {c['name']} is ") for line in lines) for c in failed)


def test_shares_that_are_no_whole_percent_are_told(graph, make_config):
    card = model_card(
        "run", make_config(val_fraction=0.002, test_fraction=0.125), graph, _NOTHING_MEASURED, None
    )
    assert "0.2% of the facts of each edge type for early stopping, 12.5% for the figures" in card


def test_what_was_not_measured_is_left_out(graph, config):
    card = model_card("run", config, graph, _NOTHING_MEASURED, None)
    assert "Held-out facts" not in card
    assert "Baselines" not in card
    assert "## Limits" in card
