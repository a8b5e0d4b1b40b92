"""The rows of a PrimeKG-like file as integer codes.

In: the path of a table with `x_type, x_id, relation, y_type, y_id` (names optional): CSV text or
Parquet, packed or in parts, or PrimeKG's folder of nodes and edges. Out: an `EdgeTable`. Knows
columns and their faults. Knows neither files (`edge_files.py`) nor mirrors, duplicates and
splits (`hgt.graph`).

Strings are dictionary-encoded block by block. So 8.1 M rows take a few integers each, and never 8.1
M strings.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from hgt.errors import InputError, quoted
from hgt.reading.columns import CODES
from hgt.reading.edge_files import EdgeFiles
from hgt.reading.node_ids import spelled_once
from hgt.reading.row_counts import FileCounts

_FIRST_LOOK_BYTES = 8 << 20


@dataclass(frozen=True)
class EdgeTable:
    """The rows of a file, in its order.

    node_types, relations: the distinct strings, in order of first appearance.
    node_type: [num_nodes] index into node_types.
    node_id, node_name: [num_nodes] strings. A node without a name has its id as name.
    head, relation, tail: [num_rows] int32 codes.
    counts: lines and rows of each file; empty for a table that comes from no file.
    """

    node_types: list[str]
    relations: list[str]
    node_type: np.ndarray
    node_id: np.ndarray
    node_name: np.ndarray
    head: np.ndarray
    relation: np.ndarray
    tail: np.ndarray
    counts: tuple[FileCounts, ...] = ()

    @property
    def num_rows(self) -> int:
        return len(self.head)


def read_beginning(path: Path) -> EdgeTable | None:
    """The table of a small file. None for a larger file whose first few MB show no fault.

    Raises InputError as `read_edge_table` does.
    """
    files = EdgeFiles.open(path)
    batches, _, is_whole = files.read(_FIRST_LOOK_BYTES)
    beginning = _encode(path, batches, files.nothing)
    return beginning if is_whole else None


def read_edge_table(path: Path) -> EdgeTable:
    """Read the file once, in blocks.

    Raises InputError when the file is missing, empty or no table, when it lacks a column, has bytes
    that are not UTF-8, a quote that contains rows, or an empty id, type or relation (with row
    numbers), and when the number of rows that were read is wrong.
    """
    files = EdgeFiles.open(path)
    batches, counts, _ = files.read()
    table = _encode(path, batches, files.nothing)
    told = sum(file.rows for file in counts[: len(files.parts)])
    if table.num_rows != told:
        raise InputError(
            f"{path}: has {told:,} rows, and {table.num_rows:,} were read. Write the file again."
        )
    return replace(table, counts=tuple(counts))


def _encode(path: Path, blocks: list[pa.RecordBatch], nothing: str) -> EdgeTable:
    """Join the dictionaries of all blocks into one code per type, relation and node.

    nothing: the form of an empty cell in these files.
    """
    num_rows = sum(len(block) for block in blocks)
    if num_rows == 0:
        raise InputError(
            f"{path}: has a header line but no rows. Give a file with one edge per row."
        )

    def unify(*names: str) -> tuple[list[str], list[np.ndarray]]:
        chunks = [block.column(name) for name in names for block in blocks]
        joined = pa.chunked_array(chunks, type=CODES).unify_dictionaries()
        codes = np.concatenate([c.indices.to_numpy(zero_copy_only=False) for c in joined.chunks])
        return joined.chunk(0).dictionary.to_pylist(), np.split(codes, len(names))

    def distinct(*names: str) -> tuple[list[str], tuple[np.ndarray, ...]]:
        values, codes = unify(*names)
        _refuse_missing(path, names, values, codes, nothing)
        return _merge_equal([v.strip() for v in values], codes)

    types, (x_type, y_type) = distinct("x_type", "y_type")
    ids, (x_id, y_id) = distinct("x_id", "y_id")
    relations, (relation,) = distinct("relation")

    keys = [t.astype(np.int64) * len(ids) + i for t, i in ((x_type, x_id), (y_type, y_id))]
    node_keys, both = _dense_codes(np.concatenate(keys), len(types) * len(ids))
    node_type, node_id = (
        (node_keys // len(ids)).astype(np.int32),
        np.array(ids, dtype=object)[node_keys % len(ids)],
    )
    node_type, node_id, both = _merge_spellings(path, types, node_type, node_id, both)
    head, tail = np.split(both, 2)
    node_name = node_id.copy()
    # the first name from the left column wins
    for column, nodes in (("y_name", tail), ("x_name", head)):
        if column in blocks[0].schema.names:
            found, (found_codes,) = unify(column)
            told = np.array([bool(n.strip()) for n in found], dtype=bool)[found_codes]
            first = np.full(len(node_id), -1, dtype=np.int32)
            first[nodes[told][::-1]] = found_codes[told][::-1]
            named = first >= 0
            node_name[named] = np.array([n.strip() for n in found], dtype=object)[first[named]]
    return EdgeTable(types, relations, node_type, node_id, node_name, head, relation, tail)


def _merge_spellings(
    path: Path, types: list[str], node_type: np.ndarray, node_id: np.ndarray, nodes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Types and ids [num_nodes] after each number has one spelling, and `nodes` [n] with the new
    numbers.
    """
    spelled = spelled_once(path, types, node_type, node_id)
    if spelled is node_id:
        return node_type, node_id, nodes
    number: dict[tuple[int, str], int] = {}
    new = np.array(
        [
            number.setdefault(key, len(number))
            for key in zip(node_type.tolist(), spelled, strict=True)
        ],
        dtype=np.int32,
    )
    kept_types, kept_ids = zip(*number, strict=True)
    return np.array(kept_types, dtype=np.int32), np.array(kept_ids, dtype=object), new[nodes]


