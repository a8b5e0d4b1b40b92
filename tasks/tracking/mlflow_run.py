"""One MLflow run, written and read directly.

The store is the product's own SQLite file unless MLFLOW_TRACKING_URI names another. Every call
raises the errors of the store; delivery.py handles them.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_RUN_NAME

from hgt.input_file import check_file
from hgt.run.folder import RunFolder
from tasks.home import hgt_home, store_uri
from tasks.tracking.store_errors import check_sqlite
from tasks.tracking.tracked_name import MAX_PARAMETER, MAX_TAG, REAL, tracked_name, tracked_text

EXPERIMENT = "hgt-embeddings"
_END_TAGS = {"ended_by", "error"}
MARK = "hgt.mark"  # a tag: finds a run whose creation got no answer
_MAX_DIGEST = 36  # MLflow's limit for a dataset's digest; the whole hash is a tag
_MAX_POINTS = 1_000  # MLflow's, of one call
_NO_SUCH_RUN = (ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE))
# MLflow 3.17.2 prints the traceback of errors that it raises
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # each retry is a warning
os.environ.setdefault(
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"
)  # would break the flow's output
# 7 retries take four minutes; delivery.py repeats the request itself
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


class MlflowRun:
    """The MLflow run of a run folder: the one whose id the folder has, or a new one.

    is_new: whether this object created it
    was_finished: whether it was FINISHED before `begin`
    """

    def __init__(
        self, folder: RunFolder, tags: dict[str, str] | None = None, may_be_there: bool = False,
        tell: Callable[[str], None] = lambda sentence: None,
    ):  # fmt: skip
        """Find or create the MLflow run.

        folder: the run folder
        tags: of a new MLflow run
        may_be_there: whether an earlier creation with the same mark got no answer
        tell: receives messages for the user
        """
        check_sqlite(store_uri())
        hgt_home().mkdir(parents=True, exist_ok=True)
        self._client, self._tell = mlflow.MlflowClient(store_uri()), tell
        self._id_file = folder.path / "mlflow_run_id"
        self._tags = {
            MLFLOW_RUN_NAME: folder.path.name,
            "hgt.run": folder.path.name,
            **(tags or {}),
        }
        self.was_finished = False
        known = self._id_before()
        self.is_new = not (known and self._holds(known))
        self.run_id = self._create(may_be_there) if self.is_new else known
        if known and self.is_new:
            tell(
                f"WARNING: MLflow's store {store_uri()} has no run {known} (any more). This run"
                f" continues in a new one, {self.run_id}."
            )
            self.remember()
        elif known:
            self._warn_of_another_home()
        self._epochs = {int(m.step) for m in self.call("get_metric_history", self.run_id, "loss")}

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of MLflow's client."""
        return getattr(self._client, method)(*arguments, **options)

    def _holds(self, run_id: str) -> bool:
        """Whether the store has the run, and it is not deleted. A deleted run is read-only."""
        try:
            return str(self.call("get_run", run_id).info.lifecycle_stage) == LifecycleStage.ACTIVE
        except MlflowException as error:
            if error.error_code not in _NO_SUCH_RUN:
                raise
            return False

    def _warn_of_another_home(self) -> None:
        """Warn if HGT_HOME moved: MLflow keeps the artifact folder of a run for ever."""
        ours = (hgt_home() / "mlartifacts").as_uri()
        if not os.environ.get("MLFLOW_TRACKING_URI") and not self.artifact_uri.startswith(
            f"{ours}/"
        ):
            self._tell(
                "WARNING: HGT_HOME was copied or moved. MLflow still writes this run's"
                f" artifacts to {self.artifact_uri}, not to {ours}."
            )

    def _create(self, may_be_there: bool) -> str:
        experiment = self._experiment()
        if may_be_there and (mark := self._tags.get(MARK)):
            made = self.call("search_runs", [experiment], f"tags.`{MARK}` = '{mark}'")
            if made:
                return str(made[0].info.run_id)
        return str(self.call("create_run", experiment, tags=self._tags).info.run_id)

    def _experiment(self) -> str:
        found = self.call("get_experiment_by_name", EXPERIMENT)
        if found is not None:
            if found.lifecycle_stage != LifecycleStage.ACTIVE:
                self.call("restore_experiment", found.experiment_id)
                self._tell(
                    f"WARNING: MLflow's experiment {EXPERIMENT} was deleted. It is restored,"
                    " because new runs belong to it."
                )
            return str(found.experiment_id)
        own_store = not os.environ.get("MLFLOW_TRACKING_URI")
        location = (hgt_home() / "mlartifacts").as_uri() if own_store else None
        return str(self.call("create_experiment", EXPERIMENT, artifact_location=location))

    def _data(self) -> Run:
        return self.call("get_run", self.run_id)  # type: ignore[no-any-return]

    @property
    def artifact_uri(self) -> str:
        """The URI of the run's artifacts."""
        return str(self._data().info.artifact_uri)

    @property
    def status(self) -> str:
        return str(self._data().info.status)

    def _id_before(self) -> str:
        """The id in the run folder; empty for a run without an MLflow run."""
        if not self._id_file.exists():
            return ""
        check_file(self._id_file, "Remove it: the run continues in a new MLflow run.")
        return self._id_file.read_text(errors="replace").strip()

    def remember(self) -> None:
        """Write the MLflow run's id into the run folder, where a resumed run finds it."""
        self._id_file.write_text(self.run_id + "\n")

    def begin(self) -> None:
        """Set the status to RUNNING and remove the tags of an earlier end."""
        run = self._data()
        self.was_finished = run.info.status == "FINISHED"
        for tag in _END_TAGS & set(run.data.tags):
            self.call("delete_tag", self.run_id, tag)
        self.call("update_run", self.run_id, "RUNNING")

    def end(
        self, status: str, tags: dict[str, str] | None = None, was_refused: bool = False
    ) -> None:
        """End the MLflow run.

        status: FINISHED, FAILED or KILLED
        tags: to set
        was_refused: a run that was FINISHED before `begin` stays so
        """
        if was_refused and self.was_finished:
            status, tags = "FINISHED", {}
        self.tags(tags or {})
        self.call("set_terminated", self.run_id, status)

    def parameters(self, values: dict[str, str]) -> None:
        """Log the parameters that are not logged yet. MLflow cannot change a parameter."""
        known = self._data().data.params
        new = [
            Param(k, tracked_text(text, MAX_PARAMETER))
            for k, text in values.items()
            if k not in known
        ]
        self.call("log_batch", self.run_id, params=new)

    def dataset(self, name: str, digest: str, source: str, profile: dict[str, Any]) -> None:
        """Log the run's input.

        name: of the data set
        digest: hash of the graph
        source: URI of the file
        profile: counts of nodes, facts and dropped rows
        """
        uri = json.dumps({"uri": source})
        entity = Dataset(
            tracked_text(name, MAX_PARAMETER),
            digest[:_MAX_DIGEST],
            "local",
            uri,
            profile=json.dumps(profile),
        )
        self.call(
            "log_inputs",
            self.run_id,
            [DatasetInput(entity, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])],
        )

    def epoch(
        self, number: int, values: dict[str, float], milliseconds: int, is_doubtful: bool = False
    ) -> None:
        """Log the figures of an epoch once.

        number: of the epoch
        values: {figure: value}
        milliseconds: time of the epoch
        is_doubtful: whether an earlier attempt may have logged it
        """
        if number in self._epochs and not is_doubtful:
            return
        there = {
            name
            for name in values
            if is_doubtful and any(int(m.step) == number for m in self._history(tracked_name(name)))
        }
        self.metrics(
            {name: value for name, value in values.items() if name not in there},
            milliseconds,
            number,
        )
        self._epochs.add(number)

    def metrics(self, values: dict[str, float], milliseconds: int, step: int = 0) -> None:
        """Log figures.

        A name that MLflow refuses is cleaned; the tag `name.<cleaned>` has the real name. A value
        that MLflow has already (from an attempt without an answer, or from before a resume) is not
        logged again.
        """
        names = {tracked_name(name): name for name in values}
        there = self._data().data.metrics if step == 0 else {}
        points = [
            Metric(tracked, float(values[name]), milliseconds, step)
            for tracked, name in names.items()
            if not _is_same(there.get(tracked), float(values[name]))
        ]
        for start in range(0, len(points), _MAX_POINTS):
            self.call("log_batch", self.run_id, metrics=points[start : start + _MAX_POINTS])
        self.tags({f"{REAL}{tracked}": name for tracked, name in names.items() if tracked != name})

    def _history(self, name: str) -> list[Metric]:
        return list(self.call("get_metric_history", self.run_id, name))

    def tags(self, values: dict[str, str]) -> None:
        """Set tags. Long values are cut; the run folder has the whole text."""
        for key, value in values.items():
            self.call("set_tag", self.run_id, key, tracked_text(value, MAX_TAG))

    def text(self, text: str, file: str) -> None:
        self.call("log_text", self.run_id, text, file)

    def artifacts(self, path: Path, into: str | None = None) -> None:
        if path.is_dir():
            self.call("log_artifacts", self.run_id, str(path), into)
        else:
            self.call("log_artifact", self.run_id, str(path), into)


def _is_same(known: float | None, value: float) -> bool:
    return known is not None and (known == value or (math.isnan(known) and math.isnan(value)))
