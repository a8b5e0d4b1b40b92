"""Runs a command in a session of its own, so that Ctrl-C reaches the flow and nothing else.

In the terminal's process group Ctrl-C would end Prefect's temporary server together with the flow, and the flow would then wait
minutes for it (prefect 3.8.8). Here the parent gets the signal and hands it to the flow's process alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType

import psutil

_PARENT = "HGT_SESSION_PARENT"
_WATCH_SECONDS = 1.0


def inside() -> bool:
    """Whether this process is the one in the session of its own."""
    return _PARENT in os.environ


def running() -> bool:
    """Whether such a process lives for this HGT_HOME, as far as it can be seen."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            theirs = process.environ()
            if _PARENT in theirs and theirs.get("HGT_HOME") == os.environ.get("HGT_HOME") and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def run(arguments: list[str]) -> int:
    """`hgt <arguments>` in a new session; returns its exit code, 130 also where the interpreter, on its way out, no longer handled
    the SIGINT. SIGINT and SIGTERM become SIGINT there.
    """
    command = [sys.executable, "-m", "flows.cli", *arguments]
    child = subprocess.Popen(command, env=os.environ | {_PARENT: str(os.getpid())}, start_new_session=True)

    def forward(signum: int, frame: FrameType | None) -> None:
        child.send_signal(signal.SIGINT)

    before = {signum: signal.signal(signum, forward) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        code = child.wait()
        return 130 if code == -signal.SIGINT else code
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def enter() -> None:
    """In the new session: take SIGINT as Ctrl-C, and take the parent's death for one too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
    threading.Thread(target=_watch_parent, args=(int(os.environ[_PARENT]),), daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGINT)
