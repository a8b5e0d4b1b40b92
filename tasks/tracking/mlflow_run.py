"""One MLflow run, written and read directly. The product's own SQLite store unless
MLFLOW_TRACKING_URI names another.

`tracking.py` decides when; what is here fails where the store does.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_RUN_NAME
from sqlalchemy.engine import make_url

from hgt.errors import is_disk_full
from hgt.input_file import check_file
from hgt.run.folder import RunFolder
from tasks.home import hgt_home, store_uri
from tasks.tracking.tracked_name import MAX_PARAMETER, MAX_TAG, REAL, tracked_name, tracked_text

EXPERIMENT = "hgt-embeddings"
_END_TAGS = {"ended_by", "error"}
MARK = "hgt.mark"  # a tag: which beginning made the run, where the answer was lost
_MAX_DIGEST = 36  # MLflow's limit for a dataset's digest; the whole hash is a tag
_MAX_POINTS = 1_000  # MLflow's, of one call
_LOCKED_SECONDS = 1.0
_NO_SUCH_RUN = (ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE))
_PASSING_CODES = (
    "TEMPORARILY_UNAVAILABLE",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_ALREADY_EXISTS",
    "DEADLINE_EXCEEDED",
)
_PASSING_WORDS = (
    "failed with exception",
    "failed with timeout exception",
    "locked",
    "already exists",
    "Connection",
)
_KNOWN = re.compile(
    r"database is locked|no such table: \w+|Connection refused|Name or service not known|timed"
    r" out|too many \d+ error responses"
)
# it prints the traceback of what it raises as well (3.17.2)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # each retry is a warning
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # among the flow's lines
# 7 take four minutes, and we ask again ourselves
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


class StoreLocked(Exception):
    """Another program holds the SQLite store."""


def is_passing(error: Exception) -> bool:
    """Whether it may go by itself: a server that does not answer, a database that is locked or has
    no room.
    """
    if isinstance(error, StoreLocked | ConnectionError | TimeoutError) or is_disk_full(error):
        return True
    if store_uri().startswith("sqlite"):  # MLflow calls everything that SQLite says temporary
        return "locked" in str(error) or "already exists" in str(error)
    code = error.error_code if isinstance(error, MlflowException) else ""
    return code in _PASSING_CODES or any(words in str(error) for words in _PASSING_WORDS)


def in_words(error: Exception) -> str:
    """One line of it; what users meet most is picked out of MLflow's long texts."""
    if said := _KNOWN.search(str(error)):
        return said[0]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class MlflowRun:
    """The run of a run folder: the one that is written there, or a new one.

    is_new: it was made here; was_finished: before `begin`; tell: takes sentences for people.
    """

    def __init__(
        self, folder: RunFolder, tags: dict[str, str] | None = None, may_be_there: bool = False,
        tell: Callable[[str], None] = lambda sentence: None,
    ):  # fmt: skip
        """tags: of a new one; may_be_there: with its mark among them, since the answer to its
        making was lost.
        """
        _check_sqlite(store_uri())
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
                f"WARNING: MLflow's store {store_uri()} has no run {known} (any more): this run"
                f" goes on in a new one, {self.run_id}."
            )
            self.remember()
        elif known:
            self._warn_of_another_home()
        self._epochs = {int(m.step) for m in self.call("get_metric_history", self.run_id, "loss")}

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """A call of MLflow's client."""
        return getattr(self._client, method)(*arguments, **options)

    def _holds(self, run_id: str) -> bool:
        """Not one that was deleted: MLflow keeps it, and lets nobody write to it."""
        try:
            return str(self.call("get_run", run_id).info.lifecycle_stage) == LifecycleStage.ACTIVE
        except MlflowException as error:
            if error.error_code not in _NO_SUCH_RUN:
                raise
            return False

    def _warn_of_another_home(self) -> None:
        """MLflow keeps the place of a run's artifacts as it was when the run began."""
        ours = (hgt_home() / "mlartifacts").as_uri()
        if not os.environ.get("MLFLOW_TRACKING_URI") and not self.artifact_uri.startswith(
            f"{ours}/"
        ):
            self._tell(
                "WARNING: HGT_HOME was copied or moved: MLflow goes on putting this run's"
                f" artifacts into {self.artifact_uri}, not {ours}."
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
                    f"WARNING: MLflow's experiment {EXPERIMENT} had been deleted; it is restored,"
                    " for new runs go there."
                )
            return str(found.experiment_id)
        own_store = not os.environ.get("MLFLOW_TRACKING_URI")
        location = (hgt_home() / "mlartifacts").as_uri() if own_store else None
        return str(self.call("create_experiment", EXPERIMENT, artifact_location=location))

    def _data(self) -> Run:
        return self.call("get_run", self.run_id)  # type: ignore[no-any-return]

    @property
    def artifact_uri(self) -> str:
        """Where the run's artifacts lie, as MLflow names it."""
        return str(self._data().info.artifact_uri)

    @property
    def status(self) -> str:
        return str(self._data().info.status)

    def _id_before(self) -> str:
        """What the run folder remembers; empty for a run that has no MLflow run yet."""
        if not self._id_file.exists():
            return ""
        check_file(self._id_file, "Remove it: the run goes on in a new MLflow run.")
        return self._id_file.read_text(errors="replace").strip()

    def remember(self) -> None:
        """Write the run's id into the run folder, so that a resumed run goes on in it."""
        self._id_file.write_text(self.run_id + "\n")

    def begin(self) -> None:
        """Running, whatever ended it before."""
        run = self._data()
        self.was_finished = run.info.status == "FINISHED"
        for tag in _END_TAGS & set(run.data.tags):
            self.call("delete_tag", self.run_id, tag)
        self.call("update_run", self.run_id, "RUNNING")

    def end(
        self, status: str, tags: dict[str, str] | None = None, was_refused: bool = False
    ) -> None:
        """was_refused: what had finished before stays so."""
        if was_refused and self.was_finished:
            status, tags = "FINISHED", {}
        self.tags(tags or {})
        self.call("set_terminated", self.run_id, status)

    def parameters(self, values: dict[str, str]) -> None:
        """Those that are not there yet: none can be rewritten."""
        known = self._data().data.params
        new = [
            Param(k, tracked_text(text, MAX_PARAMETER))
            for k, text in values.items()
            if k not in known
        ]
        self.call("log_batch", self.run_id, params=new)

    def dataset(self, name: str, digest: str, source: str, profile: dict[str, Any]) -> None:
        """The run's input. source: a URI."""
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
        """One point per epoch and figure, however often the epoch is told."""
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
        """A name that MLflow does not take is cleaned; the tag `name.<cleaned>` holds the real one.

        What MLflow has already, from a try without an answer or from before a resume that changed
        nothing, gets no second point.
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


def _is_same(known: float | None, value: float) -> bool:
    return known is not None and (known == value or (math.isnan(known) and math.isnan(value)))


def _check_sqlite(uri: str) -> None:
    """MLflow asks a file that SQLite cannot open for 100 s (3.17.2). Raises sqlite3.Error, or
    StoreLocked.
    """
    path = Path(make_url(uri).database or "") if uri.startswith("sqlite:") else Path()
    if not path.name or not path.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=_LOCKED_SECONDS)) as database:
            database.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise StoreLocked(f"{path}: {error}") from error
        raise
