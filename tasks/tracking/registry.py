"""Task `register`: every accepted run becomes a version in MLflow's model registry; the best of
them is the `champion`.

One registered model per graph, so that `champion` is asked for what was learned from the same
facts. MLflow's second room in the product, beside `tracking.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow.pyfunc
import numpy as np
import safetensors.torch
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType
from prefect import task
from prefect.cache_policies import NO_CACHE

import hgt
from hgt.config import RunConfig
from hgt.embeddings.table import Embeddings
from hgt.evaluation.model_card import model_card
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.run.checkpoint import best_checkpoint, state_of
from hgt.run.folder import RunFolder
from hgt.run.identity import Identity
from hgt.run.report import read_report
from tasks.home import hgt_home
from tasks.led_run import LedRun
from tasks.reporting import say
from tasks.tracking.mlflow_run import MlflowRun
from tasks.tracking.tracked_name import MAX_TAG, tracked_text

if TYPE_CHECKING:
    from tasks.tracking.tracker import Tracker

CHAMPION, CANDIDATE = "champion", "candidate"
_NEEDS = ("jaxtyping", "mlflow", "numpy", "pandas", "pyarrow", "safetensors", "scipy", "torch")
_SERVED_MODEL = Path(__file__).with_name("served_model.py")
_MAX_DESCRIPTION = 5000  # of a version, in MLflow's database
_SIGNATURE = ModelSignature(
    # any: a column of integer ids is none of strings, and MLflow would refuse it
    Schema(
        [
            ColSpec(AnyType(), "head"),
            ColSpec("string", "relation"),
            ColSpec("string", "head_type", required=False),
        ]
    ),
    None,
    ParamSchema([ParamSpec("k", "long", 10), ParamSpec("include_known", "boolean", False)]),
)


@dataclass(frozen=True)
class Score:
    """What versions of one graph are compared by. held_out: how the split was made; versions with
    another one are not comparable.

    The seed of the split is no part of it: facts that are drawn alike are alike hard on average.
    """

    mrr: float | None
    held_out: str

    @classmethod
    def of(cls, config: RunConfig, report: dict[str, Any]) -> Score:
        """The filtered MRR of the test facts among nodes of the right type."""
        s, ranking = config.split, report["ranking"]
        held_out = json.dumps(
            [s.split, s.val_fraction, s.test_fraction, *sorted(s.holdout_relations)]
        )
        if len(held_out) > MAX_TAG:  # no tag takes it; versions are only compared by it
            held_out = hashlib.sha256(held_out.encode()).hexdigest()
        return cls(ranking["typed"]["mrr"] if ranking else None, held_out)

    @classmethod
    def from_tags(cls, tags: dict[str, str]) -> Score:
        return cls(
            float(tags["typed_mrr"]) if tags.get("typed_mrr") else None, tags.get("held_out", "")
        )

    def as_tags(self) -> dict[str, str]:
        return {"typed_mrr": "" if self.mrr is None else repr(self.mrr), "held_out": self.held_out}

    def against(self, champion: Score, version: str) -> tuple[bool, str]:
        """Whether it beats the champion, and the reason in words."""
        if self.held_out != champion.held_out:
            return (
                False,
                (
                    f"version {version}, the champion, was measured on another kind of split"
                    f" ({champion.held_out})"
                ),
            )
        if self.mrr is None or champion.mrr is None:
            return (
                False,
                (
                    f"it cannot be compared with version {version}, the champion: one of them"
                    " ranked no facts"
                ),
            )
        sign = ">" if self.mrr > champion.mrr else "<" if self.mrr < champion.mrr else "="
        return (
            self.mrr > champion.mrr,
            (
                f"typed MRR {self.mrr:.4f} {sign} {champion.mrr:.4f} of version {version}, the"
                " champion until now"
            ),
        )


def model_name(graph_hash: str) -> str:
    """The registered model of a graph."""
    return f"hgt-embeddings-{graph_hash[:12]}"


@dataclass(frozen=True)
class Registered:
    """A version of the registered model `name`; alias: champion or candidate; reason: why, in
    words
    """

    name: str
    version: str
    alias: str
    reason: str


@task(name="register", cache_policy=NO_CACHE)
def register(run: LedRun, tracker: Tracker) -> None:
    """Register an accepted run."""
    made = tracker.decide("register", _digest(run.folder.embeddings))
    if made is None:
        say(
            "ACCEPTED: MLflow's registry does not answer: the run is registered, and compared with"
            " the champion, once it does"
        )
    else:
        say(
            f"ACCEPTED: registered as {made.name}, version {made.version}, {made.alias}"
            f" ({made.reason})"
        )


@task(name="withdraw", cache_policy=NO_CACHE)
def withdraw(run: LedRun, tracker: Tracker) -> None:
    """A rejected run's embeddings lose the alias that they had when they were accepted, by other
    thresholds.
    """
    for alias in tracker.decide("withdraw", _digest(run.folder.embeddings)) or ():
        say(f"The registered version of these embeddings is {alias} no longer")


def decide(
    kind: str, folder: RunFolder, tracker: MlflowRun, digest: str
) -> Registered | list[str] | None:
    """Now that MLflow answers: "register" or "withdraw" the embeddings of this digest. None for
    what was trained on since.
    """
    if _digest(folder.embeddings) != digest:
        return None
    return register_run(folder, tracker) if kind == "register" else withdraw_run(folder, tracker)


def withdraw_run(folder: RunFolder, tracker: MlflowRun) -> list[str]:
    """The aliases that these embeddings had, and have no more."""
    name = model_name(folder.load_graph().hash)
    registered = _version_of(tracker, name, _digest(folder.embeddings))
    if registered is None:
        return []
    with _deciding():
        given = tracker.call("get_registered_model", name).aliases
        lost = [alias for alias, number in given.items() if str(number) == str(registered.version)]
        for alias in lost:
            tracker.call("delete_registered_model_alias", name, alias)
    tracker.tags({"registered_alias": "none"})
    return lost


def register_run(folder: RunFolder, tracker: MlflowRun) -> Registered:
    """A version of the run's embeddings; `champion` goes to it if it is its graph's first, or
    better than the present one.

    Embeddings that the run has registered before are not registered again.
    """
    config, graph, report = (
        folder.load_config(),
        folder.load_graph(),
        read_report(folder.report / "validation.json"),
    )
    _check_identity(
        folder, Identity.of(graph, folder.load_split(graph, config.split), config), report
    )
    name, score = model_name(graph.hash), Score.of(config, report)
    _create_registered_model(tracker, name, graph)
    digest = _digest(folder.embeddings)
    registered = _version_of(tracker, name, digest)
    if registered is None:
        card = model_card(folder.path.name, config, graph, report, _comparison(folder))
        (folder.report / "model_card.md").write_text(card)
        tracker.artifacts(folder.report / "model_card.md", "report")
        # a resumed run's earlier version, perhaps the champion, keeps its own files
        place = f"model-{digest[:12]}"
        with _saved_model(folder, graph) as model:
            tracker.artifacts(model, place)
        tags = {
            "run": folder.path.name,
            "graph_hash": graph.hash,
            "embeddings_sha256": digest,
            **score.as_tags(),
        }
        source, description = (
            f"{tracker.artifact_uri}/{place}",
            tracked_text(card, _MAX_DESCRIPTION),
        )
        registered = tracker.call(
            "create_model_version", name, source, tracker.run_id, tags=tags, description=description
        )
    number = str(registered.version)
    with _deciding():
        alias, reason = _alias(tracker, name, number, score)
        tracker.call("set_registered_model_alias", name, alias, number)
        if (
            alias == CHAMPION
            and str(tracker.call("get_registered_model", name).aliases.get(CANDIDATE)) == number
        ):
            # it was one before it was resumed
            tracker.call("delete_registered_model_alias", name, CANDIDATE)
    tracker.tags(
        {"registered_model": name, "registered_version": number, "registered_alias": alias}
    )
    return Registered(name, number, alias, reason)


def _check_identity(folder: RunFolder, identity: Identity, report: dict[str, Any]) -> None:
    """What is registered together was made of one graph, split and configuration. Raises
    InputError.
    """
    identity.check(report, folder.report / "validation.json")
    identity.check(vars(best_checkpoint(folder.checkpoints)), folder.checkpoints)
    embeddings = folder.embeddings / "embeddings.parquet"
    identity.check(Embeddings.load(embeddings).origin, embeddings)


def _create_registered_model(tracker: MlflowRun, name: str, graph: KnowledgeGraph) -> None:
    """Unless it is there."""
    about = f"{graph.total_nodes:,} nodes, {graph.total_facts:,} facts, SHA-256 {graph.hash}"
    try:
        tracker.call("create_registered_model", name, description=about)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


@contextlib.contextmanager
def _deciding() -> Iterator[None]:
    """One run of this HGT_HOME at a time: of two that both beat the old champion the worse might
    have the last word.
    """
    with (hgt_home() / "registry.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # goes with the process, however that ends
        yield


def _alias(tracker: MlflowRun, name: str, number: str, score: Score) -> tuple[str, str]:
    """Of a version, and why."""
    present = tracker.call("get_registered_model", name).aliases.get(CHAMPION)
    if present is None:
        return CHAMPION, "its graph had none"
    if str(present) == number:
        return CHAMPION, "as before"
    better, reason = score.against(
        Score.from_tags(tracker.call("get_model_version", name, str(present)).tags), str(present)
    )
    return (CHAMPION if better else CANDIDATE), reason


def _version_of(tracker: MlflowRun, name: str, digest: str) -> ModelVersion | None:
    """The version that holds these very embeddings of this run: a run that is resumed after its end
    is not registered twice.
    """
    versions = tracker.call(
        "search_model_versions", f"name = '{name}' and run_id = '{tracker.run_id}'"
    )
    return next((v for v in versions if v.tags.get("embeddings_sha256") == digest), None)


@contextlib.contextmanager
def _saved_model(folder: RunFolder, graph: KnowledgeGraph) -> Iterator[Path]:
    """A folder that MLflow loads, as long as the block lasts: `tasks/tracking/served_model.py`,
    `hgt`, and the run's files.
    """
    work = folder.path / ".model"
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed here
    work.mkdir()
    try:
        weights, model = work / "weights.safetensors", work / "model"
        safetensors.torch.save_file(
            state_of("model", best_checkpoint(folder.checkpoints).tensors), weights
        )
        files = {
            "embeddings": folder.embeddings / "embeddings.parquet",
            "relations": folder.embeddings / "relations.parquet",
            "graph": folder.graph,
            "weights": weights,
            "configuration": folder.config,
            "validation": folder.report / "validation.json",
            "model_card": folder.report / "model_card.md",
        }
        # it advises an example of the input, whose answer it would compute
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            mlflow.pyfunc.save_model(
                str(model),
                python_model=str(_SERVED_MODEL),
                # a plain path is read as one, # and all
                artifacts={name: file.as_uri() for name, file in files.items()},
                code_paths=[str(Path(hgt.__file__).parent)],
                pip_requirements=[
                    f"{package}=={version(package).split('+')[0]}" for package in _NEEDS
                ],
                signature=_SIGNATURE,
                metadata={"graph_hash": graph.hash, "run": folder.path.name},
            )
        yield model
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _comparison(folder: RunFolder) -> dict[str, Any] | None:
    file = folder.report / "baselines.json"
    return json.loads(file.read_text()) if file.is_file() else None


def _digest(folder: Path) -> str:
    """SHA-256 of the vectors alone: parameters that a resumed run may change without changing these
    stand in the same files.
    """
    digest = hashlib.sha256()
    with safetensors.safe_open(folder / "embeddings.safetensors", "np") as file:
        for name in sorted(file.keys()):
            digest.update(np.ascontiguousarray(file.get_tensor(name)))
    return digest.hexdigest()
