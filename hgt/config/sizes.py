"""Sizes of memory as a user writes them. In: a text such as 16GB. Out: bytes, or an InputError."""

from __future__ import annotations

import re

from hgt.errors import InputError, quoted
from hgt.parameter import Range, require

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", re.IGNORECASE)
_MEMORY = Range(10**6, 10**15)  # "16" is 16 bytes, and meant are gigabytes


def parse_bytes(text: str, name: str = "memory") -> int:
    """ "16GB" -> 16 * 10^9, "16GiB" -> 16 * 2^30. Raises InputError with the parameter's name."""
    match = _SIZE.fullmatch(text)
    unit = (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " ") if match else 0
    size = float(match[1]) * unit if match else 0.0
    if not 1 <= size < float("inf"):
        raise InputError(
            f"Parameter {name} takes a size such as 16GB or 12.5GiB, not {quoted(text)}."
        )
    return int(size)


def check_memory(name: str, text: str) -> None:
    """InputError unless the text is a size that a memory can have."""
    good = parse_bytes(text, name) in _MEMORY
    require(good, name, "between 1MB and 1000TB (with a unit: 16GB)", text)
