"""Runs a command in a session of its own, so that Ctrl-C reaches the flow and nothing else.

In the terminal's process group Ctrl-C would end Prefect's temporary server together with the flow,
and the flow would then wait minutes for it (prefect 3.8.8). Here the parent gets the signal and
hands it to the flow's process alone.
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
    """Whether this process is the one in the session of its own."""
    return _PARENT in os.environ


def running() -> bool:
    """Whether such a process lives for this HGT_HOME, as far as it can be seen."""
    return any(not is_left for _, is_left in _marked())


def _marked() -> Iterator[tuple[psutil.Process, bool]]:
    """(process, whether the flow that began its session is gone) of the flows of this HGT_HOME and
    of what they started.
    """
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
    """End Prefect's temporary server where its flow was killed; trainers, in sessions of their own,
    end by themselves.
    """
    left = [process for process, is_left in _marked() if is_left]
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(process)
        _, left = psutil.wait_procs(left, timeout=_END_SECONDS)


def run(arguments: list[str]) -> int:
    """`hgt <arguments>` in a new session; returns its exit code, 130 also where the interpreter, on
    its way out, no longer handled the SIGINT. SIGINT, SIGTERM and a terminal's end become SIGINT
    there. Of a flow that was killed nothing stays, neither this one nor one before.
    """
    _end_what_is_left()
    # -P: another `flows` in the current folder is not ours
    command = [sys.executable, "-P", "-m", "flows.cli", *arguments]
    child = subprocess.Popen(
        command, env=os.environ | {_PARENT: str(os.getpid())}, start_new_session=True
    )

    def forward(signum: int, frame: FrameType | None) -> None:
        child.send_signal(signal.SIGINT)

    ends = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # which nohup asks for
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
        f"hgt: The flow was killed ({name}). Go on with `hgt train --resume` and the run's name in"
        " the first line above.\n"
    )
    return 1


def enter() -> None:
    """In the new session: take SIGINT and SIGTERM as Ctrl-C, and take the parent's death for one
    too.
    """
    # a shell's background jobs start with SIGINT ignored
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.default_int_handler)
    threading.Thread(target=_watch_parent, args=(int(os.environ[_PARENT]),), daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGINT)
