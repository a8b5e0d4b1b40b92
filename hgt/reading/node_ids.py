"""Numeric ids with one spelling: `1.0` is the node `1`.

In: the ids of nodes and their types. Out: the ids to use. Programs spell one number in several
ways: pandas writes integers as floats after a missing value, R writes 100000 as 1e+05, Spark
writes 12345678 as 1.2345678E7. Where all ids of a type are numbers, whole ones become integers,
by decimal arithmetic and never by floats. An id with leading zeros is text, and so are all ids
of its type.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hgt.errors import InputError

_INTEGER = r"^(0|-?[1-9][0-9]*)$"
# A float or decimal as programs write one. An exponent has a sign or the number a point: 12e4 is
# text.
_NUMBER = (
    r"^[+-]?(0|[1-9][0-9]*)(\.[0-9]*)?$"
    r"|^[+-]?[0-9]\.[0-9]*[eE][+-]?[0-9]{1,3}$"
    r"|^[+-]?[0-9][eE][+-][0-9]{1,3}$"
)
_ZEROS_FIRST = r"^[+-]?0+[0-9]+(\.0*)?$"
_SHOWN = 3
_is_number = re.compile(_NUMBER).match


def spelled_once(
    path: Path, node_types: list[str], node_type: np.ndarray, node_id: np.ndarray
) -> np.ndarray:
    """[num_nodes] ids. In types whose ids are all numbers, whole floats and decimals become
    integers.

    Several nodes may then have one id: they are one node. Raises InputError when two ids of a type
    differ only in the spelling of a number and the type's ids are text.
    """
    ids = pa.array(node_id, pa.string())
    odd = _matches(ids, _NUMBER) & ~_matches(ids, _INTEGER)
    zeros = _matches(ids, _ZEROS_FIRST)
    if not (odd | zeros).any():
        return node_id
    node_id = node_id.copy()
    is_number = _matches(ids, _NUMBER)
    for code in np.unique(node_type[odd | zeros]).tolist():
        of_type = node_type == code
        if is_number[of_type].all():
            places = np.flatnonzero(of_type & odd)
            node_id[places] = [_as_integer(i) for i in node_id[places]]
        else:
            _refuse_spellings(path, node_types[code], node_id[of_type])
    return node_id


def _matches(ids: pa.Array, pattern: str) -> np.ndarray:
    return np.asarray(pc.match_substring_regex(ids, pattern).to_numpy(zero_copy_only=False))


def _as_integer(text: str) -> str:
    value = Decimal(text)
    if value != value.to_integral_value():
        return text
    digits = format(value, "f").partition(".")[0]  # int() refuses thousands of digits
    return digits if value else "0"


def whole_number(text: str) -> str:
    """A whole float as an integer; other text unchanged."""
    return _as_integer(text) if _is_number(text) else text


def _refuse_spellings(path: Path, node_type: str, ids: np.ndarray) -> None:
    """Raise InputError when two ids of a type are the same whole number."""
    numbers = ids[_matches(pa.array(ids, pa.string()), f"{_NUMBER}|{_ZEROS_FIRST}")]
    spelled: dict[Decimal, str] = {}
    pairs = []
    for text in sorted(set(numbers.tolist()), key=lambda i: (len(i), i)):
        value = Decimal(text)
        if (
            value == value.to_integral_value()
            and (other := spelled.setdefault(value, text)) != text
        ):
            pairs.append(f"{other!r} and {text!r}")
    if pairs:
        more = f" and {len(pairs) - _SHOWN:,} more pairs" if len(pairs) > _SHOWN else ""
        raise InputError(
            f"{path}: ids of type {node_type} differ only in how a number is spelled:"
            f" {', '.join(pairs[:_SHOWN])}{more}. Not all ids of this type are plain numbers, so"
            " they are read as text and would be different nodes. Spell each id in one way."
        )
