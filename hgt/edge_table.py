"""The rows of a PrimeKG-like file as integer codes.

In: the path of a `.csv`, `.csv.gz` or Parquet file with `x_type, x_id, relation, y_type, y_id` (names optional).
Out: an `EdgeTable`. Knows files and their faults; knows nothing of mirrors, duplicates or splits (`graph.py` does).

Strings are dictionary-encoded block by block, so that 8.1 M rows take a few integers each and never 8.1 M strings.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from hgt.errors import InputError

REQUIRED = ("x_type", "x_id", "relation", "y_type", "y_id")
OPTIONAL = ("x_name", "y_name")
_FIRST_BYTES = 1 << 16
_BLOCK_BYTES = 16 << 20
_MISSING = frozenset({"", "nan", "none", "null", "<na>"})  # what pandas and databases write for "no value", in any case; R writes NA
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_RAGGED = re.compile(r"CSV parse error: Row #(\d+): Expected (\d+) columns, got (\d+)")
_CODES = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class EdgeTable:
    """Rows of the file, in file order.

    node_types, relations: the distinct strings, in order of first appearance
    node_type: [num_nodes] index into node_types
    node_id, node_name: [num_nodes] strings; a node without a name has its id as name
    head, relation, tail: [num_rows] int32 codes
    """

    node_types: list[str]
    relations: list[str]
    node_type: np.ndarray
    node_id: np.ndarray
    node_name: np.ndarray
    head: np.ndarray
    relation: np.ndarray
    tail: np.ndarray

    @property
    def num_rows(self) -> int:
        return len(self.head)


def check_header(path: Path) -> None:
    """The faults that the file's beginning shows, without reading on. Raises InputError as `read_edge_table` does."""
    head_bytes = _first_bytes(path)
    if head_bytes.startswith(b"PAR1"):
        _parquet_blocks(path)
    else:
        _csv_columns(path, head_bytes)
        if len(head_bytes) < _FIRST_BYTES and len(head_bytes.strip().splitlines()) == 1:
            raise InputError(_no_rows(path))


def read_edge_table(path: Path) -> EdgeTable:
    """Read the file once, in blocks.

    Raises InputError when it is missing, empty, not a table, wrongly delimited, lacks a column, holds bytes that are
    not UTF-8, or has an empty or NaN id, type or relation (with the row numbers).
    """
    head_bytes = _first_bytes(path)
    if head_bytes.startswith(b"PAR1"):
        blocks, columns = _parquet_blocks(path)
    else:
        columns = _csv_columns(path, head_bytes)
        blocks = _csv_blocks(path, columns)
    return _encode(path, list(blocks), columns)


def _first_bytes(path: Path) -> bytes:
    """The beginning of the file, unpacked if it is gzip."""
    with _explained(path):
        if not path.exists():
            raise InputError(f"{path}: no such file. Give the path of a kg.csv, kg.csv.gz or kg.parquet.")
        if not path.is_file():
            what = "a folder" if path.is_dir() else "a pipe or device"
            raise InputError(f"{path}: is {what}, not a file. Give the path of a kg.csv, kg.csv.gz or kg.parquet.")
    with _explained(path), _unpacked(path) as file:
        raw = file.read(_FIRST_BYTES)
    if not raw.removeprefix(_BYTE_ORDER_MARK).strip():
        raise InputError(f"{path}: is empty. Expected a header line with {', '.join(REQUIRED)}.")
    return raw


def _unpacked(path: Path) -> io.BufferedIOBase:
    """The file's bytes, unpacked when they begin as gzip does, whatever the file's name."""
    return gzip.open(path) if _is_packed(path) else path.open("rb")


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what reading bytes may raise into an InputError."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: the gzip data is damaged ({error}). Copy or download the file again.") from error
    except PermissionError as error:
        raise InputError(f"{path}: may not be read by this user. Change its permissions.") from error
    except OSError as error:
        if error.errno is None:  # Arrow's unpacking; what the system refuses has a number
            raise InputError(f"{path}: the gzip data is damaged ({_first_line(error)}). Copy or download the file again.") from error
        raise InputError(f"{path}: cannot be read ({error.strerror or error}). Check the path and the disk.") from error


