"""The identity of a run: the hashes of its graph, split and configuration.

In: the three. Out: their hashes, which checkpoints, embeddings and reports carry. A file with other
hashes is an InputError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hgt.config import RunConfig
from hgt.errors import InputError, quoted
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import EdgeSplit

_NAMES = {"graph_hash": "graph", "split_hash": "split", "config_fingerprint": "configuration"}


@dataclass(frozen=True)
class Identity:
    """The hashes of a run's graph, split and configuration."""

    graph_hash: str
    split_hash: str
    config_fingerprint: str

    @classmethod
    def of(cls, graph: KnowledgeGraph, split: EdgeSplit, config: RunConfig) -> Identity:
        return cls(graph.hash, split.hash, config.fingerprint())

    def as_dict(self) -> dict[str, str]:
        return asdict(self)

    def check(self, told: Mapping[str, Any], path: Path) -> None:
        """Raise InputError where a file has other hashes.

        told: the hashes in the file.
        path: path of the file, for the message.
        """
        for key, own in self.as_dict().items():
            if (other := told.get(key)) != own:
                raise InputError(differs(path, key, other, own))


def differs(path: Path, key: str, other: object, own: str) -> str:
    """The message about a file that was made for another graph, split or configuration than the
    run's.
    """
    name = _NAMES[key]
    made = (
        f"was made for {name} {other[:16]}"
        if isinstance(other, str)
        else f"does not say for which {name} it was made ({quoted(other)})"
    )
    return (
        f"{path}: {made}, but this run has {name} {own[:16]}. Start a new run, or give the {name}"
        " that it was made for."
    )
