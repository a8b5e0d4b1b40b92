"""Where runs and MLflow's store lie: `$HGT_HOME`, by default `runs` in the checkout."""

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
    """With ~ as the user's home; a ~name that is nobody's stays as it is, where `Path.expanduser`
    would raise.
    """
    return Path(os.path.expanduser(given))  # noqa: PTH111


def hgt_home() -> Path:
    """Raises InputError for what can be no folder, and for one that Prefect or MLflow would take
    for another one: both know their databases by URLs.
    """
    home = user_path(
        os.environ.get("HGT_HOME") or Path(__file__).resolve().parents[1] / "runs"
    ).resolve()
    if unquote(str(home)) != str(home) or "?" in str(home):
        raise InputError(
            f"HGT_HOME {home}: no database can be kept below a folder with ? or a percent-encoded"
            " name. Give another one."
        )
    if not _there(home).is_dir():
        raise InputError(
            f"HGT_HOME {home}: is no folder, and none can be made there ({_there(home)} is a file)."
            " Give another one."
        )
    return home


def check_home() -> None:
    """Raises InputError for a home that cannot be written to."""
    if not os.access(_there(hgt_home()), os.W_OK | os.X_OK):
        raise InputError(
            f"HGT_HOME {hgt_home()}: may not be written to. Give another folder, or the right to"
            " write there."
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
    """What can be said of MLflow's store at once, without MLflow. Raises InputError for one that
    will never answer.
    """
    uri = store_uri()
    if (
        (uri.startswith("file:") or "://" not in uri)
        and not uri.startswith("databricks")
        and not os.environ.get("MLFLOW_ALLOW_FILE_STORE")
    ):
        raise InputError(
            f'MLFLOW_TRACKING_URI {uri}: MLflow refuses stores of files ("The filesystem tracking'
            ' backend is in maintenance mode"). Give a database, such as'
            " sqlite:////path/to/mlflow.db, or a server's address."
        )
    if "://" in uri and not _is_known(urlsplit(uri).scheme):
        raise InputError(
            f"MLFLOW_TRACKING_URI {uri}: MLflow knows no stores that begin so. Give a server's"
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
                f"MLflow's store {uri} cannot be used ({error}). Mend it, or move it away for a new"
                " one."
            ) from error


def run_folder(run_id: str) -> RunFolder:
    # with torch and pandas: 2 s, which `hgt status` does not wait for
    from hgt.run.folder import RunFolder

    return RunFolder(hgt_home() / "runs" / run_id)


def _is_known(scheme: str) -> bool:
    """As MLflow 3.17.2 has it: a database's driver follows a +, and other packages may bring stores
    of their own.
    """
    if scheme in _OTHER_STORES or scheme.split("+")[0] in _DATABASES:
        return True
    return any(entry.name == scheme for entry in entry_points(group="mlflow.tracking_store"))


def config_file(run_id: str) -> Path:
    """As `RunFolder.config`, without its imports."""
    return hgt_home() / "runs" / run_id / "config.json"


def new_run_id() -> str:
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(3)


def check_new_run(name: str) -> None:
    """Raises InputError for a name that is none for a folder and a container, or that another run
    has.
    """
    if not _RUN_NAME.fullmatch(name):
        raise InputError(
            f"{name!r}: cannot name a run. Take letters, digits, dots, dashes and underscores, at"
            " most 100."
        )
    if config_file(name).exists():
        raise InputError(
            f"{hgt_home() / 'runs' / name}: there is a run of this name already. Give another"
            " run_id, or resume it."
        )


def find_run(name: str) -> str:
    """The run id for what the user gave: an id, or the path of a run folder. Raises InputError when
    there is none.
    """
    candidates = [hgt_home() / "runs" / name, user_path(name).absolute()]
    for path in candidates:
        if os.path.isfile(path / "config.json"):  # noqa: PTH113 - Path's raises for a name that is too long
            if path.parent.resolve() != (hgt_home() / "runs").resolve():
                raise InputError(
                    f"{path}: lies outside {hgt_home() / 'runs'}. Set HGT_HOME to the folder that"
                    " holds its `runs`."
                )
            return path.name
    there = sorted(p.parent.name for p in (hgt_home() / "runs").glob("*/config.json"))
    known = f"the newest are {', '.join(there[-3:])}" if there else "there are none yet"
    raise InputError(f"{name}: no such run in {hgt_home() / 'runs'}; {known}.")
