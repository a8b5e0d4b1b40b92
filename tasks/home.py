"""The folder of runs and of MLflow's store: `$HGT_HOME`, by default `runs` in the checkout."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sqlite3
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from hgt.errors import InputError

if TYPE_CHECKING:
    from hgt.run.folder import RunFolder

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_OTHER_STORES = ("http", "https", "file", "databricks", "databricks-uc", "uc")
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def user_path(given: str | Path) -> Path:
    """The path with ~ replaced by the user's home folder.

    The ~name of an unknown user stays; `Path.expanduser` would raise.
    """
    return Path(os.path.expanduser(given))  # noqa: PTH111


def hgt_home() -> Path:
    """The absolute path of HGT_HOME.

    Raises InputError when it cannot be a folder, or when a database URL cannot contain its name:
    Prefect and MLflow address their databases by URL.
    """
    home = user_path(
        os.environ.get("HGT_HOME") or Path(__file__).resolve().parents[1] / "runs"
    ).resolve()
    if unquote(str(home)) != str(home) or "?" in str(home):
        raise InputError(
            f"HGT_HOME {home}: its name contains ? or a percent code, which database URLs do not"
            " allow. Give another folder."
        )
    if not _there(home).is_dir():
        raise InputError(
            f"HGT_HOME {home}: is no folder and cannot be created ({_there(home)} is a file)."
            " Give another folder."
        )
    return home


def check_home() -> None:
    """Raises InputError when this user cannot write to HGT_HOME."""
    if not os.access(_there(hgt_home()), os.W_OK | os.X_OK):
        raise InputError(
            f"HGT_HOME {hgt_home()}: this user may not write there. Give another folder, or grant"
            " write access."
        )


def _there(path: Path) -> Path:
    """The path, or the nearest one above it that exists."""
    return next(p for p in (path, *path.parents) if os.path.lexists(p))


def own_store() -> str:
    """The product's own MLflow store, as a URI."""
    return f"sqlite:///{hgt_home() / 'mlflow.db'}"


def store_uri() -> str:
    """MLflow's store: the user's, or the product's own SQLite file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or own_store()


def check_store() -> None:
    """Check MLflow's store without importing MLflow.

    Raises InputError for a store that can never work.
    """
    uri = store_uri()
    if (
        (uri.startswith("file:") or "://" not in uri)
        and not uri.startswith("databricks")
        and not os.environ.get("MLFLOW_ALLOW_FILE_STORE")
    ):
        raise InputError(
            f'MLFLOW_TRACKING_URI {uri}: MLflow refuses file stores ("The filesystem tracking'
            ' backend is in maintenance mode"). Give a database, such as'
            " sqlite:////path/to/mlflow.db, or a server's address."
        )
    if "://" in uri and not _is_known(urlsplit(uri).scheme):
        raise InputError(
            f"MLFLOW_TRACKING_URI {uri}: MLflow does not know this kind of store. Give a server's"
            f" address, such as http://127.0.0.1:5001, or a database ({', '.join(_DATABASES)})."
        )
    path = Path(unquote(uri.removeprefix("sqlite:///")))
    if not uri.startswith("sqlite:///") or not path.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=0.1)) as database:
            database.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.Error as error:
        if "locked" not in str(error):
            raise InputError(
                f"MLflow's store {uri} cannot be used ({error}). Repair it, or move it away: the"
                " next run creates a new one."
            ) from error


def run_folder(run_id: str) -> RunFolder:
    # imports torch and pandas: 2 s that `hgt status` saves
    from hgt.run.folder import RunFolder

    return RunFolder(hgt_home() / "runs" / run_id)


def _is_known(scheme: str) -> bool:
    """Whether MLflow 3.17.2 knows the scheme.

    A database driver follows a +. Other packages may add stores of their own.
    """
    if scheme in _OTHER_STORES or scheme.split("+")[0] in _DATABASES:
        return True
    return any(entry.name == scheme for entry in entry_points(group="mlflow.tracking_store"))


def config_file(run_id: str) -> Path:
    """The path `RunFolder.config`, without its imports."""
    return hgt_home() / "runs" / run_id / "config.json"


def new_run_id() -> str:
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(3)


def check_new_run(name: str) -> None:
    """Raises InputError when the name is invalid for a folder or container, or already used."""
    if not _RUN_NAME.fullmatch(name):
        raise InputError(
            f"{name!r}: is no valid run name. Use at most 100 letters, digits, dots, dashes and"
            " underscores."
        )
    if config_file(name).exists():
        raise InputError(
            f"{hgt_home() / 'runs' / name}: a run with this name exists already. Give another"
            " run_id, or resume that run."
        )


def find_run(name: str) -> str:
    """The id of the run that the user named by its id or by the path of its folder.

    Raises InputError when there is no such run.
    """
    candidates = [hgt_home() / "runs" / name, user_path(name).absolute()]
    for path in candidates:
        # Path.is_file raises for a name that is too long
        if os.path.isfile(path / "config.json"):  # noqa: PTH113
            if path.parent.resolve() != (hgt_home() / "runs").resolve():
                raise InputError(
                    f"{path}: lies outside {hgt_home() / 'runs'}. Set HGT_HOME to the parent folder"
                    " of its `runs`."
                )
            return path.name
    there = sorted(p.parent.name for p in (hgt_home() / "runs").glob("*/config.json"))
    known = f"the newest are {', '.join(there[-3:])}" if there else "there are none yet"
    raise InputError(f"{name}: no such run in {hgt_home() / 'runs'}; {known}.")
