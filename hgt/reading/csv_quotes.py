"""Quotes in CSV text: rows on several lines, and quotes that no value opens.

In: lines of UTF-8 text that begin with a row. Out: the whole rows among them, with the number of
their lines. A quote opens a value only at the beginning of a field (RFC 4180). Anywhere else it
is a character. In nearly every file, all quotes open and close on one line; numpy checks such a
block. Python reads only the other lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from hgt.errors import InputError, quoted
from hgt.reading.csv_dialect import Dialect, without_backslashes
from hgt.reading.text_block import TextBlock, num_line_ends

_QUOTE, _LF, _CR = b'"'[0], b"\n"[0], b"\r"[0]


class BackslashQuotes(Exception):
    """Internal: the text writes quotes within values as \\", so it must be read again.

    line: number of the line that shows it.
    """

    def __init__(self, line: int):
        super().__init__(line)
        self.line = line


class QuotedText:
    """Lines of text that begin with a row.

    ends: [num_lines] offset of each line's last character.
    """

    def __init__(self, path: Path, text: bytes, first_line: int, dialect: Dialect):
        self.path, self.text, self.first_line, self.dialect = path, text, first_line, dialect
        self.data = np.frombuffer(text, np.uint8)
        self.has_lone_returns = b"\r" in text and text.count(b"\r") != text.count(b"\r\n")

    @cached_property
    def ends(self) -> np.ndarray:
        """[num_lines] place of each line's last character. For CR and LF this is the LF."""
        is_end = self.data == _LF
        if self.has_lone_returns:
            is_lone = self.data == _CR
            is_lone[:-1] &= self.data[1:] != _LF
            is_end |= is_lone
        ends = np.flatnonzero(is_end)
        if len(self.text) and (not len(ends) or ends[-1] != len(self.text) - 1):
            ends = np.append(ends, len(self.text) - 1)
        return ends

    def whole_rows(self, blocks: Iterator[bytes] | None) -> tuple[TextBlock, bytes]:
        """The whole rows, and the rest of the text: a last row whose quoted value continues in the
        next block.

        blocks: the blocks after this text; None when there are none.
        """
        end = len(self.text)
        spans: list[tuple[int, int]] = []  # of the rows on several lines
        if b'"' in self.text:
            self._refuse_other_escape()
            done = 0  # all rows that begin before this place are whole
            for line in [] if self._is_simple() else self._suspects().tolist():
                start = self._start(line)
                if start < done:
                    continue  # within the quoted value of a row before
                done = self._row(start, blocks)
                if done < 0:
                    end = start
                    break
                if self._line_at(done) > line:
                    spans.append((start, done))
        return self._block(end, spans), self.text[end:]

    def _block(self, end: int, spans: list[tuple[int, int]]) -> TextBlock:
        text = self.text[:end] if end < len(self.text) else self.text
        if self.has_lone_returns or spans or "ends" in vars(self):
            lines = int(np.searchsorted(self.ends, end))
        else:
            lines = int(np.count_nonzero(self.data[:end] == _LF)) + (
                bool(text) and not text.endswith(b"\n")
            )
        breaks = sum(self._line_at(b) - self._line_at(a) for a, b in spans)
        return TextBlock(text, self.first_line, lines, breaks, tuple(spans))

    def _start(self, line: int) -> int:
        return int(self.ends[line - 1]) + 1 if line else 0

    def _line(self, line: int) -> bytes:
        return self.text[self._start(line) : int(self.ends[line]) + 1].rstrip(b"\r\n")

    def _line_at(self, place: int) -> int:
        return int(np.searchsorted(self.ends, min(place, len(self.text) - 1)))

    def _opens(self, quotes: np.ndarray) -> np.ndarray:
        """Mask of the quotes that could open a value, or be the second of a pair.

        quotes: places of the quotes, ascending.
        """
        # of the text's very first character the last one
        could = self._are_borders(self.data[quotes - 1])
        if len(quotes) and quotes[0] == 0:
            could[0] = True
        return could

    def _closes(self, quotes: np.ndarray) -> np.ndarray:
        """Mask of the quotes that could close a value, or be the first of a pair."""
        last = len(self.data) - 1
        if not len(quotes) or quotes[-1] < last:
            return self._are_borders(self.data[quotes + 1])
        return np.append(self._are_borders(self.data[quotes[:-1] + 1]), True)

    def _are_borders(self, characters: np.ndarray) -> np.ndarray:
        """Mask of the characters that can stand beside a quote at the beginning or end of a value,
        or within a pair.
        """
        found = (characters == self.dialect.delimiter[0]) | (characters == _QUOTE)
        return np.asarray(found | (characters == _LF) | (characters == _CR))

    def _is_simple(self) -> bool:
        """Whether every quoted value closes on its line, before a delimiter or the line's end."""
        if self.has_lone_returns:
            return False
        quotes = np.flatnonzero(self.data == _QUOTE)
        if len(quotes) % 2 or (np.searchsorted(quotes, self.ends) & 1).any():
            return False
        return bool(self._opens(quotes[::2]).all() and self._closes(quotes[1::2]).all())

    def _suspects(self) -> np.ndarray:
        """Numbers of the lines with quotes that are not simple, read from the line's beginning."""
        quotes = np.flatnonzero(self.data == _QUOTE)
        line = np.searchsorted(self.ends, quotes)
        count = np.bincount(line, minlength=len(self.ends))
        place = np.arange(len(quotes)) - (np.cumsum(count) - count)[line]
        good = np.where(place % 2 == 0, self._opens(quotes), self._closes(quotes))
        return np.union1d(line[~good], np.flatnonzero(count % 2))

    def _refuse_other_escape(self) -> None:
        """Raise BackslashQuotes at the first line that makes a row only when \\" stands for a
        quote.
        """
        if self.dialect.backslash_line is not None or b"\\" not in self.text:
            return
        places = np.array([found.start() for found in re.finditer(rb'\\"', self.text)])
        for line in np.unique(np.searchsorted(self.ends, places)).tolist() if len(places) else []:
            plain = self._line(line)
            if (
                self.dialect.num_columns(plain)
                != len(self.dialect.columns)
                == self.dialect.num_columns(without_backslashes(plain))
            ):
                raise BackslashQuotes(self.first_line + line)

    def _row(self, start: int, blocks: Iterator[bytes] | None) -> int:
        """End of the row that begins at `start`; -1 when it continues in the next block."""
        text, place, column = self.text, start, 0
        # the first value of several lines: column, opening, closing quote
        opened: tuple[int, int, int] | None = None
        while True:
            begin = place
            if text[place : place + 1] == b'"':
                close = self._closing(place + 1)
                if (
                    close < 0
                    and blocks is not None
                    and not self._takes_in_rows(column, place, len(text))
                ):
                    return -1
                if close < 0:
                    raise InputError(self._never_closed(column, place, blocks))
                if self._line_at(close) > self._line_at(place):
                    opened = opened or (column, place, close)
                    self._refuse_taken_in(column, place, close)
                place = close + 1
            found = self.dialect.rest_of_field.match(text, place)
            assert found is not None
            if place > begin and found[0].strip():
                raise InputError(self._goes_on(column, begin, found.end()))
            place, column = found.end(), column + 1
            if text[place : place + 1] != self.dialect.delimiter:
                break
            place += 1
        if opened is not None and column != len(self.dialect.columns):
            what = f"so that the row has {column} columns, the header {len(self.dialect.columns)}"
            raise InputError(
                self._says(opened[0], opened[1], self._closed_in(opened[2]) + f", {what}")
            )
        return place

    def _closing(self, place: int) -> int:
        """Place of the quote that closes a value; -1 where this text has none."""
        while (found := self.text.find(b'"', place)) >= 0:
            if self.text[found + 1 : found + 2] != b'"':
                return found
            place = found + 2
        return -1

    def _refuse_taken_in(self, column: int, opening: int, close: int) -> None:
        if self._takes_in_rows(column, opening, close):
            between = self._line_at(close) - self._line_at(opening) > 1
            rows = "the lines between look like rows" if between else "that line looks like a row"
            raise InputError(self._says(column, opening, f"{self._closed_in(close)}, and {rows}"))
        after = self.text[close + 1 : close + 2]
        if after not in (b"", b"\r", b"\n", self.dialect.delimiter):
            raise InputError(
                self._says(column, opening, self._closed_in(close) + ", before other text")
            )

    def _takes_in_rows(self, column: int, opening: int, close: int) -> bool:
        """Whether a line within the quoted value would be a row.

        In the first columns of a row, the last line of many values looks like a row. It counts
        there only when the first line, taken literally, has a row's columns as well.
        """
        first, last = self._line_at(opening), self._line_at(min(close, len(self.text) - 1))
        if any(self.dialect.looks_like_row(self._line(line)) for line in range(first + 1, last)):
            return True
        if last == first or not self.dialect.looks_like_row(self._line(last)):
            return False
        rest = self.dialect.cells(b"x" + self._line(first)[opening + 1 - self._start(first) :])
        return column >= 2 or (rest is not None and column + len(rest) >= len(self.dialect.columns))

    def _closed_in(self, close: int) -> str:
        return f"that is closed in line {self.first_line + self._line_at(close):,} only"

    def _never_closed(self, column: int, opening: int, blocks: Iterator[bytes] | None) -> str:
        """The message about a quote that nothing in this text closes. It reads on to find the
        closing quote.
        """
        line = self.first_line + len(self.ends)
        for block in blocks or ():
            text = self.dialect.unescaped(block)
            found = re.search(rb'(?<!")"(?:"")*(?!")', text) if b'"' in text else None
            if found is not None:
                line += num_line_ends(text[: found.end()])
                return self._says(
                    column,
                    opening,
                    f"that is closed in line {line:,} only, and the lines between look like rows",
                )
            line += num_line_ends(text)
        cut = blocks is None and self._line_at(opening) == len(self.ends) - 1
        said = self._says(column, opening, "that nothing closes")
        return f"{said} If the file is cut off there, copy or write it again." if cut else said

    def _goes_on(self, column: int, opening: int, end: int) -> str:
        """The message about a value that continues after its closing quote. Arrow would join the
        two parts silently.
        """
        cell = quoted(self.text[opening:end].decode(errors="replace"))
        return self._says(
            column,
            opening,
            f"that is closed before the value ends ({cell})",
            "Put the whole value in quotes",
        )

    def _says(self, column: int, opening: int, what: str, remedy: str = "") -> str:
        line = self.first_line + self._line_at(opening)
        said = (
            f'{self.path}: line {line:,}, column {self.dialect.name(column)} opens a quote (")'
            f" {what}. {remedy or f'Close it in line {line:,}'}; a quote that belongs to the value"
            ' is doubled ("") within quotes.'
        )
        if self.dialect.backslash_line is None:
            return said
        return (
            f'{said} Line {self.dialect.backslash_line:,} writes a quote as \\", so a backslash'
            " before a quote never closes a value."
        )
