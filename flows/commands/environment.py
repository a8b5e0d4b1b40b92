"""What Prefect and MLflow read from the environment while they are imported."""

from __future__ import annotations

import os
from pathlib import Path

from hgt.errors import InputError


def prepare_environment() -> None:
    """Settings that Prefect and MLflow read when they are imported; what the user has set stays."""
    from flows.services.local import running_server
    from tasks.home import check_home, hgt_home

    check_home()
    home = hgt_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"HGT_HOME {home}: is no folder, and none can be made there ({error.strerror}). Give"
            " another one."
        ) from error
    defaults = {
        "HGT_TERMINAL": "1",
        # the flow's own lines are printed; Prefect's log keeps everything
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        # an empty database takes 30 s on two cores; Prefect gives it 20
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        # a server that is gone is told in one sentence
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
        # 15 s: a server that is gone is asked several times before the flow gives up
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

    logging.raiseExceptions = False  # or Prefect's log handler writes each failure to stderr


def _check_database(path: Path) -> None:
    """Prefect starts its temporary server anew for ever where this is none that it can use. Raises
    InputError.
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
                f"{path}: Prefect's database cannot be opened ({error}). Give the right to, or"
                " another HGT_HOME."
            ) from error
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"{path}: Prefect's database is damaged ({error}). Remove it: it holds the history that"
            " Prefect shows, no run and no figure."
        ) from error
