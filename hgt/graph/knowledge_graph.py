"""The knowledge graph: nodes with the key (type, id), facts with the key (head type, relation, tail
type).

In: an `EdgeTable`. Out: a `KnowledgeGraph`, and the number of rows that are no fact of their own.
Knows no split and no training. A **fact** is one statement of the file. Its mirror row, if
there is one, is the same fact.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from jaxtyping import Int
from torch import Tensor

from hgt.config import GraphConfig
from hgt.errors import InputError
from hgt.graph.extraction import extract_facts
from hgt.graph.facts import DroppedRows, EdgeType, edge_type_name
from hgt.graph.graph_table import graph_table
from hgt.input_file import check_file, read_json
from hgt.reading.edge_table import EdgeTable

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData


@dataclass(frozen=True)
class KnowledgeGraph:
    """Nodes and facts. The nodes of a type have numbers from 0 in the order of their ids.

    node_ids, node_names: {node type: [num_nodes] strings}.
    edge_index: {edge type: [2, num_facts] int64}, heads above tails, numbered within their types.
    symmetric: edge types within one node type whose facts have no direction. Each pair is stored
        once, with the smaller number first.
    dropped: numbers of rows that are no fact of their own.
    notes: sentences about the file's nodes that are left out. They are not saved.
    """

    node_ids: dict[str, np.ndarray]
    node_names: dict[str, np.ndarray]
    edge_index: dict[EdgeType, Int[Tensor, "2 _"]]
    symmetric: frozenset[EdgeType] = frozenset()
    dropped: DroppedRows = field(default=DroppedRows(), compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for head, relation, tail in self.edge_index:
            reverse = (tail, f"rev_{relation}", head)
            if reverse in self.edge_index and (head, relation, tail) not in self.symmetric:
                raise InputError(
                    f"Edge type {edge_type_name(reverse)} has the name of the reverse of"
                    f" {edge_type_name((head, relation, tail))}, which is added by itself. Remove"
                    " these edges, or rename the relation."
                )

    @property
    def node_types(self) -> list[str]:
        return list(self.node_ids)

    @property
    def edge_types(self) -> list[EdgeType]:
        return list(self.edge_index)

    @cached_property
    def symmetric_numbers(self) -> list[int]:
        """Numbers of the symmetric edge types."""
        return [i for i, e in enumerate(self.edge_types) if e in self.symmetric]

    @cached_property
    def num_nodes(self) -> dict[str, int]:
        return {t: len(ids) for t, ids in self.node_ids.items()}

    @cached_property
    def num_facts(self) -> dict[EdgeType, int]:
        return {e: index.shape[1] for e, index in self.edge_index.items()}

    @property
    def total_nodes(self) -> int:
        return sum(self.num_nodes.values())

    @property
    def total_facts(self) -> int:
        return sum(self.num_facts.values())

    @cached_property
    def offsets(self) -> dict[str, int]:
        """{node type: global number of its first node}. The types follow one another in the order
        of `node_types`.
        """
        starts = np.cumsum([0, *self.num_nodes.values()])
        return dict(zip(self.node_types, starts.tolist(), strict=False))

    def type_range(self, node_type: str) -> slice:
        """The global numbers of a type's nodes."""
        start = self.offsets[node_type]
        return slice(start, start + self.num_nodes[node_type])

    def global_facts(self, edge_type: EdgeType) -> Int[Tensor, "2 _"]:
        """The facts of an edge type with global node numbers."""
        shift = torch.tensor([[self.offsets[edge_type[0]]], [self.offsets[edge_type[2]]]])
        return self.edge_index[edge_type] + shift

    @cached_property
    def hash(self) -> str:
        """SHA-256 of nodes and facts. Equal graphs have equal hashes, from any file and any order
        of rows. One exception: a relation in both orientations must begin with the same one
        (`hgt/graph/mirror_rows.py`).
        """
        digest = hashlib.sha256()
        for node_type, ids in self.node_ids.items():
            digest.update("\x1f".join([node_type, *ids]).encode() + b"\x1e")
        for edge_type, index in self.edge_index.items():
            digest.update(
                "\x1f".join([*edge_type, str(edge_type in self.symmetric)]).encode() + b"\x1e"
            )
            digest.update(index.to(torch.int32).contiguous().numpy().tobytes())
        return digest.hexdigest()

    @classmethod
    def from_edge_table(cls, table: EdgeTable, config: GraphConfig) -> KnowledgeGraph:
        """Filter the rows, merge mirrors, drop duplicates and self-loops, and number the nodes.

        Raises InputError for an unknown type or relation in the configuration, or when no fact
        remains.
        """
        facts = extract_facts(table, config)
        index = {e: torch.from_numpy(pairs) for e, pairs in facts.edge_index.items()}
        return cls(
            facts.node_ids, facts.node_names, index, facts.symmetric, facts.dropped, facts.notes
        )

    def save(self, folder: Path) -> None:
        """Write `nodes.parquet`, `facts.safetensors` and `graph.json`. `graph.json` comes last: it
        marks the folder as whole.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.node_table().to_parquet(folder / "nodes.parquet", index=False)
        tensors = {
            str(i): index.to(torch.int32).contiguous()
            for i, index in enumerate(self.edge_index.values())
        }
        safetensors.torch.save_file(tensors, folder / "facts.safetensors")
        description = {
            "hash": self.hash,
            "num_nodes": self.num_nodes,
            "edge_types": [[*e, e in self.symmetric] for e in self.edge_types],
            "dropped_rows": self.dropped.as_dict(),
        }
        (folder / "graph.json").write_text(json.dumps(description, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> KnowledgeGraph:
        """Read a saved graph. Raises InputError for a folder that is not whole, or was changed."""
        description = read_json(folder / "graph.json", dict, "Start the run anew.")
        for name in ("nodes.parquet", "facts.safetensors"):
            check_file(folder / name, "Start the run anew.")
        try:
            nodes = pd.read_parquet(folder / "nodes.parquet")
            tensors = safetensors.torch.load_file(folder / "facts.safetensors")
            by_type = {t: nodes[nodes["node_type"] == t] for t in description["num_nodes"]}
            graph = cls(
                {t: rows["node_id"].to_numpy(dtype=object) for t, rows in by_type.items()},
                {t: rows["node_name"].to_numpy(dtype=object) for t, rows in by_type.items()},
                {
                    tuple(e[:3]): tensors[str(i)].to(torch.int64)
                    for i, e in enumerate(description["edge_types"])
                },
                frozenset(tuple(e[:3]) for e in description["edge_types"] if e[3]),
                DroppedRows(**description["dropped_rows"]),
            )
            whole = graph.hash == description["hash"]
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            safetensors.SafetensorError,
        ) as error:
            raise InputError(
                f"{folder}: holds no readable graph ({error}). Start the run anew."
            ) from error
        if not whole:
            raise InputError(
                f"{folder}: the graph was changed after it was written. Start the run anew."
            )
        return graph

    def node_table(self) -> pd.DataFrame:
        """One row per node in global order: node_type, node_id, node_name."""
        return pd.DataFrame(
            {
                "node_type": np.repeat(
                    np.array(self.node_types, dtype=object), list(self.num_nodes.values())
                ),
                "node_id": np.concatenate(list(self.node_ids.values())),
                "node_name": np.concatenate(list(self.node_names.values())),
            }
        )

    def to_hetero_data(self) -> HeteroData:
        """The graph as PyG's `HeteroData`: `data[node_type].num_nodes / .node_id / .node_name`,
        `data[edge_type].edge_index / .symmetric`.
        """
        from torch_geometric.data import HeteroData

        data = HeteroData()
        for node_type, ids in self.node_ids.items():
            data[node_type].num_nodes = len(ids)
            data[node_type].node_id = ids.tolist()
            data[node_type].node_name = self.node_names[node_type].tolist()
        for edge_type, index in self.edge_index.items():
            data[edge_type].edge_index = index
            data[edge_type].symmetric = edge_type in self.symmetric
        return data

    @classmethod
    def from_hetero_data(cls, data: HeteroData) -> KnowledgeGraph:
        """The graph of PyG's `HeteroData`. Data from elsewhere gets ids "0", "1", ... and directed
        edge types.

        Raises InputError when a node type has neither `num_nodes` nor features, when an edge type
        has no `edge_index` or one that points outside, and when reverse edges were added
        (`ToUndirected`).
        """
        ids, names = {}, {}
        for node_type in data.node_types:
            store = data[node_type]
            with warnings.catch_warnings():  # PyG only warns; the error follows
                warnings.simplefilter("ignore")
                num_nodes = len(store.node_id) if "node_id" in store else store.num_nodes
            if num_nodes is None:
                raise InputError(
                    f"HeteroData: node type {node_type!r} has no num_nodes. Set"
                    f" data[{node_type!r}].num_nodes."
                )
            ids[node_type] = _strings(store.node_id if "node_id" in store else range(num_nodes))
            names[node_type] = _strings(store.node_name) if "node_name" in store else ids[node_type]
        index = {}
        for e in data.edge_types:
            if "edge_index" not in data[e]:
                raise InputError(
                    f"HeteroData: edge type {e} has no edge_index. Set data[{e}].edge_index."
                )
            pairs = data[e].edge_index.to(torch.int64)
            sizes = torch.tensor([[len(ids.get(e[0], ()))], [len(ids.get(e[2], ()))]])
            if ((pairs < 0) | (pairs >= sizes)).any():
                raise InputError(
                    f"HeteroData: edge type {e} points outside its {sizes[0].item()} heads and"
                    f" {sizes[1].item()} tails."
                )
            index[e] = pairs
        symmetric = frozenset(
            e for e in data.edge_types if "symmetric" in data[e] and data[e].symmetric
        )
        return cls(ids, names, index, symmetric)

    def table(self, most: int | None = None) -> str:
        """The size of the graph as a table: nodes by type, facts by edge type, dropped rows by
        reason.

        most: number of node types, and of edge types, that are listed; None: all. Largest first.
        """
        return graph_table(self.num_nodes, self.num_facts, self.symmetric, self.dropped, most)


def _strings(values: Iterable[object] | Tensor) -> np.ndarray:
    """[n] object array of the values as text."""
    return np.array(
        [str(v) for v in (values.tolist() if isinstance(values, Tensor) else values)], dtype=object
    )
