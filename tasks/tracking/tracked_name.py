"""Cleans names and texts for a tracker.

MLflow 3.17.2 allows letters, digits, `_ - . /` and blanks in the name of a metric, a parameter or a
tag (colons not on Windows), and at most 250 characters. It refuses a name that changes when a path
is normalised. Node types and relations may be any Unicode text.
"""

from __future__ import annotations

import hashlib
import posixpath
import re

MAX_NAME, MAX_TAG, MAX_PARAMETER = 250, 8_000, 6_000
REAL = "name."  # prefix of the tag with the real name of a cleaned one
_LONGEST = MAX_NAME - len(REAL)
_HASH_CHARACTERS = 32
_NOT_TAKEN = re.compile(
    r"[^A-Za-z0-9_\-./ ]|_(?=x)"
)  # the second part: text that looks like an escape
_AS_PATH = re.compile(r"[./]")
_ESCAPE = re.compile(r"_x([0-9A-F]*)_")
_NO_TEXT = re.compile(r"[\0\ud800-\udfff]")


def tracked_name(name: str) -> str:
    """The name with every forbidden character as `_xHEX_`, as spreadsheets write them.

    Two names never become one. `real_name` restores the name. A cleaned name of more than 245
    characters ends with a hash and cannot be restored.
    """
    taken = _NOT_TAKEN.sub(_escaped, name)
    if _is_another_path(taken):
        taken = _AS_PATH.sub(_escaped, taken) or "_x_"
    if len(taken) <= _LONGEST:
        return taken
    end = f"_xH{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:_HASH_CHARACTERS]}"
    return taken[: _LONGEST - len(end)].rstrip("/.") + end


def real_name(tracked: str) -> str:
    """The original of a `tracked_name`, if that was short enough."""
    return _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)) if escape[1] else "", tracked)


def tracked_text(text: str, max_characters: int) -> str:
    """A value that every database accepts.

    Escapes NUL and lone surrogates (from a file name that is not UTF-8), and cuts the text.
    """
    clean = _NO_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return clean if len(clean) <= max_characters else clean[: max_characters - 3] + "..."


def _escaped(found: re.Match[str]) -> str:
    return f"_x{ord(found[0]):X}_"


def _is_another_path(name: str) -> bool:
    """The check of `mlflow.utils.validation.path_not_unique`."""
    return posixpath.normpath(name) != name or name == "." or name.startswith(("..", "/"))
