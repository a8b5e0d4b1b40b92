"""PrimeKG's nodes.csv: types, ids and names of the numbers in its edges.csv.

In: record batches of both. Out: record batches with the columns of `EDGES`. PrimeKG exists as one
kg.csv, and as this pair (Chandak et al. 2023, Harvard Dataverse IXA7BM).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from hgt.errors import InputError, quoted
from hgt.reading.columns import Columns
from hgt.reading.node_ids import whole_number

NODES = Columns(("node_index", "node_id", "node_type"), ("node_name",))
INDEXED_EDGES = Columns(("x_index", "y_index", "relation"))


@dataclass(frozen=True)
class NodeTable:
    """The table of nodes.

    place: {node_index: row}.
    values: {"id", "type" and, where there are names, "name": [num_nodes] strings}.
    """

    path: Path
    place: dict[str, int]
    values: dict[str, pa.Array]

    @classmethod
    def of(cls, path: Path, batches: list[pa.RecordBatch]) -> NodeTable:
        """Raises InputError for a node_index that is empty or repeated, and for an empty id or
        type.
        """
        if not sum(len(batch) for batch in batches):
            raise InputError(f"{path}: has a header line but no rows. Give the table of nodes.")
        table = pa.Table.from_batches(batches)
        columns = {c: [v.strip() for v in table[c].to_pylist()] for c in table.column_names}
        for c in NODES.required:
            if "" in columns[c]:
                row = columns[c].index("") + 1
                raise InputError(
                    f"{path}: column {c} is empty in row {row:,} (counted from the first row below"
                    " the header). Fill it in."
                )
        columns["node_index"] = [whole_number(index) for index in columns["node_index"]]
        place = {index: row for row, index in enumerate(columns["node_index"])}
        if len(place) < len(table):
            twice = next(
                index for row, index in enumerate(columns["node_index"]) if place[index] != row
            )
            raise InputError(
                f"{path}: node_index {twice} has more than one row. Keep one row per node."
            )
        _refuse_two_names(path, columns)
        return cls(
            path,
            place,
            {c.removeprefix("node_"): pa.array(v, pa.string()) for c, v in columns.items()},
        )

    def edges(self, path: Path, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A batch of `INDEXED_EDGES` with types, ids and names.

        path: the file of the batch, for messages.
        """
        columns = {"relation": batch.column("relation")}
        for side in ("x", "y"):
            rows = pa.array(self._rows(path, f"{side}_index", batch.column(f"{side}_index")))
            for name in ("type", "id", "name"):
                if name in self.values:
                    columns[f"{side}_{name}"] = self.values[name].take(rows).dictionary_encode()
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    def _rows(self, path: Path, name: str, column: pa.DictionaryArray) -> np.ndarray:
        values = [whole_number(v.strip()) for v in column.dictionary.to_pylist()]
        rows = np.array([self.place.get(v, -1) for v in values], dtype=np.int64)[
            column.indices.to_numpy()
        ]
        unknown = np.flatnonzero(rows < 0)
        if len(unknown):
            value = values[column.indices[int(unknown[0])].as_py()]
            raise InputError(
                f"{path}: {name} {value!r} is no node_index of {self.path.name}. Give the two files"
                " of one release."
            )
        return rows


def _refuse_two_names(path: Path, columns: dict[str, list[str]]) -> None:
    """Raise InputError for two rows of one type and id with different names."""
    if "node_name" not in columns:
        return
    known: dict[tuple[str, str], str] = {}
    for node_type, node_id, name in zip(
        columns["node_type"], columns["node_id"], columns["node_name"], strict=True
    ):
        other = known.setdefault((node_type, node_id), name)
        if other != name:
            raise InputError(
                f"{path}: {node_type} {node_id} is {quoted(other)} in one row and {quoted(name)} in"
                " another. Keep one."
            )
