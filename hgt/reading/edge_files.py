"""The files with a graph's edges: one table, the parts of a table in a folder, or PrimeKG's nodes
and edges.

In: a path. Out: record batches with the columns of `EDGES`, and the content of each file.
Everything else is an InputError that names its kind.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from hgt.errors import InputError
from hgt.reading.columns import EDGES, Columns
from hgt.reading.csv_quotes import BackslashQuotes
from hgt.reading.csv_text import CsvText
from hgt.reading.file_bytes import BYTE_ORDER_MARK, explained, first_bytes, packing
from hgt.reading.file_format import refuse_other_formats, refuse_url
from hgt.reading.node_table import INDEXED_EDGES, NODES, NodeTable
from hgt.reading.parquet_rows import MAGIC, ParquetRows
from hgt.reading.row_counts import FileCounts

_GIVE = (
    "Give the path of a table (CSV text, also packed, or Parquet), of a folder of its parts, or of"
    " a folder with nodes.csv and edges.csv."
)
_MOST_FILES = 10_000
_PARTS = ("part-", "part_")  # how Spark, Dask and others name the parts of a table of CSV text
# what looks like a part by its name
_TABLE = re.compile(r"^part[-_]|\.(csv|tsv|tab|parquet|pq|gz|bz2|xz|zst|zip)(\.|$)")
# how the files of PrimeKG's pair are named
_HALF = r"\.(csv|tsv|tab|txt|parquet|pq|gz|bz2|xz|zst|zip)(\.(gz|bz2|xz|zst|zip))?"
Rows = CsvText | ParquetRows


@dataclass(frozen=True)
class EdgeFiles:
    """Files with known headers.

    parts: the tables of edges, in the order of their names.
    nodes: the table of nodes of PrimeKG's pair.
    """

    path: Path
    parts: tuple[Rows, ...]
    nodes: Rows | None = None

    @classmethod
    def open(cls, path: Path) -> EdgeFiles:
        """Raises InputError when there is no such file, or when it has no table of edges."""
        refuse_url(path)
        with explained(path):
            if path.is_dir():
                return cls._of_folder(path)
            if not path.exists():
                raise InputError(f"{path}: no such file. {_GIVE}")
            if not path.is_file():
                raise InputError(f"{path}: is a pipe or device, not a file. {_GIVE}")
        rows = _open(path, (EDGES, INDEXED_EDGES, NODES))
        if rows.wanted is NODES:
            raise InputError(
                f"{path}: is a table of nodes. Give the table of edges (edges.csv), or the folder"
                " that holds both."
            )
        if rows.wanted is INDEXED_EDGES:
            return cls(path, (rows,), _open(_nodes_beside(path), (NODES,)))
        return cls(path, (rows,))

    @classmethod
    def _of_folder(cls, path: Path) -> EdgeFiles:
        files = _files_in(path)
        edges = _named(path, "edges")
        if edges:
            return cls.open(_one_of(edges))
        parts = [p for p in files if _starts_as_parquet(p)]
        if parts:
            rows: list[Rows] = [ParquetRows.open(p, (EDGES,), path) for p in parts]
        else:
            parts = [p for p in files if p.parent == path and p.name.lower().startswith(_PARTS)]
            rows = [_open(p, (EDGES,)) for p in parts]
        if not rows:
            inside = ", ".join(p.name for p in files[:5]) + (", ..." if len(files) > 5 else "")
            raise InputError(
                f"{path}: is a folder with {f'no such parts ({inside})' if files else 'no files'}."
                f" {_GIVE}"
            )
        left_out = [p for p in files if p not in parts and _TABLE.search(p.name.lower())]
        if left_out:
            kind = (
                "Parquet"
                if isinstance(rows[0], ParquetRows)
                else f"{_PARTS[0]}* of CSV text right in it"
            )
            raise InputError(
                f"{path}: {left_out[0].relative_to(path)} is no part that can be read with the"
                f" others ({kind}). Take it out, or copy it again."
            )
        for part in rows:
            if set(part.columns) != set(rows[0].columns):
                other = sorted(set(part.columns) ^ set(rows[0].columns))
                raise InputError(
                    f"{part.path}: has other columns than {rows[0].path.name} ({', '.join(other)})."
                    " Write all parts with the same ones."
                )
        return cls(path, tuple(rows))

    @property
    def paths(self) -> list[Path]:
        """The paths of all files."""
        return [rows.path for rows in (*self.parts, *((self.nodes,) if self.nodes else ()))]

    @property
    def nothing(self) -> str:
        """The form of an empty cell in these files."""
        return (
            'null or ""'
            if any(isinstance(rows, ParquetRows) for rows in (*self.parts, self.nodes))
            else '""'
        )

    def read(
        self, max_bytes: int = sys.maxsize
    ) -> tuple[list[pa.RecordBatch], list[FileCounts], bool]:
        """The rows in batches, up to about `max_bytes`, with the columns of `EDGES` that the files
        have; the counts of each file; whether these are all rows.
        """
        batches: list[pa.RecordBatch] = []
        counts: list[FileCounts] = []
        for part in self.parts:
            found, of_part = _batches(part, max_bytes)
            batches += found
            counts.append(of_part)
            max_bytes -= sum(batch.nbytes for batch in found)
            if max_bytes <= 0:
                break
        if self.nodes is None:
            return batches, counts, max_bytes > 0
        found, of_nodes = _batches(self.nodes, sys.maxsize)
        nodes = NodeTable.of(self.nodes.path, found)
        return (
            [nodes.edges(self.path, batch) for batch in batches],
            [*counts, of_nodes],
            max_bytes > 0,
        )


def _batches(rows: Rows, max_bytes: int) -> tuple[list[pa.RecordBatch], FileCounts]:
    counts = FileCounts(rows.path)
    try:
        return list(_up_to(rows.batches(counts), max_bytes)), counts
    except BackslashQuotes as found:
        assert isinstance(rows, CsvText)
        return _batches(rows.with_backslashes(found.line), max_bytes)


def _up_to(batches: Iterator[pa.RecordBatch], max_bytes: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch
        max_bytes -= batch.nbytes
        if max_bytes <= 0:
            return


def _open(path: Path, wanted: tuple[Columns, ...]) -> Rows:
    """Read the file's header.

    wanted: sets of columns; the first one in the file counts.
    """
    start = first_bytes(path, 1 << 16)
    if not start.removeprefix(BYTE_ORDER_MARK).strip():
        raise InputError(
            f"{path}: is empty. Expected a header line with {', '.join(wanted[0].required)}."
        )
    if start.startswith(MAGIC):
        if packed_by := packing(path):
            raise InputError(
                f"{path}: is a Parquet file packed by {packed_by}. Unpack it; Parquet is packed"
                " within."
            )
        return ParquetRows.open(path, wanted)
    refuse_other_formats(path, start)
    return CsvText.open(path, wanted)


def _nodes_beside(path: Path) -> Path:
    nodes = _named(path.parent, "nodes")
    if not nodes:
        raise InputError(
            f"{path}: is the table of edges of a pair, with x_index and y_index in place of types"
            f" and ids, and {path.parent} has no nodes.csv. Put the table of nodes beside it."
        )
    return _one_of([p for p in nodes if p.suffixes == path.suffixes] or nodes)


def _named(folder: Path, half: str) -> list[Path]:
    """Files of a folder whose names are those of a half of PrimeKG's pair."""
    return sorted(
        p for p in folder.iterdir() if re.fullmatch(half + _HALF, p.name.lower()) and p.is_file()
    )


def _one_of(candidates: list[Path]) -> Path:
    if len(candidates) > 1:
        names = ", ".join(p.name for p in candidates[:5])
        raise InputError(
            f"{candidates[0].parent}: holds {names}; one of them is expected. Take the others out."
        )
    return candidates[0]


def _files_in(folder: Path) -> list[Path]:
    """The files in a folder and below it, in the order of their paths. Files that Spark and others
    hide are left out (_SUCCESS, .crc).

    Raises InputError for more files than any table has parts: it is another folder.
    """
    files: list[Path] = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        files += [Path(where) / name for name in names if not name.startswith((".", "_"))]
        if len(files) > _MOST_FILES:
            raise InputError(f"{folder}: is a folder with more than {_MOST_FILES:,} files. {_GIVE}")
    return sorted(p for p in files if p.is_file())


def _starts_as_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == MAGIC
