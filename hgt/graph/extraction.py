"""From rows to facts: filters rows, merges mirrors, drops duplicates and self-loops.

In: an `EdgeTable` and a `GraphConfig`. Out: `Facts`, the arrays of a `KnowledgeGraph`, with the
number of dropped rows by reason.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hgt.config import GraphConfig
from hgt.errors import InputError
from hgt.graph.facts import DroppedRows, EdgeType, Facts
from hgt.graph.mirror_rows import facts_by_type
from hgt.graph.subgraph import connected_sample
from hgt.reading.edge_table import EdgeTable, read_beginning

_SHOWN = 5  # nodes in a note


def refuse_early(kg: Path, config: GraphConfig) -> None:
    """Raise InputError for faults in the beginning of the file. For a small file these are all
    faults that its graph would have.

    It imports little, so that it can run before slow imports and starts.
    """
    table = read_beginning(kg)
    if table is not None:
        extract_facts(table, config)


def extract_facts(table: EdgeTable, config: GraphConfig) -> Facts:
    """The facts among the rows.

    Raises InputError for an unknown type or relation, or when no fact remains.
    """
    _refuse_relations(table, config)
    keep = _rows_of_included_types(table, config.include_node_types)
    filtered_type = int((~keep).sum())
    loops = keep & (table.head == table.tail)
    keep &= ~loops
    if not keep.any():
        advice = (
            "Include more node types."
            if filtered_type
            else "Give a file with edges between different nodes."
        )
        raise InputError(
            f"Nothing is left of {table.num_rows:,} rows: {filtered_type:,} have a node type"
            f" outside include_node_types, {int(loops.sum()):,} connect a node with itself."
            f" {advice}"
        )
    rows = np.flatnonzero(keep)
    outside, notes = 0, _only_loops(table, loops, rows)
    if config.limit_nodes is not None:
        chosen = connected_sample(
            table.head[rows], table.tail[rows], table.node_type, config.limit_nodes
        )
        inside = chosen[table.head[rows]] & chosen[table.tail[rows]]
        outside = int((~inside).sum())
        notes += _small_sample(table, rows, chosen, config.limit_nodes)
        rows = rows[inside]
        if not len(rows):
            raise InputError(
                f"Nothing is left with limit_nodes {config.limit_nodes}. Raise it to at least 2"
                " nodes per node type."
            )

    ids, names, number = _number_nodes(table, rows)
    edge_index: dict[EdgeType, np.ndarray] = {}
    symmetric: set[EdgeType] = set()
    mirrors = duplicates = 0
    for edge_type, facts, is_symmetric, counts in facts_by_type(table, rows, number, config):
        edge_index[edge_type] = facts
        if is_symmetric:
            symmetric.add(edge_type)
        mirrors += counts[0]
        duplicates += counts[1]
    ordered = {e: edge_index[e] for e in sorted(edge_index)}
    dropped = DroppedRows(mirrors, duplicates, int(loops.sum()), filtered_type, outside)
    return Facts(ids, names, ordered, frozenset(symmetric), dropped, tuple(notes))


def _only_loops(table: EdgeTable, loops: np.ndarray, rows: np.ndarray) -> list[str]:
    """A sentence about the nodes whose rows connect them only with themselves.

    loops: mask over the rows.
    rows: numbers of the other rows.
    """
    nodes = np.unique(table.head[loops])
    nodes = nodes[~_touched(table, rows)[nodes]]
    if not len(nodes):
        return []
    shown = ", ".join(
        f"({table.node_types[table.node_type[n]]}, {table.node_id[n]})" for n in nodes[:_SHOWN]
    )
    more = ", ..." if len(nodes) > _SHOWN else ""
    return [
        f"{len(nodes):,} node(s) are left out, because their rows connect them with nothing but"
        f" themselves: {shown}{more}"
    ]


def _small_sample(table: EdgeTable, rows: np.ndarray, chosen: np.ndarray, limit: int) -> list[str]:
    """A sentence that explains why `limit_nodes` gives fewer nodes than its value.

    chosen: mask over the nodes.
    """
    total, found = int(_touched(table, rows).sum()), int(chosen.sum())
    if found >= min(limit, total):
        return []
    several = " with more than one node type" if len(np.unique(table.node_type[chosen])) > 1 else ""
    return [
        f"limit_nodes {limit:,} gives {found:,} nodes: a sample is connected, and the largest"
        f" connected part{several} has {found:,} of the {total:,} nodes. Leave limit_nodes out to"
        " train on all parts."
    ]


def _touched(table: EdgeTable, rows: np.ndarray) -> np.ndarray:
    """[num_nodes] mask of the nodes of these rows."""
    touched = np.zeros(len(table.node_id), dtype=bool)
    touched[table.head[rows]] = True
    touched[table.tail[rows]] = True
    return touched


def _refuse_relations(table: EdgeTable, config: GraphConfig) -> None:
    unknown = sorted(
        {*config.symmetric_relations, *config.directed_relations} - set(table.relations)
    )
    if unknown:
        raise InputError(
            f"Unknown relation(s) {', '.join(unknown)}; the file has"
            f" {', '.join(sorted(table.relations))}."
        )
    if config.symmetric_relations:
        num_types = len(table.node_types)
        code = (
            table.relation.astype(np.int64) * num_types + table.node_type[table.head]
        ) * num_types + table.node_type[table.tail]
        ways = {
            (c // num_types**2, c // num_types % num_types, c % num_types)
            for c in np.unique(code).tolist()
        }
        both = {r for r, h, t in ways if (r, t, h) in ways}
        one_way = sorted(set(config.symmetric_relations) - {table.relations[r] for r in both})
        if one_way:
            raise InputError(
                f"symmetric_relations: {', '.join(one_way)} has no rows within one node type, nor"
                " in both directions between two; only those can be symmetric."
            )


def _rows_of_included_types(table: EdgeTable, include: tuple[str, ...] | None) -> np.ndarray:
    if include is None:
        return np.ones(table.num_rows, dtype=bool)
    unknown = sorted(set(include) - set(table.node_types))
    if unknown or not include:
        what = (
            f"Unknown node type(s) {', '.join(unknown)}"
            if unknown
            else "include_node_types is empty"
        )
        raise InputError(f"{what}; the file has {', '.join(sorted(table.node_types))}.")
    included = np.array([t in include for t in table.node_types])[table.node_type]
    return np.asarray(included[table.head] & included[table.tail])


def _number_nodes(
    table: EdgeTable, rows: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Ids and names of the nodes in the rows, by type and sorted by id, and the number of each node
    in its type.
    """
    used = _touched(table, rows)
    number = np.full(len(used), -1, dtype=np.int64)
    ids, names = {}, {}
    for name in sorted(table.node_types):
        nodes = np.flatnonzero(used & (table.node_type == table.node_types.index(name)))
        if len(nodes):
            nodes = nodes[np.argsort(table.node_id[nodes])]
            number[nodes] = np.arange(len(nodes))
            ids[name], names[name] = table.node_id[nodes], table.node_name[nodes]
    return ids, names, number
