"""The table of embeddings, and its files, which other tools read in one line.

In: vectors and their nodes, or a file. Out: `Embeddings` and its files. Knows nothing of training.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from hgt.errors import InputError, is_disk_full, listed, quoted
from hgt.graph.facts import EdgeType, edge_type_name
from hgt.input_file import check_file, check_table, parsed_json
from hgt.model.decoders import DECODERS, Decoder
from hgt.output_file import claim_csv, output_written_whole, relations_of, remember_outputs
from hgt.whole_file import make_folder, written_whole

_METADATA_KEY = b"kg-hgt-embeddings"
_NODE_COLUMNS = ["node_type", "node_id", "node_name"]
_UNREADABLE = (pa.ArrowException, OSError, KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of nodes and relations.

    nodes: node_type, node_id and node_name, one row per node.
    vectors: [num_nodes, dim] float32 on the CPU, in the order of `nodes`.
    edge_types: all edge types with relation embeddings; empty where the table has none.
    relations: [num_relations, dim] the decoder's embeddings, in the order of `edge_types`.
    origin: hashes of the graph and split, decoder and parameters, for later checks; empty for other
        tables.
    """

    nodes: pd.DataFrame
    vectors: Float[Tensor, "num_nodes dim"]
    edge_types: tuple[EdgeType, ...]
    relations: Float[Tensor, "num_relations dim"]
    origin: dict[str, Any]

    def decoder(self, edge_types: list[EdgeType]) -> Decoder:
        """A decoder that scores facts of these edge types with the table's relation embeddings.
        Without these, scores are inner products.

        Raises InputError when the table has relation embeddings, but not of every edge type.
        """
        name = self.origin.get("decoder", "distmult") if self.edge_types else "distmult"
        decoder = DECODERS[name](len(edge_types), self.vectors.shape[1])
        place = {e: i for i, e in enumerate(self.edge_types)}
        missing = [edge_type_name(e) for e in edge_types if place and e not in place]
        if missing:
            raise InputError(
                f"relations.parquet lacks {listed(missing)}, which the graph has. Give the file of"
                " the same run."
            )
        decoder.relation.data.copy_(
            self.relations[[place[e] for e in edge_types]]
            if place
            else torch.ones_like(decoder.relation)
        )
        return decoder

    def save(self, folder: Path) -> None:
        """Write `embeddings.parquet`, `embeddings.safetensors` with `nodes.parquet`, and
        `relations.parquet`.
        """
        make_folder(folder)
        origin = json.dumps(self.origin)
        metadata = {_METADATA_KEY: origin.encode()}
        nodes = pa.Table.from_pandas(self.nodes, preserve_index=False)
        tensors = {
            "embeddings": self.vectors.contiguous(),
            "relations": self.relations.contiguous(),
        }
        tables = {
            "embeddings": (
                nodes.append_column("embedding", _as_lists(self.vectors)).replace_schema_metadata(
                    metadata
                )
            ),
            "nodes": nodes.replace_schema_metadata(None),
            "relations": self._relation_table(),
        }
        with contextlib.ExitStack() as whole:  # all of them or none: they belong together
            for name, table in tables.items():
                path = whole.enter_context(written_whole(folder / f"{name}.parquet"))
                pyarrow.parquet.write_table(table, path, row_group_size=1 << 16)
            path = whole.enter_context(written_whole(folder / "embeddings.safetensors"))
            safetensors.torch.save_file(tensors, path, metadata={"origin": origin})

    def save_csv(self, path: Path, overwrite: bool = False, record: Path | None = None) -> None:
        """Write a CSV. A CSV has no room for relations and origin, so these become a file beside
        it.

        overwrite, record: which files may be replaced (`hgt/output_file.py`).

        Raises InputError for a file that may not be replaced, or that cannot be written.
        """
        columns = {c: self.nodes[c].to_numpy() for c in self.nodes}
        columns |= {f"dim_{i}": column for i, column in enumerate(self.vectors.numpy().T)}
        try:
            places = claim_csv(path, overwrite=overwrite, record=record)
            with contextlib.ExitStack() as whole:
                csv, beside = (whole.enter_context(output_written_whole(p)) for p in places)
                pyarrow.parquet.write_table(self._relation_table(), beside)
                with pa.OSFile(str(csv), "wb") as out:
                    options = pyarrow.csv.WriteOptions(quoting_style="needed")
                    pyarrow.csv.write_csv(pa.table(columns), out, options)
                claim_csv(
                    path, overwrite=overwrite, record=record
                )  # a file may have appeared meanwhile
                if record is not None:
                    remember_outputs(record, dict(zip(places, (csv, beside), strict=True)))
        except OSError as error:
            if is_disk_full(error):
                raise
            raise InputError(
                f"{path}: the CSV could not be written ({error}). Give output_csv a path in a"
                " folder that exists."
            ) from error

    def _relation_table(self) -> pa.Table:
        names = pd.DataFrame(self.edge_types, columns=["head_type", "relation", "tail_type"])
        types = pa.Table.from_pandas(names, preserve_index=False)
        metadata = {_METADATA_KEY: json.dumps(self.origin).encode()}
        table = types.append_column("embedding", _as_lists(self.relations))
        return table.replace_schema_metadata(metadata)

    @classmethod
    def load(cls, path: Path) -> Embeddings:
        """Read `embeddings.parquet`, or a CSV of the same columns. Relations and origin come from
        `<name>.relations.parquet` or `relations.parquet` beside it, if there is one.

        Raises InputError when the file is missing, unreadable or lacks columns of a table of
        embeddings, and when the relations beside it are unreadable or another run's.
        """
        check_table(path)
        try:
            if path.suffix == ".parquet":
                table = pyarrow.parquet.read_table(path)
                vectors = _from_lists(table.column("embedding"))
            else:
                table = _read_csv(path)
                # KeyError: a gap
                dims = [
                    f"dim_{i}"
                    for i in range(max(sum(c.startswith("dim_") for c in table.column_names), 1))
                ]
                vectors = torch.from_numpy(
                    np.stack([table.column(d).to_numpy().astype(np.float32) for d in dims], axis=1)
                )
            # no check needs names
            there = [c for c in _NODE_COLUMNS if c != "node_name" or c in table.column_names]
            nodes = table.select(there).to_pandas()
            nodes["node_name"] = nodes["node_name"] if "node_name" in nodes else nodes["node_id"]
            origin = _origin(table)
        except _UNREADABLE as error:
            raise InputError(
                f"{path}: is no table of embeddings ({_first_line(error)}). It needs node_type,"
                " node_id and embedding (Parquet) or dim_0, dim_1, ... (CSV)."
            ) from error
        del table
        # Arrow keeps what the file took: four times the vectors, while facts are ranked
        pa.default_memory_pool().release_unused()
        beside = next(
            (p for p in (relations_of(path), path.with_name("relations.parquet")) if p.exists()),
            None,
        )
        edge_types, relations, origin_of_relations = _load_relations(beside, vectors.shape[1])
        if (
            origin_of_relations
            and not origin
            and beside == path.with_name("relations.parquet")
            and path.stem != "embeddings"
        ):
            # somebody's table in a run's folder
            return cls(nodes.astype(str), vectors, (), torch.zeros(0, vectors.shape[1]), {})
        if origin and origin_of_relations and origin != origin_of_relations:
            raise InputError(
                f"{path}: the relations beside it are another run's. Put the two files of one run"
                " together."
            )
        return cls(nodes.astype(str), vectors, edge_types, relations, origin or origin_of_relations)


