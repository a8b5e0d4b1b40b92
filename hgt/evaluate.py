"""The evaluation program: `python -m hgt.evaluate <run folder>`, a child process as the trainer is.

Ranks the test facts with the run's embeddings on the run's device and holds them against false ones
there, measures geometry and neighbourhoods on the CPU (in float64), and writes
`report/validation.json`, its table as text, and the plots. `evaluate_table` does the same for any
table of embeddings (`hgt validate`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hgt.config import RunConfig
from hgt.device.limits import prepare_device
from hgt.device.memory_use import DeviceMemory
from hgt.device.probe import probe_device
from hgt.embeddings.table import Embeddings
from hgt.errors import InputError
from hgt.evaluation.edge_classification import ClassificationReport, classify_facts
from hgt.evaluation.geometry import measure_geometry
from hgt.evaluation.neighbourhoods import measure_neighbourhoods
from hgt.evaluation.plots import LOSSES, plot_losses, plot_plane
from hgt.evaluation.ranking import FactIndex, RankingReport, rank_facts
from hgt.evaluation.validation import Measured, ValidationReport, validate
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.leakage import audit_split
from hgt.graph.split import TEST, EdgeSplit, split_facts
from hgt.reading.edge_table import read_edge_table
from hgt.run.events import epochs_by_number
from hgt.run.folder import RunFolder
from hgt.run.opened import open_run
from hgt.run.program import OnEvent, run_program
from hgt.run.report import write_report
from hgt.whole_file import make_folder


def evaluate_run(folder: RunFolder, on_event: OnEvent) -> None:
    """Write the report of a run whose embeddings are there."""
    run = open_run(folder)
    audit = audit_split(run.graph, run.split, folder.split)
    on_event("audited", message=str(audit))
    path = folder.embeddings / "embeddings.parquet"
    embeddings = Embeddings.load(path)
    run.identity.check(embeddings.origin, path)
    if not embeddings.edge_types:
        raise InputError(
            f"{path}: has no relations.parquet beside it. Resume the run, which writes it anew."
        )
    if not (embeddings.nodes.to_numpy() == run.graph.node_table().astype(str).to_numpy()).all():
        raise InputError(
            f"{path}: its rows are not the nodes of the run's graph. Resume the run, which writes"
            " it anew."
        )
    with run.memory.phase("evaluation"):
        report = report_on(embeddings, run.graph, run.split, run.config, run.device)
    make_folder(folder.report)
    write_report(report, folder.report, run.identity)
    plot_losses(
        [e for _, e in sorted(epochs_by_number(folder.events, *LOSSES, "val_mrr").items())],
        folder.report / "losses.png",
    )
    plot_plane(report.geometry, folder.report / "pca.png")
    on_event("evaluated", accepted=report.accepted, **run.memory.as_dict())


def evaluate_table(
    path: Path, kg: Path, tell: Callable[[str], None] = lambda sentence: None
) -> ValidationReport:
    """Hold any table of embeddings against the graph that it claims to describe.

    A table that one of our runs wrote is judged on that run's held-out facts. For others the split
    is the default one, and, where no relation embeddings lie beside the table, facts are scored by
    the inner product of their two ends; `tell` is told so. Ranks on this machine's own device: the
    table may come from another one. Raises InputError when the table and the graph do not fit,
    OutOfMemory when the ranking does not fit the device.
    """
    embeddings = Embeddings.load(path)
    config = _config_of(embeddings, path)
    if not embeddings.origin:
        scored = (
            "the relations beside it"
            if embeddings.edge_types
            else "the inner product of their ends"
        )
        tell(
            f"{path}: nothing says what it was trained on. Its ranks are those of the default"
            f" split's test facts (seed 0), which it may have seen, scored by {scored}."
        )
    graph = KnowledgeGraph.from_edge_table(read_edge_table(kg), config.graph)
    if embeddings.origin and embeddings.origin["graph_hash"] != graph.hash:
        raise InputError(
            f"{path}: was trained on graph {embeddings.origin['graph_hash'][:16]}, but {kg} is"
            f" graph {graph.hash[:16]}. Give the kg.csv that it was trained on, with its rows in"
            " the same order."
        )
    embeddings, split = (
        _in_graph_order(embeddings, graph, path, tell),
        split_facts(graph, config.split),
    )
    if embeddings.origin:
        _check_split(embeddings, split, path, tell)
    audit_split(graph, split)
    device = prepare_device(probe_device(None).type)
    with DeviceMemory(device.type, {}).phase("evaluation"):
        return report_on(embeddings, graph, split, config, device)


def _config_of(embeddings: Embeddings, path: Path) -> RunConfig:
    try:
        return (
            RunConfig.from_flat(embeddings.origin["parameters"])
            if embeddings.origin
            else RunConfig()
        )
    except InputError as error:
        raise InputError(f"{path}: was made by another version, or changed: {error}") from error


def _check_split(
    embeddings: Embeddings, split: EdgeSplit, path: Path, tell: Callable[[str], None]
) -> None:
    """What one of our runs wrote is judged on the facts that it held out, as far as the table says
    which those are.
    """
    told = embeddings.origin.get("split_hash")
    if told is None:
        tell(
            f"{path}: was written by an earlier version, which did not say what was held out. It"
            " may have seen the facts that are ranked."
        )
    elif told != split.hash:
        raise InputError(
            f"{path}: was trained on split {str(told)[:16]}, but this version of the program holds"
            f" out split {split.hash[:16]} with the same parameters. Validate it with the version"
            " that trained it, or train anew."
        )
    if not embeddings.edge_types:
        tell(
            f"{path}: has no relations beside it, so its facts are scored by the inner product of"
            " their ends."
        )


def report_on(
    embeddings: Embeddings,
    graph: KnowledgeGraph,
    split: EdgeSplit,
    config: RunConfig,
    device: torch.device,
) -> ValidationReport:
    """embeddings: rows in the graph's global order; device: where facts are scored."""
    vectors, seed = embeddings.vectors, config.split.seed
    geometry = measure_geometry(vectors, embeddings.nodes["node_type"].to_numpy(dtype=str), seed)
    neighbourhoods = measure_neighbourhoods(
        vectors, graph, split, config.losses.contrastive_node_type, seed
    )
    test, index = split.of(TEST), FactIndex(graph)
    ranking: RankingReport | None = None
    classification: ClassificationReport | None = None
    if test.shape[1]:
        decoder, there = embeddings.decoder(graph.edge_types).to(device), vectors.to(device)
        ranking = rank_facts(there, decoder, test, index)
        classification = classify_facts(there, decoder, test, index, seed)
    return validate(Measured(geometry, neighbourhoods, ranking, classification), config.validation)


