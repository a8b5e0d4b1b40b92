"""Names and texts as a tracker takes them: the one place where they are cleaned.

MLflow 3.17.2 takes letters, digits, `_ - . /` and blanks in the name of a metric, a parameter or a
tag (colons not on Windows), at most 250 of them, and no name that is another one as a path. Node
types and relations may be any Unicode text.
"""

from __future__ import annotations

import hashlib
import posixpath
import re

MAX_NAME, MAX_TAG, MAX_PARAMETER = 250, 8_000, 6_000
REAL = "name."  # before a cleaned name: the tag that holds the real one
_LONGEST = MAX_NAME - len(REAL)
_HASH_CHARACTERS = 32
_NOT_TAKEN = re.compile(r"[^A-Za-z0-9_\-./ ]|_(?=x)")  # the second: what would look like an escape
_AS_PATH = re.compile(r"[./]")
_ESCAPE = re.compile(r"_x([0-9A-F]*)_")
_NO_TEXT = re.compile(r"[\0\ud800-\udfff]")


def tracked_name(name: str) -> str:
    """The name with every character that is not taken as `_xHEX_`, which is how spreadsheets write
    them.

    Two names never become one. `real_name` gives the name back, unless it is longer than 245
    characters: then a hash is its end.
    """
    taken = _NOT_TAKEN.sub(_escaped, name)
    if _is_another_path(taken):
        taken = _AS_PATH.sub(_escaped, taken) or "_x_"
    if len(taken) <= _LONGEST:
        return taken
    end = f"_xH{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:_HASH_CHARACTERS]}"
    return taken[: _LONGEST - len(end)].rstrip("/.") + end


def real_name(tracked: str) -> str:
    """What `tracked_name` was given, where it was short enough."""
    return _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)) if escape[1] else "", tracked)


def tracked_text(text: str, max_characters: int) -> str:
    """A value as every database takes it: without NUL and halves of characters (of a file name that
    is no UTF-8), and not longer.
    """
    clean = _NO_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return clean if len(clean) <= max_characters else clean[: max_characters - 3] + "..."


def _escaped(found: re.Match[str]) -> str:
    return f"_x{ord(found[0]):X}_"


def _is_another_path(name: str) -> bool:
    """As `mlflow.utils.validation.path_not_unique` has it."""
    return posixpath.normpath(name) != name or name == "." or name.startswith(("..", "/"))
