"""What belongs together: a run's graph, split and configuration, and all that was made of them.

In: the three. Out: their hashes, which checkpoints, embeddings and reports carry, and an InputError
where one of these was made of others.
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
    graph_hash: str
    split_hash: str
    config_fingerprint: str

    @classmethod
    def of(cls, graph: KnowledgeGraph, split: EdgeSplit, config: RunConfig) -> Identity:
        return cls(graph.hash, split.hash, config.fingerprint())

    def as_dict(self) -> dict[str, str]:
        return asdict(self)

    def check(self, told: Mapping[str, Any], path: Path) -> None:
        """told: what a file at `path` says that it was made of. Raises InputError."""
        for key, own in self.as_dict().items():
            if (other := told.get(key)) != own:
                raise InputError(differs(path, key, other, own))


def differs(path: Path, key: str, other: object, own: str) -> str:
    """The sentence about a file that was made of another graph, split or configuration than the
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
