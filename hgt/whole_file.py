"""Files that are there whole or not at all, whatever ends the one who writes them: a kill, a full disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Another name to write to: the file takes its own at the end of the block, and is removed when the block raises."""
    new = path.with_name(f"{path.name}.new")
    try:
        yield new
        new.replace(path)
    except BaseException:
        if new.is_file():
            new.unlink()
        raise
