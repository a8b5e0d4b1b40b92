"""Where runs and MLflow's store lie: `$HGT_HOME`, by default `runs` in the checkout (DESIGN.md 3)."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from hgt.errors import InputError

if TYPE_CHECKING:
    from hgt.run_folder import RunFolder

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def user_path(given: str | Path) -> Path:
    """With ~ as the user's home; a ~name that is nobody's stays as it is, where `Path.expanduser` would raise."""
    return Path(os.path.expanduser(given))  # noqa: PTH111


def hgt_home() -> Path:
    """Raises InputError for a folder that Prefect or MLflow would take for another one: both know their databases by URLs."""
    home = user_path(os.environ.get("HGT_HOME") or Path(__file__).resolve().parents[1] / "runs").resolve()
    if unquote(str(home)) != str(home) or "?" in str(home):
        raise InputError(f"HGT_HOME {home}: no database can be kept below a folder with ? or a percent-encoded name. Give another one.")
    return home


def own_store() -> str:
    """The product's own MLflow store, as a URI."""
    return f"sqlite:///{hgt_home() / 'mlflow.db'}"


def check_store() -> None:
    """What can be said of MLflow's store at once, without MLflow. Raises InputError for one that will never answer."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or own_store()
    if (uri.startswith("file:") or "://" not in uri) and not uri.startswith("databricks") and not os.environ.get("MLFLOW_ALLOW_FILE_STORE"):
        raise InputError(
            f'MLFLOW_TRACKING_URI {uri}: MLflow refuses stores of files ("The filesystem tracking backend is in maintenance mode"). '
            "Give a database, such as sqlite:////path/to/mlflow.db, or a server's address."
        )
    path = Path(unquote(uri.removeprefix("sqlite:///")))
    if not uri.startswith("sqlite:///") or not path.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=0.1)) as database:
            database.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.Error as error:
        if "locked" not in str(error):
            raise InputError(f"MLflow's store {uri} cannot be used ({error}). Mend it, or move it away for a new one.") from error


def run_folder(run_id: str) -> RunFolder:
    from hgt.run_folder import RunFolder  # with torch and pandas: 2 s, which `hgt status` does not wait for

    return RunFolder(hgt_home() / "runs" / run_id)


def config_file(run_id: str) -> Path:
    """As `RunFolder.config`, without its imports."""
    return hgt_home() / "runs" / run_id / "config.json"


def new_run_id() -> str:
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(3)


def check_new_run(name: str) -> None:
    """Raises InputError for a name that is none for a folder and a container, or that another run has."""
    if not _RUN_NAME.fullmatch(name):
        raise InputError(f"{name!r}: cannot name a run. Take letters, digits, dots, dashes and underscores, at most 100.")
    if config_file(name).exists():
        raise InputError(f"{hgt_home() / 'runs' / name}: there is a run of this name already. Give another run_id, or resume it.")


def find_run(name: str) -> str:
    """The run id for what the user gave: an id, or the path of a run folder. Raises InputError when there is none."""
    candidates = [hgt_home() / "runs" / name, user_path(name).absolute()]
    for path in candidates:
        if (path / "config.json").is_file():
            if path.parent.resolve() != (hgt_home() / "runs").resolve():
                raise InputError(f"{path}: lies outside {hgt_home() / 'runs'}. Set HGT_HOME to the folder that holds its `runs`.")
            return path.name
    there = sorted(p.parent.name for p in (hgt_home() / "runs").glob("*/config.json"))
    known = f"the newest are {', '.join(there[-3:])}" if there else "there are none yet"
    raise InputError(f"{name}: no such run in {hgt_home() / 'runs'}; {known}.")
