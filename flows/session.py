"""Runs a command in its own session, so that Ctrl-C reaches only the flow.

In the terminal's process group Ctrl-C would also end Prefect's temporary server, and the flow would
then wait minutes for it (prefect 3.8.8). Here the parent receives the signal and forwards it to the
flow's process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

import psutil

_PARENT = "HGT_SESSION_PARENT"
_WATCH_SECONDS, _END_SECONDS = 1.0, 10.0


def inside() -> bool:
    """Whether this process runs in its own session."""
    return _PARENT in os.environ


def running() -> bool:
    """Whether a flow of this HGT_HOME runs, among the processes that this user can see."""
    return any(not is_left for _, is_left in _marked())


def _marked() -> Iterator[tuple[psutil.Process, bool]]:
    """The processes of all flows of this HGT_HOME, each with whether its flow has ended."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            theirs = process.environ()
            if (
                _PARENT in theirs
                and theirs.get("HGT_HOME") == os.environ.get("HGT_HOME")
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                yield process, not psutil.pid_exists(os.getsid(process.pid))


def _end_what_is_left() -> None:
    """End the temporary Prefect server of a killed flow. Trainers end by themselves."""
    left = [process for process, is_left in _marked() if is_left]
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(process)
        _, left = psutil.wait_procs(left, timeout=_END_SECONDS)


def run(arguments: list[str]) -> int:
    """Run `hgt <arguments>` in a new session and return its exit code.

    SIGINT, SIGTERM and SIGHUP reach it as SIGINT. Returns 130 also when the interpreter no longer
    handled the SIGINT. Ends the remaining processes of this flow and of earlier killed flows.
    """
    _end_what_is_left()
    # -P: does not import a `flows` in the current folder
    command = [sys.executable, "-P", "-m", "flows.cli", *arguments]
    child = subprocess.Popen(
        command, env=os.environ | {_PARENT: str(os.getpid())}, start_new_session=True
    )

    def forward(signum: int, frame: FrameType | None) -> None:
        child.send_signal(signal.SIGINT)

    ends = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it
        ends.append(signal.SIGHUP)
    before = {signum: signal.signal(signum, forward) for signum in ends}
    try:
        code = child.wait()
        if code < 0:
            _end_what_is_left()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    if code >= 0:
        return code
    if code == -signal.SIGINT:
        return 130
    name = signal.Signals(-code).name
    sys.stderr.write(
        f"hgt: The flow was killed ({name}). Continue with `hgt train --resume RUN`. The first line"
        " above has the name of the run.\n"
    )
    return 1


def enter() -> None:
    """In the new session: treat SIGINT, SIGTERM and the end of the parent as Ctrl-C."""
    # a shell's background jobs start with SIGINT ignored
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.default_int_handler)
    threading.Thread(target=_watch_parent, args=(int(os.environ[_PARENT]),), daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGINT)
