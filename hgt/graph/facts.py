"""Facts: the distinct statements of a file, and the rows that are no fact of their own.

`extraction.py` makes them from rows. No row is dropped without being counted under its reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hgt.errors import printable

EdgeType = tuple[str, str, str]


def edge_type_name(edge_type: Iterable[str]) -> str:
    """The edge type on one line, for people."""
    return printable(" - ".join(edge_type))


@dataclass(frozen=True)
class DroppedRows:
    """Numbers of rows that are no fact of their own, by reason."""

    mirror: int = 0  # the other direction of a fact that is there
    duplicate: int = 0  # a repetition of a row that is there
    self_loop: int = 0  # head and tail are the same node
    filtered_type: int = 0  # a node type outside include_node_types
    outside_sample: int = 0  # an end outside the limit_nodes sample

    def as_dict(self) -> dict[str, int]:
        return dict(vars(self))


@dataclass(frozen=True)
class Facts:
    """The facts of a file, before they become tensors.

    node_ids, node_names: {node type: strings}, sorted by id.
    edge_index: {edge type: [2, num_facts] int64}, numbered within the types.
    symmetric: edge types whose facts have no direction.
    notes: sentences about nodes that a reader of the file would miss.
    """

    node_ids: dict[str, np.ndarray]
    node_names: dict[str, np.ndarray]
    edge_index: dict[EdgeType, np.ndarray]
    symmetric: frozenset[EdgeType]
    dropped: DroppedRows
    notes: tuple[str, ...] = ()
