"""The machine around the accelerator: its processor's name, its memory and this process's share.

Out: names and bytes. Knows no torch and no accelerator. Nothing slow is imported at the top: the
table of traits, which the command line reads, names these functions.
"""

from __future__ import annotations

import contextlib
import platform
import sys
from pathlib import Path

from hgt.device import cgroup

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def chip_name() -> str:
    """The processor's name, such as "Apple M1 Pro", which is also the name of its GPU."""
    import subprocess

    with contextlib.suppress(OSError, subprocess.SubprocessError, StopIteration):
        if platform.system() == "Darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            asked = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            return asked.stdout.strip()
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = (line.split(":", 1)[1] for line in lines if line.startswith("model name"))
        return next(names).strip()
    return platform.processor() or platform.machine()


def available_bytes() -> int:
    """Memory that a process can still take, within the control groups around this one."""
    import psutil

    available = int(psutil.virtual_memory().available)
    group = cgroup.available_bytes()
    return available if group is None else min(available, group)


def total_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def process_bytes() -> int:
    """Resident memory of this process now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def process_peak_bytes() -> int:
    """The most resident memory of this process so far.

    Not `ru_maxrss` on Linux: it starts at what the parent held when it started this process
    (1.06 GB instead of 0.01 in a test).
    """
    import resource

    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, kilobytes on Linux


def keep_freed_memory() -> None:
    """Let glibc use freed blocks again instead of giving them back after each operation.

    Tensors above 32 MB were mapped and cleared page by page for every operation: half of a step's
    time at 67,000 nodes.
    """
    import ctypes

    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            libc.mallopt(option, 2**31 - 1)
