"""A block of CSV text that consists of whole rows.

In: bytes and the places of rows on several lines. Out: counts of lines. Knows no columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class TextBlock:
    """A block of whole rows.

    spans: (start, end) in `text` of each row on several lines.
    breaks: number of line ends within these rows.
    """

    text: bytes
    first_line: int
    lines: int
    breaks: int
    spans: tuple[tuple[int, int], ...]

    @cached_property
    def blank_lines(self) -> int:
        """Number of empty lines outside of values. It is slow. Most blocks have none, which their
        number of rows shows.
        """
        return num_blank(self.text) - sum(num_blank(self.text[a:b]) for a, b in self.spans)


def num_blank(text: bytes) -> int:
    lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removesuffix(b"\n").split(b"\n")
    return sum(not line for line in lines) if text else 0


def num_line_ends(text: bytes) -> int:
    lone = text.count(b"\r") - text.count(b"\r\n") if b"\r" in text else 0
    return text.count(b"\n") + lone
