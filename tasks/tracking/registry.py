"""Task `register`: registers an accepted run as a version in MLflow's model registry.

Each graph has one registered model. Its best version has the alias `champion`, so that a champion
is only compared with versions of the same facts.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from prefect import task
from prefect.cache_policies import NO_CACHE

from hgt.embeddings.table import Embeddings
from hgt.evaluation.model_card import model_card
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.run.checkpoint import best_checkpoint
from hgt.run.folder import RunFolder
from hgt.run.identity import Identity
from hgt.run.report import read_report
from tasks.home import hgt_home
from tasks.led_run import LedRun
from tasks.reporting import say
from tasks.tracking.mlflow_run import MlflowRun
from tasks.tracking.model_files import saved_model
from tasks.tracking.score import Score
from tasks.tracking.tracked_name import tracked_text

if TYPE_CHECKING:
    from tasks.tracking.tracker import Tracker

CHAMPION, CANDIDATE = "champion", "candidate"
_MAX_DESCRIPTION = 5000  # characters of a version's description in MLflow's database


def model_name(graph_hash: str) -> str:
    """The registered model of a graph."""
    return f"hgt-embeddings-{graph_hash[:12]}"


@dataclass(frozen=True)
class Registered:
    """A registered version.

    name: of the registered model
    version: number of the version
    alias: champion or candidate
    reason: why it has this alias, in words
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
            "ACCEPTED: MLflow's registry does not answer. The run will be registered and compared"
            " with the champion when it answers."
        )
    else:
        say(
            f"ACCEPTED: registered as {made.name}, version {made.version}, {made.alias}"
            f" ({made.reason})"
        )


@task(name="withdraw", cache_policy=NO_CACHE)
def withdraw(run: LedRun, tracker: Tracker) -> None:
    """Remove the alias of rejected embeddings, which other thresholds may have accepted before."""
    for alias in tracker.decide("withdraw", _digest(run.folder.embeddings)) or ():
        say(f"The registered version of these embeddings lost the alias {alias}")


def decide(
    kind: str, folder: RunFolder, tracker: MlflowRun, digest: str
) -> Registered | list[str] | None:
    """Register or withdraw the embeddings when MLflow answers.

    kind: "register" or "withdraw"
    folder: the run folder
    tracker: the MLflow run
    digest: of the embeddings at the time of the decision

    Returns None when the run has other embeddings by now.
    """
    if _digest(folder.embeddings) != digest:
        return None
    return register_run(folder, tracker) if kind == "register" else withdraw_run(folder, tracker)


def withdraw_run(folder: RunFolder, tracker: MlflowRun) -> list[str]:
    """Remove and return the aliases of these embeddings."""
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
    """Register the run's embeddings as a version, unless the run registered them before.

    The version becomes `champion` if it is the first of its graph or better than the current one.
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
        with saved_model(folder, graph) as model:
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
            # it was a candidate before the resume
            tracker.call("delete_registered_model_alias", name, CANDIDATE)
    tracker.tags(
        {"registered_model": name, "registered_version": number, "registered_alias": alias}
    )
    return Registered(name, number, alias, reason)


def _check_identity(folder: RunFolder, identity: Identity, report: dict[str, Any]) -> None:
    """Raises InputError unless all files come from one graph, split and configuration."""
    identity.check(report, folder.report / "validation.json")
    identity.check(vars(best_checkpoint(folder.checkpoints)), folder.checkpoints)
    embeddings = folder.embeddings / "embeddings.parquet"
    identity.check(Embeddings.load(embeddings).origin, embeddings)


def _create_registered_model(tracker: MlflowRun, name: str, graph: KnowledgeGraph) -> None:
    """Create the registered model, unless it exists."""
    about = f"{graph.total_nodes:,} nodes, {graph.total_facts:,} facts, SHA-256 {graph.hash}"
    try:
        tracker.call("create_registered_model", name, description=about)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


@contextlib.contextmanager
def _deciding() -> Iterator[None]:
    """Let one run of this HGT_HOME decide at a time.

    Otherwise, of two runs that beat the old champion, the worse one could become champion.
    """
    with (hgt_home() / "registry.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released when the process ends, for whatever reason
        yield


def _alias(tracker: MlflowRun, name: str, number: str, score: Score) -> tuple[str, str]:
    """The alias of a version, and the reason."""
    present = tracker.call("get_registered_model", name).aliases.get(CHAMPION)
    if present is None:
        return CHAMPION, "first version of its graph"
    if str(present) == number:
        return CHAMPION, "unchanged"
    better, reason = score.against(
        Score.from_tags(tracker.call("get_model_version", name, str(present)).tags), str(present)
    )
    return (CHAMPION if better else CANDIDATE), reason


def _version_of(tracker: MlflowRun, name: str, digest: str) -> ModelVersion | None:
    """The version with exactly these embeddings of this run; None when there is none."""
    versions = tracker.call(
        "search_model_versions", f"name = '{name}' and run_id = '{tracker.run_id}'"
    )
    return next((v for v in versions if v.tags.get("embeddings_sha256") == digest), None)


def _comparison(folder: RunFolder) -> dict[str, Any] | None:
    file = folder.report / "baselines.json"
    return json.loads(file.read_text()) if file.is_file() else None


def _digest(folder: Path) -> str:
    """SHA-256 of the vectors only. The files also contain parameters that a resume may change."""
    digest = hashlib.sha256()
    with safetensors.safe_open(folder / "embeddings.safetensors", "np") as file:
        for name in sorted(file.keys()):
            digest.update(np.ascontiguousarray(file.get_tensor(name)))
    return digest.hexdigest()
