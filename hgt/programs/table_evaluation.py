"""The evaluation of any table of embeddings (`hgt validate`).

In: a table and the graph that it describes. Out: a `ValidationReport`. Knows no run folder.
"""

from __future__ import annotations

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
from hgt.evaluation.validation import ValidationReport
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.leakage import audit_split
from hgt.graph.split import EdgeSplit, split_facts
from hgt.programs.embedding_report import report_on
from hgt.reading.edge_table import read_edge_table


def evaluate_table(
    path: Path, kg: Path, tell: Callable[[str], None] = lambda sentence: None
) -> ValidationReport:
    """Judge any table of embeddings against the graph that it claims to describe.

    path: the table.
    kg: the graph's file.
    tell: receives one sentence about each restriction.

    A table of one of our runs is judged on that run's held-out facts. For any other table the split
    is the default one. Without relation embeddings beside the table, the score of a fact is the
    inner product of its two ends. Facts are ranked on this machine's own device, since the table
    may come from another one.

    Raises InputError when the table and the graph do not fit. Raises OutOfMemory when the ranking
    does not fit the device.
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
            f"{path}: its training data is unknown. Its ranks are those of the default"
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
    """Check that a table of ours was trained on the split that this version computes.

    Older tables do not name their split. `tell` says so.
    """
    told = embeddings.origin.get("split_hash")
    if told is None:
        tell(
            f"{path}: was written by an earlier version, which did not save its split. It"
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


def _in_graph_order(
    embeddings: Embeddings, graph: KnowledgeGraph, path: Path, tell: Callable[[str], None]
) -> Embeddings:
    """The embeddings with exactly the graph's nodes. `tell` reports rows of other nodes."""
    wanted = graph.node_table()
    keys = embeddings.nodes["node_type"] + "\x1f" + embeddings.nodes["node_id"]
    if keys.duplicated().any():
        twice = embeddings.nodes[keys.duplicated()].iloc[0]
        raise InputError(
            f"{path}: node ({twice.node_type}, {twice.node_id}) has more than one row. Keep"
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
            f"{path}: {len(keys) - len(rows):,} of its {len(keys):,} rows have nodes that the"
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
    """The message about a table without any node of the graph. It shows a node of each side, of one
    type if both have one.
    """
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
