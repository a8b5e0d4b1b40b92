"""MLflow: with `registry.py` the only module that knows it. One MLflow run per flow run, in the product's own SQLite store unless
MLFLOW_TRACKING_URI names another. The flow's process alone starts and ends it; a resumed run goes on in the same one.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import prefect.runtime.flow_run
from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_RUN_NAME
from prefect.exceptions import CancelledRun, TerminationSignal

from hgt.config import RunConfig
from hgt.errors import HgtError, InputError, explaining_full_disk, is_disk_full
from hgt.graph import KnowledgeGraph
from hgt.run_folder import RunFolder
from tasks.home import hgt_home, own_store
from tasks.ladder import Segment
from tasks.reporting import say
from tasks.tracked_name import MAX_PARAMETER, MAX_TAG, REAL, tracked_name, tracked_text

EXPERIMENT = "hgt-embeddings"
_EPOCH_METRICS = (
    "loss", "link_loss", "contrastive_loss", "isotropy_loss", "val_mrr", "val_hits_at_10", "learning_rate",
    "grad_norm", "peak_memory_bytes", "step_seconds",
)  # fmt: skip
_CANCELLED = (KeyboardInterrupt, TerminationSignal, CancelledRun, SystemExit)
_END_TAGS = {"ended_by", "error"}
_MAX_DIGEST = 36  # MLflow's limit for a dataset's digest; the whole hash is a tag
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it prints the traceback of what it raises as well (3.17.2)


def store_uri() -> str:
    """The tracking store: the user's, or the product's SQLite file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or own_store()


class Tracker:
    """Writes one MLflow run. What was logged before (a resumed run) is not logged again."""

    def __init__(self, folder: RunFolder):
        hgt_home().mkdir(parents=True, exist_ok=True)
        self._client = mlflow.MlflowClient(store_uri())
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._id_file = folder.path / "mlflow_run_id"
        known = self._id_file.read_text(errors="replace").strip() if self._id_file.exists() else ""
        self.is_new = not (known and self._holds(known))
        self.run_id = self._create(folder.path.name) if self.is_new else known
        if known and self.is_new:
            say(f"WARNING: MLflow's store {store_uri()} has no run {known} (any more): this run goes on in a new one, {self.run_id}.")
            self.remember()
        elif known:
            self._warn_of_another_home()
        self._epochs = {int(m.step) for m in self.call("get_metric_history", self.run_id, "loss")}

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """A call of MLflow's client, in a thread where no signal can break it off.

        Ctrl-C in the middle of a write left SQLite's transaction open, and the run could not be ended: "database is locked".
        """
        return self._thread.submit(getattr(self._client, method), *arguments, **options).result()

    def _holds(self, run_id: str) -> bool:
        """Not one that was deleted: MLflow keeps it, and lets nobody write to it."""
        try:
            return str(self.call("get_run", run_id).info.lifecycle_stage) == LifecycleStage.ACTIVE
        except MlflowException as error:
            if error.error_code not in (ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE)):
                raise
            return False

    def _warn_of_another_home(self) -> None:
        """MLflow keeps the place of a run's artifacts as it was when the run began."""
        ours = (hgt_home() / "mlartifacts").as_uri()
        if not os.environ.get("MLFLOW_TRACKING_URI") and not self.artifact_uri.startswith(f"{ours}/"):
            say(f"WARNING: HGT_HOME was copied or moved: MLflow goes on putting this run's artifacts into {self.artifact_uri}, not {ours}.")

    def _create(self, name: str) -> str:
        tags = {MLFLOW_RUN_NAME: name, "hgt.run": name, "prefect.flow_run_id": str(prefect.runtime.flow_run.id or "")}
        return str(self.call("create_run", self._experiment(), tags=tags).info.run_id)

    def _experiment(self) -> str:
        found = self.call("get_experiment_by_name", EXPERIMENT)
        if found is not None:
            if found.lifecycle_stage != LifecycleStage.ACTIVE:
                self.call("restore_experiment", found.experiment_id)
                say(f"WARNING: MLflow's experiment {EXPERIMENT} had been deleted; it is restored, for new runs go there.")
            return str(found.experiment_id)
        own_store = not os.environ.get("MLFLOW_TRACKING_URI")
        location = (hgt_home() / "mlartifacts").as_uri() if own_store else None
        return str(self.call("create_experiment", EXPERIMENT, artifact_location=location))

    @property
    def artifact_uri(self) -> str:
        """Where the run's artifacts lie, as MLflow names it."""
        return str(self.call("get_run", self.run_id).info.artifact_uri)

    def remember(self) -> None:
        """Write the run's id into the run folder, so that a resumed run goes on in it."""
        self._id_file.write_text(self.run_id + "\n")

    def configuration(self, config: RunConfig, kg: Path | None) -> None:
        known = self.call("get_run", self.run_id).data.params
        values = config.to_flat() | ({"kg": str(kg)} if kg else {})
        texts = {k: json.dumps(v) if isinstance(v, list) else str(v) for k, v in values.items() if k not in known}
        new = [Param(k, tracked_text(text, MAX_PARAMETER)) for k, text in texts.items()]
        self.call("log_batch", self.run_id, params=new)

    def dataset(self, graph: KnowledgeGraph, kg: Path | None) -> None:
        """The graph as the run's input, with its hash."""
        profile = {"nodes": graph.total_nodes, "facts": graph.total_facts, "sha256": graph.hash, "dropped_rows": graph.dropped.as_dict()}
        source = json.dumps({"uri": kg.as_uri() if kg else ""})
        name = tracked_text(kg.name, MAX_PARAMETER) if kg else "graph"
        entity = Dataset(name, graph.hash[:_MAX_DIGEST], "local", source, profile=json.dumps(profile))
        self.call("log_inputs", self.run_id, [DatasetInput(entity, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])])
        self.tags({"graph_hash": graph.hash})

    def epoch(self, event: dict[str, Any]) -> None:
        """One point per epoch and figure, however often the epoch is told."""
        if event["epoch"] in self._epochs:
            return
        self._epochs.add(event["epoch"])
        self.metrics({k: event[k] for k in _EPOCH_METRICS if event[k] is not None}, event["epoch"], event["time"])

    def metrics(self, values: dict[str, float], step: int = 0, seconds: float | None = None) -> None:
        """A name that MLflow does not take is cleaned; the tag `name.<cleaned>` holds the real one."""
        at = int(1000 * (seconds or time.time()))
        names = {tracked_name(name): name for name in values}
        self.call("log_batch", self.run_id, metrics=[Metric(t, float(values[name]), at, step) for t, name in names.items()])
        self.tags({f"{REAL}{tracked}": name for tracked, name in names.items() if tracked != name})

    def tags(self, values: dict[str, str]) -> None:
        """Texts that are too long are cut: what is whole is in the run folder."""
        for key, value in values.items():
            self.call("set_tag", self.run_id, key, tracked_text(value, MAX_TAG))

    def text(self, text: str, file: str) -> None:
        self.call("log_text", self.run_id, text, file)

    def artifacts(self, path: Path, into: str | None = None) -> None:
        if path.is_dir():
            self.call("log_artifacts", self.run_id, str(path), into)
        else:
            self.call("log_artifact", self.run_id, str(path), into)

    def segment(self, number: int, segment: Segment, plan: Path) -> None:
        """Where a stretch of training runs and why, with its plan."""
        known = {"place": segment.place, "device": segment.device, "reason": segment.reason, "shrinks": segment.shrinks}
        self.tags({f"segment.{number}.{key}": str(value)[:500] for key, value in known.items()})
        self.text(plan.read_text(), f"plans/{number}.json")

    def begin(self) -> None:
        """Running, whatever ended it before."""
        run = self.call("get_run", self.run_id)
        self.was_finished = run.info.status == "FINISHED"
        for tag in _END_TAGS & set(run.data.tags):
            self.call("delete_tag", self.run_id, tag)
        self.call("update_run", self.run_id, "RUNNING")

    def end(self, status: str) -> None:
        self.call("set_terminated", self.run_id, status)


