"""The model card of a run (Mitchell et al. 2019): its training, its quality and its limits.

In: a run's configuration, graph and reports. Out: Markdown. Every figure comes from the reports.
"""

from __future__ import annotations

import re
from typing import Any

from hgt.config import RunConfig
from hgt.graph.knowledge_graph import KnowledgeGraph

_WEAKEST = 5
_MARKDOWN = re.compile(r"[\\`*\[\]<>|#~$]")  # an underscore within a word is one
_LIMITS = (
    (
        "Embeddings exist for the nodes of this graph only; a node that is new to it needs a new"
        " training."
    ),
    (
        "Scores rank candidates for one node and one relation. They are no probabilities, and not"
        " comparable between relations."
    ),
    (
        "A graph states what has been studied: well-studied nodes have more facts and rank higher,"
        " whatever is true of them."
    ),
    (
        "Ranks are measured against facts that were held out of this graph, not against the world."
        " Whoever acts on a prediction, in research or in medicine, has to test it first."
    ),
)


def model_card(
    run: str,
    config: RunConfig,
    graph: KnowledgeGraph,
    report: dict[str, Any],
    comparison: dict[str, Any] | None,
) -> str:
    """The model card as Markdown.

    run: id of the run.
    report: content of `report/validation.json`.
    comparison: content of `report/baselines.json`; None where the run has no such file.
    """
    ranking, classification = report["ranking"], report["classification"]
    lines = [
        f"# Embeddings of a knowledge graph, run {run}",
        "",
        (
            f"{config.model.embedding_dim}-dimensional embeddings of {graph.total_nodes:,} nodes,"
            " learned by a Heterogeneous Graph Transformer (Hu et al. 2020;"
            f" {config.model.num_layers} layers, {config.model.num_heads} heads) with a"
            f" {config.model.decoder} decoder."
        ),
        "",
        "## Graph",
        "",
        (
            f"{graph.total_nodes:,} nodes of {len(graph.node_types)} types, {graph.total_facts:,}"
            f" facts of {len(graph.edge_types)} edge types; SHA-256 `{graph.hash}`. Held out:"
            f" {_held_out(config)}."
        ),
    ]
    if ranking:
        lines += ["", "## Held-out facts", "", *_ranking_table(ranking)]
        if classification:
            micro, macro = classification["micro"], classification["macro"]
            told = [f"{name.upper()} {micro[name]:.3f} (mean over edge types {macro[name]:.3f})"
                    for name in ("auroc", "auprc")]  # fmt: skip
            lines += ["", f"Against one false fact of the right types each: {' and '.join(told)}."]
    if comparison:
        lines += ["", "## Baselines on the same facts", "", *_baseline_table(comparison)]
    lines += ["", "## Checks", "", "| check | value | threshold | verdict |", "|---|---|---|---|"]
    lines += [
        f"| {_plain(c['name'])} | {_shown(c['value'])} | {c['threshold']} | {c['verdict']} |"
        for c in report["checks"]
    ]
    lines += ["", "## Limits", "", *(f"- {limit}" for limit in (*_limits_found(report), *_LIMITS))]
    lines += [
        "",
        "## Parameters",
        "",
        "```",
        *(f"{name} = {value}" for name, value in config.to_flat().items()),
        "```",
        "",
    ]
    return "\n".join(lines)


def _held_out(config: RunConfig) -> str:
    s = config.split
    what = "the facts of each edge type"
    if s.holdout_type:
        relations = ", ".join(s.holdout_relations) or "those with drugs"
        what = (
            f"the {_plain(s.holdout_type)} nodes that have facts to hold out, with all of these"
            f" ({_plain(relations)})"
        )
    shares = (
        f"{100 * s.val_fraction:g}% of {what} for early stopping, {100 * s.test_fraction:g}% for"
        " the figures below"
    )
    return f"{shares} (split `{s.split}`, seed {s.seed})"


def _ranking_table(ranking: dict[str, Any]) -> list[str]:
    rows = [("among nodes of the right type", "typed"), ("among all nodes", "all_nodes")]
    every = [
        (name + suffix, ranking[scope + mean])
        for name, scope in rows
        for suffix, mean in (("", ""), (", mean over edge types", "_macro"))
    ]
    lines = [
        "| filtered ranks of both ends | MRR | Hits@1 | Hits@3 | Hits@10 | MRR of random ranks |",
        "|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {name} | {m['mrr']:.4f} | {m['hits']['1']:.4f} | {m['hits']['3']:.4f} |"
        f" {m['hits']['10']:.4f} | {m['chance_mrr']:.4f} |"
        for name, m in every
    ]


def _baseline_table(comparison: dict[str, Any]) -> list[str]:
    lines = ["| model | MRR among nodes of the right type | among all nodes |", "|---|---|---|"]
    every = [("HGT", comparison["hgt"]), *((b["name"], b["mrr"]) for b in comparison["baselines"])]
    return lines + [
        f"| {name} | {mrr['typed']:.4f} | {mrr['all nodes']:.4f} |" for name, mrr in every
    ]


def _limits_found(report: dict[str, Any]) -> list[str]:
    """Warnings from the figures of this run."""
    found = []
    if ranking := report["ranking"]:
        over_chance = [(m["mrr"] / m["chance_mrr"], m) for m in ranking["by_edge_type"]]
        weakest = sorted(over_chance, key=lambda pair: pair[0])[:_WEAKEST]
        told = ", ".join(
            f"{_plain(' - '.join(m['edge_type']))} (MRR {m['mrr']:.3f}, {ratio:.1f} x chance)"
            for ratio, m in weakest
        )
        found.append(f"Its weakest edge types on held-out facts: {told}.")
    failed = [c for c in report["checks"] if not c["passed"]]
    return found + [
        f"{_plain(c['name'])} is {_shown(c['value'])}, not {c['threshold']}:"
        f" {_plain(c['meaning'])}."
        for c in failed
    ]


def _plain(text: str) -> str:
    """A user's name without the characters that would break a table in Markdown."""
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(text.split()))


def _shown(value: float | int | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
