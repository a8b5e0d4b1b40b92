"""Files that are there whole or not at all, whatever ends the one who writes them: a kill, a full
disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hgt.errors import InputError


def make_folder(path: Path) -> None:
    """Unless it is there. Raises InputError where a file has its name."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{path}: is a file, where a folder should be. Remove it.") from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Another name to write to: the file takes its own at the end of the block, and is removed when
    the block raises.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder, where a file should be. Remove it.")
    new = path.with_name(f"{path.name}.new")
    try:
        yield new
        new.replace(path)
    except BaseException:
        if new.is_file():
            new.unlink()
        raise