def _csv_columns(path: Path, head_bytes: bytes) -> list[str]:
    """The columns to read, from the header line; InputError names what is wrong with it."""
    if b"\x00" in head_bytes:
        raise InputError(f"{path}: is not a table (it holds binary data). Expected CSV text in UTF-8, gzipped CSV, or Parquet.")
    first = head_bytes.removeprefix(_BYTE_ORDER_MARK).lstrip(b"\r\n").splitlines()[0]
    try:
        line = first.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the header line is not UTF-8 (byte {error.start}). Save the file as UTF-8.") from error
    names = next(csv.reader(io.StringIO(line)))
    missing = [c for c in REQUIRED if c not in names]
    if not missing:
        _refuse_repeated(path, names)
        return [c for c in (*REQUIRED, *OPTIONAL) if c in names]
    for delimiter, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars"), (" ", "spaces")):
        if set(REQUIRED) <= set(next(csv.reader(io.StringIO(line), delimiter=delimiter))):
            raise InputError(f"{path}: its columns are separated by {word}; expected commas. Save it as comma-separated CSV.")
    if len(names) < 2:
        raise InputError(f"{path}: is not a table (its first line is {line[:60]!r}). Expected a header line with {', '.join(REQUIRED)}.")
    raise InputError(f"{path}: required column(s) {', '.join(missing)} missing in the header line, which has {', '.join(names)}.")


