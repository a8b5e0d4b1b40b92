"""From rows to facts: filter, merge mirrors, drop duplicates and self-loops, number the nodes.

In: an `EdgeTable` and a `GraphConfig`. Out: `Facts`, the arrays of a `KnowledgeGraph`. No row is
dropped without being counted under its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hgt.config import GraphConfig
from hgt.errors import InputError, printable
from hgt.graph.subgraph import connected_sample
from hgt.reading.edge_table import EdgeTable, read_beginning

EdgeType = tuple[str, str, str]
_SHOWN = 5  # nodes in a note


def edge_type_name(edge_type: Iterable[str]) -> str:
    """As people read it: on one line."""
    return printable(" - ".join(edge_type))


@dataclass(frozen=True)
class DroppedRows:
    """Rows of the file that are no fact of their own, by reason."""

    mirror: int = 0  # the other direction of a fact that is there
    duplicate: int = 0  # a repetition of a row that is there
    self_loop: int = 0  # head and tail are the same node
    filtered_type: int = 0  # a node type outside include_node_types
    outside_sample: int = 0  # an end outside the limit_nodes sample

    def as_dict(self) -> dict[str, int]:
        return dict(vars(self))


@dataclass(frozen=True)
class Facts:
    """node_ids, node_names: per type, sorted by id. edge_index: per edge type [2, num_facts] int64,
    numbered in types.

    notes: sentences about nodes that a reader of the file would miss
    """

    node_ids: dict[str, np.ndarray]
    node_names: dict[str, np.ndarray]
    edge_index: dict[EdgeType, np.ndarray]
    symmetric: frozenset[EdgeType]
    dropped: DroppedRows
    notes: tuple[str, ...] = ()


def refuse_early(kg: Path, config: GraphConfig) -> None:
    """InputError for what the file's beginning shows; for all that a graph of it would be refused
    for, where the file is small.

    Imports little: to be called before what takes seconds to import or to start.
    """
    table = read_beginning(kg)
    if table is not None:
        extract_facts(table, config)


def extract_facts(table: EdgeTable, config: GraphConfig) -> Facts:
    """The facts among the rows; raises InputError for an unknown type or relation, or when nothing
    is left.
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
    for edge_type, facts, is_symmetric, counts in _facts_by_type(table, rows, number, config):
        edge_index[edge_type] = facts
        if is_symmetric:
            symmetric.add(edge_type)
        mirrors += counts[0]
        duplicates += counts[1]
    ordered = {e: edge_index[e] for e in sorted(edge_index)}
    dropped = DroppedRows(mirrors, duplicates, int(loops.sum()), filtered_type, outside)
    return Facts(ids, names, ordered, frozenset(symmetric), dropped, tuple(notes))


