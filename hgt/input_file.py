"""Files that are read: each is a file, and what JSON holds has the shape that is due.

In: a path. Out: what it holds, or an InputError that names it. Never waits for ever on a pipe.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hgt.errors import InputError, quoted

_MOST_BYTES = 1 << 30  # no JSON of ours is larger; 10,000 edge types make 10 MB


def check_file(path: Path, remedy: str) -> None:
    """Raises InputError, which ends with the remedy, unless there is a file."""
    try:
        if path.is_file():
            return
        is_there, is_folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:  # a name too long, a folder without access, NUL
        raise InputError(f"{path}: cannot be read ({error}). {remedy}") from error
    what = "is a folder" if is_folder else "is a pipe or device" if is_there else "no such file"
    raise InputError(f"{path}: {what}. {remedy}")


def check_table(path: Path) -> None:
    """Raises InputError unless there is a file that may be a table of embeddings."""
    check_file(
        path,
        "Give a table, such as a run's embeddings/embeddings.parquet, or a CSV that `--output-csv`"
        " wrote.",
    )


def read_json(path: Path, kind: type, remedy: str) -> Any:
    """What a JSON file holds. kind: dict or list, which it has to be

    Raises InputError, which ends with the remedy, for anything that is not such a file.
    """
    check_file(path, remedy)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path}: is too large to be one of ours. {remedy}")
        return parsed_json(path.read_bytes(), kind)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}). {remedy}") from error


def parsed_json(text: bytes | str, kind: type) -> Any:
    """Raises ValueError, however deep the text is nested and whatever it holds."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(value, kind):
        due = "object" if kind is dict else "list"
        raise ValueError(f"it holds no {due} but {quoted(value)}")
    return value