def _refuse_repeated(path: Path, names: list[str]) -> None:
    repeated = sorted({n for n in (*REQUIRED, *OPTIONAL) if names.count(n) > 1})
    if repeated:
        raise InputError(f"{path}: column(s) {', '.join(repeated)} stand there more than once. Keep one of each.")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _csv_blocks(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Arrow opens the file itself: its threads read ahead, and one that still reads a file of Python's when the program ends, as after a
    refusal, aborts it (exit code 134 in every fourth one)."""
    try:
        with _explained(path), pa.input_stream(str(path), compression="gzip" if _is_packed(path) else None) as file:
            yield from pyarrow.csv.open_csv(
                file,
                read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(
                    include_columns=columns, column_types=dict.fromkeys(columns, _CODES), strings_can_be_null=False
                ),
            )
    except (pa.ArrowException, UnicodeDecodeError) as error:
        ragged = _RAGGED.match(str(error))  # pyarrow 25's invalid_row_handler fails on a row that is not UTF-8
        if ragged:
            row, expected, actual = (int(number) for number in ragged.groups())  # pyarrow counts the header as row 1
            raise InputError(
                f"{path}: row {row - 1} has {actual} columns, the header {expected} (counted from the first row below the header). "
                "Quote values that hold commas."
            ) from error
        if "Empty CSV file" in str(error):  # a header line that nothing ends
            raise InputError(_no_rows(path)) from error
        if "UTF8" in str(error):
            raise InputError(f"{path}: {_undecodable(path)}. Save the file as UTF-8, for example `iconv -f latin1 -t utf-8`.") from error
        raise InputError(f"{path}: cannot be read as CSV ({_first_line(error)}). Copy or write the file again.") from error


def _no_rows(path: Path) -> str:
    return f"{path}: has a header line but no rows. Give a file with one edge per row."


def _undecodable(path: Path) -> str:
    with _explained(path), _unpacked(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f"line {number} holds bytes that are not UTF-8 ({line[error.start : error.end]!r})"
    return "it holds bytes that are not UTF-8"


def _parquet_blocks(path: Path) -> tuple[Iterator[pa.RecordBatch], list[str]]:
    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the Parquet data is damaged ({_first_line(error)}). Write the file again.") from error
    missing = [c for c in REQUIRED if c not in names]
    if missing:
        raise InputError(f"{path}: required column(s) {', '.join(missing)} missing; the file has {', '.join(names)}.")
    columns = [c for c in (*REQUIRED, *OPTIONAL) if c in names]
    _refuse_repeated(path, names)
    if not file.metadata.num_rows:
        raise InputError(_no_rows(path))

    def blocks() -> Iterator[pa.RecordBatch]:
        try:
            for batch in file.iter_batches(batch_size=1 << 18, columns=columns):
                yield pa.RecordBatch.from_arrays([_as_codes(batch.column(c)) for c in columns], names=columns)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as a table of ids ({_first_line(error)}). Write the file again.") from error

    return blocks(), columns


def _as_codes(column: pa.Array) -> pa.DictionaryArray:
    """A Parquet column of strings, integers or whole floats (what pandas makes of integers with gaps) as codes."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type) or pa.types.is_float16(column.type):
        column = column.cast(pa.string() if pa.types.is_null(column.type) else pa.float32())
    codes = column.dictionary_encode()
    values = codes.dictionary
    if pa.types.is_floating(values.type):
        values = pa.array([str(int(v)) if v.is_integer() else repr(v) for v in values.to_pylist()], pa.string())
    values = values.cast(pa.string())
    values.validate(full=True)  # a Parquet file may hold bytes that are not UTF-8 in a column of strings
    missing = pa.scalar(len(values), pa.int32())
    return pa.DictionaryArray.from_arrays(pc.fill_null(codes.indices, missing), pa.concat_arrays([values, pa.array([""])]))


def _encode(path: Path, blocks: list[pa.RecordBatch], columns: list[str]) -> EdgeTable:
    """Join the blocks' own dictionaries into one code per type, relation and node."""
    num_rows = sum(len(block) for block in blocks)
    if num_rows == 0:
        raise InputError(_no_rows(path))

    def unify(*names: str) -> tuple[list[str], list[np.ndarray]]:
        chunks = [block.column(name) for name in names for block in blocks]
        joined = pa.chunked_array(chunks, type=_CODES).unify_dictionaries()
        values = [v.strip() for v in joined.chunk(0).dictionary.to_pylist()]
        codes = np.concatenate([c.indices.to_numpy(zero_copy_only=False) for c in joined.chunks])
        return values, np.split(codes, len(names))

    types, (x_type, y_type) = unify("x_type", "y_type")
    ids, (x_id, y_id) = unify("x_id", "y_id")
    relations, (relation,) = unify("relation")
    for names, values, codes in (
        (("x_type", "y_type"), types, (x_type, y_type)),
        (("x_id", "y_id"), ids, (x_id, y_id)),
        (("relation",), relations, (relation,)),
    ):
        _refuse_missing(path, names, values, codes)
    types, (x_type, y_type) = _merge_equal(types, (x_type, y_type))
    ids, (x_id, y_id) = _merge_equal(ids, (x_id, y_id))
    relations, (relation,) = _merge_equal(relations, (relation,))

    keys = [t.astype(np.int64) * len(ids) + i for t, i in ((x_type, x_id), (y_type, y_id))]
    node_keys, both = _dense_codes(np.concatenate(keys), len(types) * len(ids))
    head, tail = np.split(both, 2)
    node_id = np.array(ids, dtype=object)[node_keys % len(ids)]
    node_name = node_id.copy()
    for column, nodes in (("y_name", tail), ("x_name", head)):  # the first name from the left column wins
        if column in columns:
            found, (found_codes,) = unify(column)
            told = np.array([not _is_missing(n) for n in found], dtype=bool)[found_codes]
            first = np.full(len(node_keys), -1, dtype=np.int32)
            first[nodes[told][::-1]] = found_codes[told][::-1]
            named = first >= 0
            node_name[named] = np.array(found, dtype=object)[first[named]]
    return EdgeTable(types, relations, (node_keys // len(ids)).astype(np.int32), node_id, node_name, head, relation, tail)


def _is_missing(value: str) -> bool:
    return value == "NA" or value.lower() in _MISSING


def _refuse_missing(path: Path, columns: tuple[str, ...], values: list[str], codes: tuple[np.ndarray, ...]) -> None:
    bad = np.array([_is_missing(v) for v in values], dtype=bool)
    if not bad.any():
        return
    for column, column_codes in zip(columns, codes, strict=True):
        rows = np.flatnonzero(bad[column_codes])
        if len(rows):
            shown = ", ".join(str(r + 1) for r in rows[:5]) + (", ..." if len(rows) > 5 else "")
            raise InputError(
                f"{path}: column {column} is empty or NaN in {len(rows):,} row(s): {shown} (counted from the first row below "
                "the header). Fill in or remove these rows."
            )


def _merge_equal(values: list[str], codes: tuple[np.ndarray, ...]) -> tuple[list[str], tuple[np.ndarray, ...]]:
    """Values that became equal by trimming white space share one code; unused values (of Parquet nulls) go."""
    used = np.zeros(len(values), dtype=bool)
    for c in codes:
        used[c] = True
    index: dict[str, int] = {}
    new = np.array([index.setdefault(v, len(index)) if u else 0 for v, u in zip(values, used, strict=True)], dtype=np.int32)
    return list(index), tuple(new[c] for c in codes)


def _dense_codes(keys: np.ndarray, num_keys: int) -> tuple[np.ndarray, np.ndarray]:
    """The sorted distinct keys and each key's place among them (np.unique, without its sort where a table is small)."""
    if num_keys > 100_000_000:
        distinct, inverse = np.unique(keys, return_inverse=True)
        return distinct, inverse.astype(np.int32)
    present = np.zeros(num_keys, dtype=bool)
    present[keys] = True
    distinct = np.flatnonzero(present)
    place = np.zeros(num_keys, dtype=np.int32)
    place[distinct] = np.arange(len(distinct), dtype=np.int32)
    return distinct, place[keys]
