"""Checks of the output paths of a command.

A command writes neither over the product's own files nor over its inputs.
"""

from __future__ import annotations

import os
from pathlib import Path

from hgt.errors import InputError
from hgt.output_file import claim_csv, claim_output
from tasks.home import hgt_home, user_path

_STORES = ("mlflow.db", "mlflow.db-wal", "mlflow.db-shm", "mlflow.db-journal", "registry.lock")
_FOLDERS = ("runs", "prefect", "services", "mlartifacts")
_SQLITE = "sqlite:///"


def claim_embeddings_csv(
    given: str | Path, kg: str | Path | None, run: str | None, overwrite: bool
) -> Path:
    """The path of a run's CSV, after all checks.

    given: the path that the user gave
    kg: the graph file of a new run
    run: the id of a resumed run, which may replace the CSV that it wrote before
    overwrite: whether another existing file may be replaced

    Raises InputError when the CSV or the relations file beside it may not be written.
    """
    reads = [*_kept_files(), *(_inputs(user_path(kg)) if kg is not None else [])]
    record = hgt_home() / "runs" / run / "outputs.json" if run else None
    return claim_csv(user_path(given), reads, overwrite, record)[0]


def claim_file(given: Path, overwrite: bool) -> Path:
    """The path of a new file that reads no input. Raises InputError like `claim_embeddings_csv`."""
    return claim_output(given, _kept_files(), overwrite)


def refuse_used_run_folder(run: str) -> None:
    """Raises InputError when a new run's folder is a file or contains foreign files.

    A folder without a configuration is allowed: a run that was stopped while it read its graph
    leaves one.
    """
    folder = hgt_home() / "runs" / run
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder, so it cannot store a run. Give another run_id.")
    others = sorted({p.name for p in folder.iterdir()} - _BEFORE_A_RUN)
    if others:
        raise InputError(
            f"{folder}: contains files of no run ({', '.join(others[:3])}). Give another run_id."
        )


_BEFORE_A_RUN = {"graph", "split.safetensors", "split.safetensors.new", "lock", "mlflow_run_id"}


def _kept_files() -> list[Path]:
    """Files and folders of the product, Prefect and MLflow."""
    kept = [hgt_home() / name for name in (*_STORES, *_FOLDERS)]
    if home := os.environ.get("PREFECT_HOME"):
        kept.append(Path(home))
    store = os.environ.get("MLFLOW_TRACKING_URI", "")
    return [*kept, Path(store.removeprefix(_SQLITE))] if store.startswith(_SQLITE) else kept


def _inputs(kg: Path) -> list[Path]:
    """The input path, its part files, and the other file of a graph in two files."""
    # imports pyarrow, which a command without a graph does not need
    from hgt.reading.edge_files import EdgeFiles

    halves = (("edges", "nodes"), ("nodes", "edges"))
    named = [kg, *(kg.with_name(kg.name.replace(*pair)) for pair in halves if pair[0] in kg.name)]
    try:
        return [*named, *EdgeFiles.open(kg).paths]
    except InputError:  # the reader reports it
        return named
