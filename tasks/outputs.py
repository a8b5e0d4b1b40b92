"""Where a command may write: outside of what the product keeps, and over nothing that it reads."""

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
    """The place of a run's CSV. run: the one that is resumed, which may replace what it wrote
    itself.

    Raises InputError where the CSV or the relations beside it may not be written.
    """
    reads = [*_kept_files(), *(_inputs(user_path(kg)) if kg is not None else [])]
    record = hgt_home() / "runs" / run / "outputs.json" if run else None
    return claim_csv(user_path(given), reads, overwrite, record)[0]


def claim_file(given: Path, overwrite: bool) -> Path:
    """The place of a file that a command makes from nothing. Raises InputError as
    `claim_embeddings_csv` does.
    """
    return claim_output(given, _kept_files(), overwrite)


def refuse_used_run_folder(run: str) -> None:
    """Raises InputError where a new run's folder would be somebody's file or holds somebody's
    files.

    A folder without a configuration is what a run leaves that was ended while it read its graph.
    """
    folder = hgt_home() / "runs" / run
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise InputError(
            f"{folder}: is no folder, so no run can be kept there. Give another run_id."
        )
    others = sorted({p.name for p in folder.iterdir()} - _BEFORE_A_RUN)
    if others:
        raise InputError(
            f"{folder}: holds files of another kind ({', '.join(others[:3])}). Give another run_id."
        )


_BEFORE_A_RUN = {"graph", "split.safetensors", "split.safetensors.new", "lock", "mlflow_run_id"}


def _kept_files() -> list[Path]:
    """Files and folders that the product, Prefect and MLflow keep."""
    kept = [hgt_home() / name for name in (*_STORES, *_FOLDERS)]
    if home := os.environ.get("PREFECT_HOME"):
        kept.append(Path(home))
    store = os.environ.get("MLFLOW_TRACKING_URI", "")
    return [*kept, Path(store.removeprefix(_SQLITE))] if store.startswith(_SQLITE) else kept


def _inputs(kg: Path) -> list[Path]:
    """The file or folder that is read, the files of which it consists, and the other half of a
    graph in two files.
    """
    # with pyarrow, which a command without a graph does not need
    from hgt.reading.edge_files import EdgeFiles

    halves = (("edges", "nodes"), ("nodes", "edges"))
    named = [kg, *(kg.with_name(kg.name.replace(*pair)) for pair in halves if pair[0] in kg.name)]
    try:
        return [*named, *EdgeFiles.open(kg).paths]
    except InputError:  # told when it is read
        return named
