"""The parent of a program: does it still live? Two variables of the environment show it:

HGT_PARENT_PID   a child process: the number of its parent
HGT_HEARTBEAT    a container, which cannot see that process: a file that its parent touches every
                 few seconds as long as it lives
"""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path

_SILENCE_SECONDS = 60.0


class Parent:
    """The process that started this one. The time of its file is compared only with itself: after a
    sleep, the clocks of a host and of a virtual machine differ.
    """

    def __init__(self, pid: int | None, heartbeat: Path | None):
        self._pid, self._heartbeat = pid, heartbeat
        self._touched = self._last_touch()
        self._heard_at = time.monotonic()

    @classmethod
    def from_environment(cls) -> Parent:
        pid, heartbeat = os.environ.get("HGT_PARENT_PID"), os.environ.get("HGT_HEARTBEAT")
        return cls(int(pid) if pid else None, Path(heartbeat) if heartbeat else None)

    def is_gone(self) -> bool:
        """Whether another process is the parent now, or a minute passed without a touch of the
        file.
        """
        if self._pid is not None and os.getppid() != self._pid:
            return True
        if self._heartbeat is None:
            return False
        touched, now = self._last_touch(), time.monotonic()
        if touched != self._touched:
            self._touched, self._heard_at = touched, now
        return now - self._heard_at > _SILENCE_SECONDS

    def _last_touch(self) -> int | None:
        """Nanoseconds since 1970; None without the file."""
        try:
            return self._heartbeat.stat().st_mtime_ns if self._heartbeat else None
        except OSError:
            return None


@functools.cache
def _parent() -> Parent:
    return Parent.from_environment()


def stop_without_parent() -> None:
    """End a training whose parent was killed, because nobody would see its result.

    Raises SystemExit.
    """
    if _parent().is_gone():
        raise SystemExit(
            "the process that started this training is gone; resume with `hgt train --resume`"
        )
