"""The environment variables that Prefect and MLflow read at import."""

from __future__ import annotations

import os
from pathlib import Path

from hgt.errors import InputError


def prepare_environment() -> None:
    """Set the variables that Prefect and MLflow read at import. Keeps the user's own values."""
    from flows.services.local import running_server
    from tasks.home import check_home, hgt_home

    check_home()
    home = hgt_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"HGT_HOME {home}: is no folder and cannot be created ({error.strerror}). Give another"
            " folder."
        ) from error
    defaults = {
        "HGT_TERMINAL": "1",
        # the flow prints its own lines; Prefect's log has everything
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        # creating a database takes 30 s on two cores; Prefect's limit is 20
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        # the command reports a missing server in one sentence
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
        # several retries before the flow gives up, 15 s in all
        "PREFECT_CLIENT_MAX_RETRIES": "3",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
    }
    if "PREFECT_API_URL" not in os.environ:
        defaults["PREFECT_HOME"] = str(home / "prefect")
        if server := running_server():
            defaults["PREFECT_API_URL"] = server
        else:
            _check_database(Path(os.environ.get("PREFECT_HOME") or home / "prefect") / "prefect.db")
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    import logging

    logging.raiseExceptions = False  # otherwise Prefect's log handler prints each failure


def _check_database(path: Path) -> None:
    """Raises InputError for a database that Prefect cannot use.

    Prefect itself would restart its temporary server for ever.
    """
    if not path.exists():
        return
    import contextlib
    import sqlite3

    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            database.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise InputError(
                f"{path}: Prefect's database cannot be opened ({error}). Grant access to it, or set"
                " another HGT_HOME."
            ) from error
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"{path}: Prefect's database is damaged ({error}). Remove it: it only contains"
            " Prefect's history, no run and no figure."
        ) from error
