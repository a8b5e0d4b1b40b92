"""Numbers of lines and rows of a file.

In: blocks of text and their rows. Out: counts, and an InputError where they contradict each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hgt.errors import InputError, counted
from hgt.reading.text_block import TextBlock


@dataclass
class FileCounts:
    """Numbers of lines by kind. `lines` is None for Parquet, which has no lines.

    breaks: line ends within quoted values.
    """

    path: Path
    rows: int = 0
    lines: int | None = None
    header: int = 0
    blank: int = 0
    breaks: int = 0

    def add(self, block: TextBlock, num_rows: int) -> None:
        """Add a block. Raises InputError when its lines do not give `num_rows` rows."""
        assert self.lines is not None
        blank = 0 if num_rows == block.lines - block.breaks else block.blank_lines
        told = block.lines - block.breaks - blank
        if num_rows != told:
            raise InputError(
                f"{self.path}: lines {self.lines + 1:,} to {self.lines + block.lines:,} should be"
                f" {told:,} rows, and {num_rows:,} were read. Write the file again, with quotes"
                " around all values."
            )
        self.lines += block.lines
        self.rows += num_rows
        self.blank += blank
        self.breaks += block.breaks

    def __str__(self) -> str:
        if self.lines is None:
            return f"{self.path}: {counted(self.rows, 'row')}"
        parts = [f"{self.header} header", counted(self.rows, "row")]
        parts += [f"{self.blank:,} blank"] if self.blank else []
        parts += [f"{counted(self.breaks, 'line break')} within values"] if self.breaks else []
        return f"{self.path}: {counted(self.lines, 'line')} = {' + '.join(parts)}"
