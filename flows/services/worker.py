"""A Prefect worker as a program: `python -m flows.services.worker POOL TYPE NAME`.

`hgt up` starts it. A background process of a shell ignores SIGINT. A worker sends itself SIGINT at
its first SIGTERM, so it would not end (prefect 3.8.8). This program restores Python's SIGINT.
"""

from __future__ import annotations

import signal
import sys


def main(pool: str, kind: str, name: str) -> None:
    """Poll the work pool until SIGTERM. The server is the one in PREFECT_API_URL."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from prefect.cli import app

    sys.argv = [
        "prefect",
        "worker",
        "start",
        "--pool",
        pool,
        "--type",
        kind,
        "--name",
        name,
        "--install-policy",
        "never",
    ]
    app()


if __name__ == "__main__":
    main(*sys.argv[1:])
