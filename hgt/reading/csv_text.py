"""The header and the rows of CSV text, as columns of codes.

In: a path. Out: the names in the header, then record batches of dictionary-encoded strings, and the
number of lines. Commas, tabs, semicolons or vertical bars separate columns; the header shows
which.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from hgt.errors import InputError
from hgt.reading.columns import CODES, Columns, first_there
from hgt.reading.csv_dialect import Dialect
from hgt.reading.csv_rows import whole_rows
from hgt.reading.file_bytes import utf8_blocks
from hgt.reading.row_counts import FileCounts
from hgt.reading.text_block import TextBlock

_HEADER_BYTES = 1 << 20
_BLOCK_BYTES = 16 << 20
_DELIMITERS = (",", "\t", ";", "|")
_RAGGED = re.compile(r"CSV parse error: Row #(\d+): Expected (\d+) columns, got (\d+)")
_BLANKS_BEFORE_QUOTE = re.compile(r'(^|[,;|\t]) +"')
_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class CsvText:
    """A file of CSV text with a known header. Iterate over `batches` once.

    wanted: the set of columns that was found.
    columns: columns of it to read.
    places: places of these columns in a row.
    header_lines, header_bytes: size of the text before the first row.
    """

    path: Path
    wanted: Columns
    columns: tuple[str, ...]
    places: tuple[int, ...]
    dialect: Dialect
    header_lines: int
    header_bytes: int

    @classmethod
    def open(cls, path: Path, wanted: Sequence[Columns]) -> CsvText:
        """Read the header.

        wanted: sets of columns; the first one in the header counts.

        Raises InputError that names the fault of the header.
        """
        start = next(utf8_blocks(path, _HEADER_BYTES), b"")
        if not start.strip():
            raise InputError(
                f"{path}: is empty. Expected a header line with {', '.join(wanted[0].required)}."
            )
        blank = start[: len(start) - len(start.lstrip(b"\r\n"))]
        line = _LINE_END.split(start[len(blank) :], maxsplit=1)[0]
        if b"\x00" in start[: 1 << 16]:
            raise InputError(
                f"{path}: is not a table (it holds binary data). Expected CSV text in UTF-8, also"
                " packed, or Parquet."
            )
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: the header line is not UTF-8 (byte {error.start}). Save the file as"
                " UTF-8."
            ) from error
        if text.count('"') % 2:
            raise InputError(
                f'{path}: the header line opens a quote (") that it does not close. Close it, or'
                " take it out."
            )
        delimiter, names = _split_header(path, text, wanted)
        columns = first_there(wanted, names)
        found = columns.find(path, names, "in the header line")
        end = _LINE_END.match(start, len(blank) + len(line))
        required = tuple(found[name] for name in columns.required)
        dialect = Dialect(tuple(name.strip() for name in names), delimiter.encode(), required)
        num_lines = len(_LINE_END.findall(blank)) + 1
        return cls(
            path,
            columns,
            tuple(found),
            tuple(found.values()),
            dialect,
            num_lines,
            end.end() if end else len(start),
        )

    def with_backslashes(self, line: int) -> CsvText:
        return replace(self, dialect=replace(self.dialect, backslash_line=line))

    def batches(self, counts: FileCounts) -> Iterator[pa.RecordBatch]:
        """The rows in order, in batches. Adds their lines to `counts`.

        Raises InputError for a row of another length, for bytes that are not UTF-8, and for a quote
        that contains rows. Raises BackslashQuotes when the file must be read again,
        `with_backslashes`.
        """
        counts.lines = self.header_lines
        counts.header = 1
        counts.blank = self.header_lines - 1
        blocks = _from(utf8_blocks(self.path, _BLOCK_BYTES), self.header_bytes)
        rows = whole_rows(self.path, blocks, self.dialect, self.header_lines + 1)
        for block in rows:
            batch = self._batch(block, counts.rows, rows)
            self._refuse_header_again(batch, counts.rows)
            counts.add(block, batch.num_rows)
            yield batch

    def _refuse_header_again(self, batch: pa.RecordBatch, rows_before: int) -> None:
        """Raise InputError for a row that repeats the header: two files were joined."""
        again = np.ones(len(batch), dtype=bool)
        for name in self.wanted.required:
            column = batch.column(name)
            codes = [
                c
                for c, value in enumerate(column.dictionary.to_pylist())
                if value.strip("\ufeff \t").lower() == name
            ]
            again &= np.isin(column.indices.to_numpy(), codes)
            if not again.any():
                return
        row = rows_before + int(again.argmax()) + 1
        raise InputError(
            f"{self.path}: row {row:,} (counted from the first row below the header) is the header"
            " once more: two files were joined. Take it out."
        )

    def _batch(
        self, block: TextBlock, rows_before: int, later: Iterator[TextBlock]
    ) -> pa.RecordBatch:
        names = [f"c{i}" for i in range(len(self.dialect.columns))]
        wanted = [names[i] for i in self.places]
        if not block.text.strip(b"\r\n"):
            return pa.RecordBatch.from_arrays(
                [pa.array([], CODES)] * len(wanted), names=list(self.columns)
            )
        try:
            table = pyarrow.csv.read_csv(
                pa.BufferReader(block.text),
                read_options=pyarrow.csv.ReadOptions(
                    use_threads=False, block_size=len(block.text) + 1, column_names=names
                ),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=self.dialect.delimiter.decode(), newlines_in_values=block.breaks > 0
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    include_columns=wanted,
                    column_types=dict.fromkeys(wanted, CODES),
                    strings_can_be_null=False,
                ),
            )
        except pa.ArrowException as error:
            raise InputError(self._explained(error, block, rows_before, later)) from error
        arrays = [column.combine_chunks() for column in table.columns]
        arrays = [a.chunk(0) if isinstance(a, pa.ChunkedArray) else a for a in arrays]
        return pa.RecordBatch.from_arrays(arrays, names=list(self.columns))

    def _explained(
        self,
        error: pa.ArrowException,
        block: TextBlock,
        rows_before: int,
        later: Iterator[TextBlock],
    ) -> str:
        ragged = _RAGGED.match(str(error))
        if ragged:
            row, expected, actual = (int(number) for number in ragged.groups())
            where = "" if block.breaks else f", line {_line_of_row(block, row):,}"
            said = (
                f"{self.path}: row {rows_before + row} has {actual} columns, the header {expected} "
                f"(counted from the first row below the header{where})."
            )
            if (
                row == block.lines - block.breaks - block.blank_lines
                and actual < expected
                and next(later, None) is None
            ):
                return (
                    f"{said} It is the file's last row: the file looks cut off. Copy or write it"
                    " again."
                )
            return f"{said} Quote values that hold {_WORDS[self.dialect.delimiter]}."
        if "UTF8" in str(error):
            try:
                block.text.decode("utf-8")
            except UnicodeDecodeError as found:
                line = block.first_line + len(_LINE_END.findall(block.text, 0, found.start))
                bad = block.text[found.start : found.end]
                return (
                    f"{self.path}: line {line} holds bytes that are not UTF-8 ({bad!r}). "
                    "Save the file as UTF-8, for example `iconv -f latin1 -t utf-8`."
                )
        return (
            f"{self.path}: cannot be read as CSV ({str(error).splitlines()[0]}). Copy or write the"
            " file again."
        )


_WORDS = {b",": "commas", b"\t": "tabs", b";": "semicolons", b"|": "vertical bars"}


def _from(blocks: Iterator[bytes], num_bytes: int) -> Iterator[bytes]:
    """The text from `num_bytes` on."""
    for block in blocks:
        if num_bytes < len(block):
            yield block[num_bytes:] if num_bytes else block
        num_bytes = max(0, num_bytes - len(block))


def _line_of_row(block: TextBlock, row: int) -> int:
    """Number of the line of a row in the block. Rows count from 1. No value of the block has a line
    end.
    """
    for number, line in enumerate(_LINE_END.split(block.text), start=block.first_line):
        row -= bool(line)
        if row == 0:
            return number
    raise AssertionError("a row has a line")


def _split_header(path: Path, text: str, wanted: Sequence[Columns]) -> tuple[str, list[str]]:
    """The header's delimiter and names. Raises InputError when there are no columns."""
    quoted = _BLANKS_BEFORE_QUOTE.sub(r'\1"', text)
    csv.field_size_limit(_HEADER_BYTES)  # of its own it refuses 128 KiB
    split = {d: next(csv.reader(io.StringIO(quoted), delimiter=d)) for d in (*_DELIMITERS, " ")}
    for delimiter in _DELIMITERS:
        if any(columns.are_in(split[delimiter]) for columns in wanted):
            return delimiter, split[delimiter]
    if wanted[0].are_in(split[" "]):
        raise InputError(
            f"{path}: its columns are separated by spaces; expected commas. Save it as"
            " comma-separated CSV."
        )
    likely = max(_DELIMITERS, key=lambda d: (wanted[0].num_in(split[d]), len(split[d])))
    if len(split[likely]) < 2:
        raise InputError(
            f"{path}: is not a table (its first line is {text[:60]!r}). Expected a header line with"
            f" {', '.join(wanted[0].required)}."
        )
    return likely, split[likely]