def _read_csv(path: Path) -> pa.Table:
    """The CSV with its node columns as strings: an id "007" or a name "null" stays itself."""
    return pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(_NODE_COLUMNS, pa.string())
        ),
    )


def _load_relations(
    path: Path | None, dim: int
) -> tuple[tuple[EdgeType, ...], Tensor, dict[str, Any]]:
    if path is None:
        return (), torch.zeros(0, dim), {}
    check_file(path, "Remove it or write it again.")
    try:
        table = pyarrow.parquet.read_table(path)
        names = table.select(["head_type", "relation", "tail_type"]).to_pylist()
        vectors, origin = _from_lists(table.column("embedding")), _origin(table)
    except _UNREADABLE as error:
        raise InputError(
            f"{path}: holds no readable relations ({_first_line(error)}). Remove it or write it"
            " again."
        ) from error
    if vectors.shape[1] != dim:
        raise InputError(
            f"{path}: its embeddings have {vectors.shape[1]} dimensions, those of the nodes {dim}."
            " Give the file of the same run."
        )
    return tuple(tuple(row.values()) for row in names), vectors, origin


def _origin(table: pa.Table) -> dict[str, Any]:
    """The origin in a table's metadata; empty for tables of others. Raises ValueError for metadata
    that no version of ours writes.
    """
    origin: dict[str, Any] = parsed_json(
        (table.schema.metadata or {}).get(_METADATA_KEY, b"{}"), dict
    )
    kinds = {"graph_hash": str, "decoder": str, "parameters": dict}
    for key, kind in kinds.items():
        if origin and not isinstance(origin.get(key), kind):
            raise ValueError(
                f"its metadata {_METADATA_KEY.decode()} has {key} {quoted(origin.get(key))}"
            )
    if origin and origin["decoder"] not in DECODERS:
        raise ValueError(
            f"its metadata {_METADATA_KEY.decode()} has decoder {quoted(origin['decoder'])}"
        )
    return origin


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _as_lists(matrix: Tensor) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(
        pa.array(matrix.contiguous().numpy().ravel()), matrix.shape[1]
    )


def _from_lists(column: pa.ChunkedArray) -> Tensor:
    """[num_rows, dim] float32. Raises ValueError unless every row is a list of the same number of
    numbers.
    """
    if not (
        pa.types.is_fixed_size_list(column.type)
        or pa.types.is_list(column.type)
        or pa.types.is_large_list(column.type)
    ):
        raise ValueError(f"its column embedding holds {column.type}, not lists of numbers")
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) != 1 or not lengths[0]:
        raise ValueError(
            f"its embeddings have {', '.join(map(str, lengths[:5])) or 'no'} dimensions, not the"
            " same number in every row"
        )
    vectors, start = np.empty((len(column), lengths[0]), dtype=np.float32), 0
    for chunk in column.chunks:
        vectors[start : start + len(chunk)] = np.asarray(chunk.flatten(), dtype=np.float32).reshape(
            -1, lengths[0]
        )
        start += len(chunk)
    return torch.from_numpy(vectors)
