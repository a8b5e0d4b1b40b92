"""Merges rows that state one fact: repetitions, and a fact's two directions.

In: numbered rows. Out: the facts of each edge type, and the numbers of merged rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hgt.config import GraphConfig
from hgt.graph.facts import EdgeType
from hgt.reading.edge_table import EdgeTable


def facts_by_type(
    table: EdgeTable, rows: np.ndarray, number: np.ndarray, config: GraphConfig
) -> Iterator[tuple[EdgeType, np.ndarray, bool, tuple[int, int]]]:
    """Yield (edge type, facts [2, n], symmetric, (mirror rows, duplicate rows)) for every edge type
    in the rows.
    """
    num_types = len(table.node_types)
    head, tail, relation = table.head[rows], table.tail[rows], table.relation[rows].astype(np.int64)
    head_type, tail_type = table.node_type[head], table.node_type[tail]
    # The edge type keeps the orientation of its first row in the file.
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
                if c == one:  # otherwise the other orientation yields them
                    yield edge_type, *told
                continue
        facts = _distinct_pairs(pairs)
        yield edge_type, facts, False, (0, pairs.shape[1] - facts.shape[1])


def _across_types(
    pairs: np.ndarray, mirrored: np.ndarray, relation: str, config: GraphConfig
) -> tuple[np.ndarray, bool, tuple[int, int]] | None:
    """Merge the rows of one relation in both orientations, turned the same way.

    A row and its mirror are one fact when nearly all distinct rows have their mirror, or when the
    configuration says so. None when the two orientations are two edge types.
    """
    one, other = _distinct_pairs(pairs), _distinct_pairs(mirrored)
    facts = _distinct_pairs(np.concatenate([one, other], axis=1))
    num_rows = one.shape[1] + other.shape[1]
    num_mirrors = num_rows - facts.shape[1]
    if not _are_mirrors(num_mirrors, num_rows, relation, config):
        return None
    return facts, False, (num_mirrors, pairs.shape[1] + mirrored.shape[1] - num_rows)


def _are_mirrors(num_mirrors: int, num_rows: int, relation: str, config: GraphConfig) -> bool:
    """Whether a row and its mirror state the same fact.

    num_mirrors: pairs in both directions.
    num_rows: distinct rows.
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
    """Merge the rows between nodes of one type. The relation is symmetric when nearly all distinct
    rows have their mirror, or when the configuration says so. Otherwise it is directed.
    """
    rows = _distinct_pairs(pairs)
    duplicates = pairs.shape[1] - rows.shape[1]
    undirected = _distinct_pairs(np.sort(rows, axis=0))
    num_mirrors = rows.shape[1] - undirected.shape[1]  # pairs in both directions
    if _are_mirrors(num_mirrors, rows.shape[1], relation, config):
        return undirected, True, (num_mirrors, duplicates)
    return rows, False, (0, duplicates)


def _distinct_pairs(pairs: np.ndarray) -> np.ndarray:
    """[2, n] each pair once, sorted by the first and then the second number."""
    width = int(pairs.max()) + 1
    keys = np.unique(pairs[0] * width + pairs[1])
    return np.stack([keys // width, keys % width])
