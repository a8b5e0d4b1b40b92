"""CSV text in blocks of whole rows.

In: blocks of UTF-8 text, cut anywhere. Out: the same text cut at the ends of rows, each block with
its lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from hgt.errors import InputError
from hgt.reading.csv_dialect import Dialect
from hgt.reading.csv_quotes import QuotedText
from hgt.reading.text_block import TextBlock

_LONGEST_ROW_BYTES = 256 << 20


def whole_rows(
    path: Path, blocks: Iterator[bytes], dialect: Dialect, first_line: int
) -> Iterator[TextBlock]:
    """Cut the text into blocks of whole rows.

    blocks: the text below the header.
    first_line: number of its first line in the file.

    Raises InputError for a quote that contains rows, that nothing closes, or that closes within a
    value. Raises BackslashQuotes when the text must be read again.
    """
    line, checked, rest = first_line, b"", b""
    for block in blocks:
        cut = _end_of_lines(block)
        if len(checked) + len(rest) + len(block) > _LONGEST_ROW_BYTES:
            raise InputError(
                f"{path}: the row in line {line:,} is longer than {_LONGEST_ROW_BYTES >> 20} MB."
                " Give a table of one edge per row."
            )
        if cut == 0:
            rest += block
            continue
        lines = b"".join((rest, memoryview(block)[:cut]))
        rest = block[cut:]
        ready = QuotedText(path, checked + dialect.unescaped(lines), line, dialect)
        found, checked = ready.whole_rows(chain([rest], blocks))
        if found.text:
            yield found
        line += found.lines
    if checked or rest:
        found, _ = QuotedText(path, checked + dialect.unescaped(rest), line, dialect).whole_rows(
            None
        )
        yield found


def _end_of_lines(text: bytes) -> int:
    """End of the last whole line. A carriage return at the very end may be half of a line end."""
    end = text.rfind(b"\n") + 1
    return end or text.rfind(b"\r", 0, max(len(text) - 1, 0)) + 1
