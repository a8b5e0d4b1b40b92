"""The columns to read, and their places among a file's names.

In: the names in a file. Out: places, or an InputError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from hgt.errors import InputError

CODES = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Columns:
    """A set of columns, in lower case.

    required: the file must have them.
    optional: read where the file has them.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def num_in(self, names: Sequence[str]) -> int:
        return len(set(self.required) & {_plain(n) for n in names})

    def are_in(self, names: Sequence[str]) -> bool:
        return self.num_in(names) == len(self.required)

    def find(self, path: Path, names: Sequence[str], where: str) -> dict[str, int]:
        """The place of each column in the file. Case and surrounding blanks do not matter.

        Raises InputError when a required column is missing, or when a column is repeated.
        """
        plain = [_plain(n) for n in names]
        missing = [c for c in self.required if c not in plain]
        if missing:
            raise InputError(
                f"{path}: required column(s) {', '.join(missing)} missing {where}, which has"
                f" {', '.join(names)}."
            )
        wanted = [c for c in (*self.required, *self.optional) if c in plain]
        repeated = sorted(c for c in wanted if plain.count(c) > 1)
        if repeated:
            spelled = [repr(n) for n in names if _plain(n) in repeated]
            raise InputError(
                f"{path}: column(s) {', '.join(repeated)} appear more than once"
                f" ({', '.join(spelled)}). Keep one of each."
            )
        return {c: plain.index(c) for c in wanted}


def _plain(name: str) -> str:
    return name.strip().strip("\ufeff").strip().lower()


def first_there(wanted: Sequence[Columns], names: Sequence[str]) -> Columns:
    """The first set of columns among the names; the first of all sets when there is none.

    A file with several columns of the first set counts as a file of that kind.
    """
    if wanted[0].num_in(names) > 1:
        return wanted[0]
    return next((columns for columns in wanted if columns.are_in(names)), wanted[0])


EDGES = Columns(("x_type", "x_id", "relation", "y_type", "y_id"), ("x_name", "y_name"))