def _only_loops(table: EdgeTable, loops: np.ndarray, rows: np.ndarray) -> list[str]:
    """A sentence about the nodes whose rows all connect them with themselves. loops: mask; rows:
    numbers of the others
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
    """A sentence that says why `limit_nodes` gives fewer nodes than it could. chosen: mask over the
    nodes
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
    """Mask [num_nodes]: the nodes of these rows."""
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
    """Ids and names of the nodes that the rows touch, by type and sorted by id, and each node's
    number in its type.
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


def _facts_by_type(
    table: EdgeTable, rows: np.ndarray, number: np.ndarray, config: GraphConfig
) -> Iterator[tuple[EdgeType, np.ndarray, bool, tuple[int, int]]]:
    """Yield (edge type, facts [2, n], symmetric, (mirror rows, duplicate rows)) for every edge type
    among the rows.
    """
    num_types = len(table.node_types)
    head, tail, relation = table.head[rows], table.tail[rows], table.relation[rows].astype(np.int64)
    head_type, tail_type = table.node_type[head], table.node_type[tail]
    # The orientation that stands first in the file is the one that the edge type keeps.
    code = (relation * num_types + head_type) * num_types + tail_type
    distinct, first_row = np.unique(code, return_index=True)
    first = dict(zip(distinct.tolist(), first_row.tolist(), strict=True))
    order = np.argsort(code, kind="stable")
    bounds = [*np.searchsorted(code[order], distinct, side="left").tolist(), len(code)]
    rows_of = {
        c: order[a:b] for c, a, b in zip(distinct.tolist(), bounds[:-1], bounds[1:], strict=True)
    }

    # by the first of two orientations
    merged: dict[int, tuple[np.ndarray, bool, tuple[int, int]] | None] = {}
    for c in distinct.tolist():
        r, h, t = c // num_types**2, c // num_types % num_types, c % num_types
        name = table.relations[r]
        edge_type = (table.node_types[h], name, table.node_types[t])
        own = rows_of[c]
        pairs = np.stack([number[head[own]], number[tail[own]]])
        if h == t:
            yield edge_type, *_within_one_type(pairs, name, config)
            continue
        opposite = (r * num_types + t) * num_types + h
        if opposite in rows_of:
            other = rows_of[opposite]
            one = min(c, opposite, key=first.__getitem__)
            if one not in merged:
                mirrored = np.stack([number[tail[other]], number[head[other]]])
                merged[one] = _across_types(
                    *((pairs, mirrored) if c == one else (mirrored[::-1], pairs[::-1])),
                    name,
                    config,
                )
            told = merged[one]
            if told is not None:
                if c == one:  # else the other orientation tells them
                    yield edge_type, *told
                continue
        facts = _distinct_pairs(pairs)
        yield edge_type, facts, False, (0, pairs.shape[1] - facts.shape[1])


def _across_types(
    pairs: np.ndarray, mirrored: np.ndarray, relation: str, config: GraphConfig
) -> tuple[np.ndarray, bool, tuple[int, int]] | None:
    """Rows of one relation in both orientations, turned the same way. A row and its mirror are one
    fact when nearly all distinct rows have their mirror (or the configuration says so); None when
    the orientations are two edge types.
    """
    one, other = _distinct_pairs(pairs), _distinct_pairs(mirrored)
    facts = _distinct_pairs(np.concatenate([one, other], axis=1))
    num_rows = one.shape[1] + other.shape[1]
    num_mirrors = num_rows - facts.shape[1]
    if not _are_mirrors(num_mirrors, num_rows, relation, config):
        return None
    return facts, False, (num_mirrors, pairs.shape[1] + mirrored.shape[1] - num_rows)


def _are_mirrors(num_mirrors: int, num_rows: int, relation: str, config: GraphConfig) -> bool:
    """Whether a row's mirror says the same. num_mirrors: pairs that stand in both directions;
    num_rows: distinct rows
    """
    if relation in config.directed_relations:
        return False
    return (
        relation in config.symmetric_relations
        or 2 * num_mirrors / num_rows >= config.min_mirrored_share
    )


def _within_one_type(
    pairs: np.ndarray, relation: str, config: GraphConfig
) -> tuple[np.ndarray, bool, tuple[int, int]]:
    """Symmetric when nearly all distinct rows have their mirror (or the configuration says so),
    else directed.
    """
    rows = _distinct_pairs(pairs)
    duplicates = pairs.shape[1] - rows.shape[1]
    undirected = _distinct_pairs(np.sort(rows, axis=0))
    num_mirrors = rows.shape[1] - undirected.shape[1]  # pairs that stand in both directions
    if _are_mirrors(num_mirrors, rows.shape[1], relation, config):
        return undirected, True, (num_mirrors, duplicates)
    return rows, False, (0, duplicates)


def _distinct_pairs(pairs: np.ndarray) -> np.ndarray:
    """[2, n] sorted by first and then second number, each pair once."""
    width = int(pairs.max()) + 1
    keys = np.unique(pairs[0] * width + pairs[1])
    return np.stack([keys // width, keys % width])
