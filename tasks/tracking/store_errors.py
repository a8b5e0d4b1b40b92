"""Errors of MLflow's store: which of them pass by themselves, and how a sentence names them."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url

from hgt.errors import is_disk_full
from tasks.home import store_uri

_LOCKED_SECONDS = 1.0
_PASSING_CODES = (
    "TEMPORARILY_UNAVAILABLE",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_ALREADY_EXISTS",
    "DEADLINE_EXCEEDED",
)
_PASSING_WORDS = (
    "failed with exception",
    "failed with timeout exception",
    "locked",
    "already exists",
    "Connection",
)
_KNOWN = re.compile(
    r"database is locked|no such table: \w+|Connection refused|Name or service not known|timed"
    r" out|too many \d+ error responses"
)


class StoreLocked(Exception):
    """Another program has locked the SQLite store."""


def is_passing(error: Exception) -> bool:
    """Whether the error may pass by itself: a locked database, a server without answer."""
    if isinstance(error, StoreLocked | ConnectionError | TimeoutError) or is_disk_full(error):
        return True
    if store_uri().startswith("sqlite"):  # MLflow calls every error of SQLite temporary
        return "locked" in str(error) or "already exists" in str(error)
    code = error.error_code if isinstance(error, MlflowException) else ""
    return code in _PASSING_CODES or any(words in str(error) for words in _PASSING_WORDS)


def in_words(error: Exception) -> str:
    """The error in one line. Picks the most frequent causes out of MLflow's long texts."""
    if said := _KNOWN.search(str(error)):
        return said[0]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def check_sqlite(uri: str) -> None:
    """Raises sqlite3.Error or StoreLocked for a SQLite file that cannot be read.

    MLflow 3.17.2 itself would retry for 100 s.
    """
    path = Path(make_url(uri).database or "") if uri.startswith("sqlite:") else Path()
    if not path.name or not path.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_LOCKED_SECONDS)) as database:
            database.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise StoreLocked(f"{path}: {error}") from error
        raise
