"""The dialect of a CSV text: its delimiter, its columns, and its form of a quote within a value.

In: a line. Out: its fields. Knows no file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

_BACKSLASHES = re.compile(rb'(\\+)"')


@dataclass(frozen=True)
class Dialect:
    """The form of a text's rows.

    columns: the names in the header.
    delimiter: the character between columns.
    required: places of the columns that every row fills.
    backslash_line: the line that shows that quotes within values are \\"; None where they are "".
    """

    columns: tuple[str, ...]
    delimiter: bytes
    required: tuple[int, ...]
    backslash_line: int | None = None

    @cached_property
    def strict_field(self) -> re.Pattern[bytes]:
        """A field by the rules of RFC 4180. It matches nothing where a quote stays open, or where
        text follows a closed quote.
        """
        d = re.escape(self.delimiter)
        return re.compile(rb'"(?>[^"]*(?:""[^"]*)*)"|[^"\r\n%b][^\r\n%b]*|' % (d, d))

    @cached_property
    def rest_of_field(self) -> re.Pattern[bytes]:
        return re.compile(rb"[^\r\n%b]*" % re.escape(self.delimiter))

    def name(self, column: int) -> str:
        return self.columns[column] if column < len(self.columns) else str(column + 1)

    def unescaped(self, text: bytes) -> bytes:
        """The text with quotes within values as "", if this dialect writes them in another way."""
        return (
            text if self.backslash_line is None or b"\\" not in text else without_backslashes(text)
        )

    def cells(self, line: bytes) -> list[bytes] | None:
        """The fields of one line. None where a quote stays open, or where text follows a closed
        quote.
        """
        place, cells = 0, []
        while True:
            found = self.strict_field.match(line, place)
            assert found is not None  # it matches nothing at least
            cells.append(found[0])
            place = found.end()
            if place == len(line):
                return cells
            if line[place : place + 1] != self.delimiter:
                return None
            place += 1

    def num_columns(self, line: bytes) -> int | None:
        cells = self.cells(line)
        return None if cells is None else len(cells)

    def looks_like_row(self, line: bytes) -> bool:
        """Whether the line alone has the header's columns, with no required one empty."""
        cells = self.cells(line)
        return (
            cells is not None
            and len(cells) == len(self.columns)
            and all(cells[c].strip() for c in self.required)
        )


def without_backslashes(text: bytes) -> bytes:
    """The text with "" for \\", and one backslash for \\\\ before a quote, as in Spark."""
    return _BACKSLASHES.sub(_rfc_quote, text)


def _rfc_quote(found: re.Match[bytes]) -> bytes:
    count = len(found[1])
    return b"\\" * (count // 2) + (b'""' if count % 2 else b'"')