def _refuse_missing(
    path: Path, columns: tuple[str, ...], values: list[str], codes: list[np.ndarray], nothing: str
) -> None:
    """Raise InputError for a value that is only white space, or that its writer did not mean.

    values: as the file has them.
    """
    for value in values:
        if why := _not_meant(value):
            raise InputError(f"{path}: {quoted(value)} ({' or '.join(columns)}) {why}.")
    bad = np.array([not v.strip() for v in values], dtype=bool)
    if not bad.any():
        return
    for column, column_codes in zip(columns, codes, strict=True):
        rows = np.flatnonzero(bad[column_codes])
        if len(rows):
            spelled = sorted({values[c] for c in column_codes[rows]})[:3]
            shown_values = ", ".join(nothing if not v else json.dumps(v) for v in spelled)
            shown = ", ".join(str(r + 1) for r in rows[:5]) + (", ..." if len(rows) > 5 else "")
            raise InputError(
                f"{path}: column {column} is empty ({shown_values}) in {len(rows):,} row(s):"
                f" {shown} (counted from the first row below the header). Fill in or remove these"
                " rows."
            )


def _not_meant(value: str) -> str | None:
    """The fault of a value that looks like another node, type or relation; None: no fault."""
    trimmed = value.strip()
    if trimmed.endswith("\0"):  # NumPy's arrays of text lose it
        return "ends with a NUL character. Remove it"
    if trimmed.startswith("\ufeff"):
        return "begins with a byte order mark: two files were joined. Take the mark out"
    if value[:1].isspace() and len(trimmed) > 1 and trimmed[0] == trimmed[-1] == '"':
        return (
            "has a blank before its quote, so that the quotes count as part of it. Take the"
            " blank out"
        )
    return None


def _merge_equal(
    values: list[str], codes: Sequence[np.ndarray]
) -> tuple[list[str], tuple[np.ndarray, ...]]:
    """Give one code to values that are equal without surrounding white space, and drop unused
    values (of Parquet nulls).
    """
    used = np.zeros(len(values), dtype=bool)
    for c in codes:
        used[c] = True
    index: dict[str, int] = {}
    new = np.array(
        [index.setdefault(v, len(index)) if u else 0 for v, u in zip(values, used, strict=True)],
        dtype=np.int32,
    )
    return list(index), tuple(new[c] for c in codes)


def _dense_codes(keys: np.ndarray, num_keys: int) -> tuple[np.ndarray, np.ndarray]:
    """The sorted distinct keys, and each key's place among them: np.unique, without its sort where
    a table of all keys is small.
    """
    if num_keys > 100_000_000:
        distinct, inverse = np.unique(keys, return_inverse=True)
        return distinct, inverse.astype(np.int32)
    present = np.zeros(num_keys, dtype=bool)
    present[keys] = True
    distinct = np.flatnonzero(present)
    place = np.zeros(num_keys, dtype=np.int32)
    place[distinct] = np.arange(len(distinct), dtype=np.int32)
    return distinct, place[keys]
