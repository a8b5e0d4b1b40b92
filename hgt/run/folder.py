"""The run folder: the path of each of a run's files. Processes hand on only this folder's path.

In: a path. Out: the run's files and its locks. Knows no device.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hgt.config import RunConfig, SplitConfig
from hgt.errors import InputError, RunLocked
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import EdgeSplit
from hgt.memory.plan import MemoryPlan


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run's files."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def graph(self) -> Path:
        return self.path / "graph"

    @property
    def split(self) -> Path:
        return self.path / "split.safetensors"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def segments(self) -> Path:
        """The devices and times of the training, stretch by stretch. The parent writes it, not the
        trainer.
        """
        return self.path / "segments.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def embeddings(self) -> Path:
        return self.path / "embeddings"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def outputs(self) -> Path:
        """The files outside of the run folder that the run has written (`hgt/output_file.py`)."""
        return self.path / "outputs.json"

    def load_config(self) -> RunConfig:
        """The run's configuration. Raises InputError when this is no run folder."""
        if not self.config.exists():
            raise InputError(
                f"{self.path}: is no run folder (it has no config.json). Give a folder that `hgt"
                " train` made."
            )
        return RunConfig.load(self.config)

    def load_graph(self) -> KnowledgeGraph:
        return KnowledgeGraph.load(self.graph)

    def load_split(self, graph: KnowledgeGraph, config: SplitConfig) -> EdgeSplit:
        return EdgeSplit.load(self.split, graph, config)

    def load_plan(self) -> MemoryPlan | None:
        """The memory plan of the run's current stretch; None where nothing was planned."""
        return MemoryPlan.load(self.plan) if self.plan.exists() else None

    def locked(self) -> AbstractContextManager[None]:
        """A lock for the one program that may write here. It ends with the process, however that
        ends. Raises RunLocked.
        """
        return self._alone("lock")

    def led(self) -> AbstractContextManager[None]:
        """A lock for the one flow that may start the run's programs and change its configuration.
        Raises RunLocked.
        """
        return self._alone("flow.lock")

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        try:
            handle = os.open(self.path / name, os.O_RDWR | os.O_CREAT, 0o644)
        except IsADirectoryError as error:
            raise InputError(
                f"{self.path / name}: is a folder, where a file should be. Remove it."
            ) from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunLocked(
                    f"{self.path}: another process is training this run. Wait for it, or stop it"
                    " first."
                ) from error
            yield
        finally:
            os.close(handle)
