"""A small process beside a container: `python -m tasks.execution.container_guard HEARTBEAT_FILE`.

The parent keeps its stdin open. The guard touches the file every few seconds; the program in the
container reads there that its parent lives (hgt/run/parent.py). When signal 9 kills the parent,
stdin closes. Then the guard removes the container with the file's name as its label, and the file.
"""

from __future__ import annotations

import contextlib
import select
import sys
from pathlib import Path

from tasks.execution.engine import EngineError, connect, remove

GUARD_LABEL = "kg-hgt-embeddings.heartbeat"
_TOUCH_SECONDS = 5.0
_ENGINE_SECONDS = 30.0


def guard(heartbeat: Path) -> None:
    while not select.select([sys.stdin], [], [], _TOUCH_SECONDS)[0]:
        heartbeat.touch()
    with contextlib.suppress(*EngineError), contextlib.closing(connect(_ENGINE_SECONDS)) as client:
        for container in client.containers.list(
            all=True, filters={"label": f"{GUARD_LABEL}={heartbeat.name}"}, ignore_removed=True
        ):
            remove(container)
    heartbeat.unlink(missing_ok=True)


if __name__ == "__main__":
    guard(Path(sys.argv[1]))