@contextmanager
def tracked(folder: RunFolder) -> Iterator[Tracker]:
    """A tracker whose run ends as the block does: FINISHED, KILLED when interrupted or cancelled, FAILED on any other error.

    A finished run that is resumed and refused stays FINISHED.

    Raises DiskFull for whatever found no room in the store or in the run folder.
    """
    with explaining_full_disk(hgt_home()):
        tracker = _opened(folder)
        try:
            yield tracker
        except _CANCELLED as error:
            _end_badly(tracker, "KILLED", {"ended_by": type(error).__name__})
            raise
        except BaseException as error:
            if isinstance(error, InputError) and tracker.was_finished:  # a refused resume, which changed nothing
                _end_badly(tracker, "FINISHED", {})
            else:
                _end_badly(tracker, "FAILED", {"error": f"{type(error).__name__}: {error}"[:5000]})
            raise
        tracker.end("FINISHED")


def _opened(folder: RunFolder) -> Tracker:
    """Raises HgtError for a store that cannot be used."""
    try:
        tracker = Tracker(folder)
        tracker.begin()
    except Exception as error:
        if isinstance(error, HgtError) or is_disk_full(error):
            raise
        said = " ".join(str(error).split())[:200]
        raise HgtError(
            f"MLflow's store {store_uri()} cannot be used ({type(error).__name__}: {said}). Mend it, or move it away for a new one."
        ) from error
    return tracker


def _end_badly(tracker: Tracker, status: str, tags: dict[str, str]) -> None:
    """A store that cannot be written (its disk is full, its server is gone) must not hide what ended the run."""
    try:
        tracker.tags(tags)
        tracker.end(status)
    except Exception as error:  # noqa: BLE001 - told, and the first error goes on
        said = " ".join(str(error).split())[:200]
        say(f"WARNING: MLflow's run could not be ended as {status} and counts as running until it is resumed: {said}")
