"""Linux control groups: what the memory limits around this process still leave it, as in a
container.

Reads versions 1 and 2, wherever /proc/self/mountinfo says they are mounted. Knows nothing of
devices.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class _Files:
    """A version's files: limit, use, and the line of memory.stat with page cache that is given back
    on demand.
    """

    limit: str
    use: str
    reclaimable: str


_VERSION_1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _Files("memory.max", "memory.current", "inactive_file")


def available_bytes(root: Path = Path("/")) -> int | None:
    """The least that the process's own group and those around it leave of their limits; None where
    none has a limit.

    In use counts without page cache that can be given back, as in `docker stats`.
    """
    left = [
        n for folder, files in _memory_groups(root) if (n := _left_bytes(folder, files)) is not None
    ]
    return min(left, default=None)


def _left_bytes(folder: Path, files: _Files) -> int | None:
    limit = _number(folder / files.limit)
    # version 1 writes "no limit" as a number just below 2**63
    if limit is None or limit >= sys.maxsize // 2:
        return None
    used = _number(folder / files.use) or 0
    return max(limit - max(used - _reclaimable_bytes(folder, files), 0), 0)


def _reclaimable_bytes(folder: Path, files: _Files) -> int:
    lines = _text(folder / "memory.stat").splitlines()
    return next(
        (int(line.split()[1]) for line in lines if line.startswith(f"{files.reclaimable} ")), 0
    )


def _memory_groups(root: Path) -> Iterator[tuple[Path, _Files]]:
    """The folder of every group that counts this process's memory: its own, then its parents' up to
    the mount.
    """
    mounts = dict(reversed(list(_mounts(root))))  # the first of each version
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        files = (
            _VERSION_2
            if not controllers
            else _VERSION_1
            if "memory" in controllers.split(",")
            else None
        )
        if files is None or files not in mounts:
            continue
        visible, top = mounts[files]
        folder = top / _below(group, visible)
        while True:
            yield folder, files
            if folder == top:
                break
            folder = folder.parent


def _mounts(root: Path) -> Iterator[tuple[_Files, tuple[str, Path]]]:
    """Per version, the group that is visible at the mount point, and the mount point."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        visible, point = (field.replace("\\040", " ") for field in before.split()[3:5])
        kind, _, options = after.split(maxsplit=2)
        if kind == "cgroup2":
            yield _VERSION_2, (visible, root / point.lstrip("/"))
        elif kind == "cgroup" and "memory" in options.split(","):
            yield _VERSION_1, (visible, root / point.lstrip("/"))


def _below(group: str, visible: str) -> str:
    """The group's path below the visible one; a container may see its own group at the mount point
    under another name.
    """
    top = visible.rstrip("/")
    return (
        group[len(top) :].strip("/")
        if f"{group}/".startswith(f"{top}/") and ".." not in group
        else ""
    )


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None  # "max": no limit


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