def _in_graph_order(
    embeddings: Embeddings, graph: KnowledgeGraph, path: Path, tell: Callable[[str], None]
) -> Embeddings:
    """Exactly the graph's nodes; `tell` is told of rows that are of others."""
    wanted = graph.node_table()
    keys = embeddings.nodes["node_type"] + "\x1f" + embeddings.nodes["node_id"]
    if keys.duplicated().any():
        twice = embeddings.nodes[keys.duplicated()].iloc[0]
        raise InputError(
            f"{path}: node ({twice.node_type}, {twice.node_id}) stands in it more than once. Keep"
            " one row per node."
        )
    place = {key: i for i, key in enumerate(keys)}
    rows = np.array(
        [
            place.get(f"{t}\x1f{i}", -1)
            for t, i in zip(wanted.node_type, wanted.node_id, strict=True)
        ]
    )
    if (rows < 0).all():
        raise InputError(_nothing_in_common(wanted, embeddings.nodes, path))
    if (rows < 0).any():
        absent = wanted[rows < 0].iloc[0]
        raise InputError(
            f"{path}: lacks {int((rows < 0).sum()):,} of the graph's {len(rows):,} nodes, the first"
            f" being ({absent.node_type}, {absent.node_id}). Give the embeddings of this graph."
        )
    if len(keys) > len(rows):
        other = embeddings.nodes[~np.isin(np.arange(len(keys)), rows)].iloc[0]
        tell(
            f"{path}: {len(keys) - len(rows):,} of its {len(keys):,} rows are of nodes that the"
            f" graph lacks, the first being ({other.node_type}, {other.node_id}). They are left"
            " out."
        )
    return Embeddings(
        wanted,
        embeddings.vectors[torch.from_numpy(rows)],
        embeddings.edge_types,
        embeddings.relations,
        embeddings.origin,
    )


def _nothing_in_common(graph: pd.DataFrame, table: pd.DataFrame, path: Path) -> str:
    """With a node of each side, of one type where there is one that both have."""
    sides = [graph, table]
    both = [t for t in graph["node_type"].unique() if t in set(table["node_type"])]
    if both:
        sides = [side[side["node_type"] == both[0]] for side in sides]
    examples = [
        f"({side.iloc[0].node_type}, {side.iloc[0].node_id})" if len(side) else "no node"
        for side in sides
    ]
    what = "ids" if both else "node types"
    return (
        f"{path}: has none of the graph's {len(graph):,} nodes: the graph has {examples[0]}, the"
        f" table {examples[1]}. Give the embeddings of this graph, or write the table's {what} as"
        " the graph's file has them."
    )


if __name__ == "__main__":
    sys.exit(run_program("evaluate", sys.argv[1:], evaluate_run))
