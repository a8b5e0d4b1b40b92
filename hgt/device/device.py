"""What is particular to MPS, CUDA and the CPU: finding one, its memory, and what its out-of-memory looks like.

Everything else in the library is device-neutral.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import re
import resource
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from hgt.device import cgroup
from hgt.errors import InputError, OutOfMemory

# Which memory ran out, by what torch says: MPS's is a plain RuntimeError (FACTS.md 2), and so is the CPU's.
_OUT_OF_MEMORY = {
    "mps": re.compile(r"MPS backend out of memory|Invalid buffer size|kIOGPUCommandBufferCallbackErrorOutOfMemory"),
    "cuda": re.compile(r"CUDA out of memory|CUDA (driver )?error: out of memory|CU(BLAS|DNN|SPARSE)_STATUS_\w*ALLOC\w*_FAILED"),
    "cpu": re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory|Cannot allocate memory|bad_alloc|can't allocate region"),
}
_SPOKEN = {"mps": "MPS", "cuda": "CUDA", "cpu": "The host"}
# Aborted or killed, as a child process reports it and as a shell or a container does.
_ABORTED = frozenset({-6, 134})
_KILLED = frozenset({-9, 137})
# Metal's assertions on size (pytorch 149325, 143859). Others from the same file are defects in a kernel and no question of memory.
_TOO_LARGE_FOR_METAL = re.compile(r"total bytes of NDArray > 2\*\*|product of dimension sizes > 2\*\*|NDArray dimension length > INT_MAX")
_TRACEBACK = "Traceback (most recent call last)"

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h

_PRESSURE = 0.8  # share of the cap from which the driver is under pressure
_WORTH_CLEARING = 0.1  # share of the cap that clearing must give back: on MPS every compiled graph is lost with the cache


@dataclass(frozen=True)
class DeviceProbe:
    """What was found. limit_bytes: what a run may use; reason: why this device."""

    type: str
    name: str
    limit_bytes: int
    reason: str
    torch_version: str
    machine: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def probe_device(wanted: str | None, limit_bytes: int | None = None) -> DeviceProbe:
    """Choose MPS, else CUDA, else the CPU, or the one that is wanted. Allocates nothing.

    limit_bytes: use no more than that, whatever there is. Raises InputError when the wanted device is not there.
    """
    found = _found()
    if wanted is not None and not found[wanted]:
        there = ", ".join(name for name, available in found.items() if available)
        raise InputError(f"Device {wanted} is not available on this machine; available: {there}. Leave device out to choose by itself.")
    chosen = wanted or next(name for name, available in found.items() if available)
    reason = "asked for" if wanted else ("the only device" if chosen == "cpu" else "the accelerator of this machine")
    if chosen == "cpu" and not wanted and platform.system() == "Darwin":
        reason = "MPS is not available (macOS on Apple Silicon has it outside of containers)"
    limit = min(_available_bytes(chosen), limit_bytes or sys.maxsize)
    return DeviceProbe(chosen, _name(chosen), limit, reason, torch.__version__, platform.machine())


def _found() -> dict[str, bool]:
    return {"mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available(), "cpu": True}


def _name(device: str) -> str:
    if device == "cpu":
        return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    return chip_name() if device == "mps" else torch.cuda.get_device_name()


def chip_name() -> str:
    """The processor's name, such as "Apple M1 Pro", which is also the name of its GPU."""
    with contextlib.suppress(OSError, subprocess.SubprocessError, StopIteration):
        if platform.system() == "Darwin":
            asked = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, timeout=10, check=True)
            return asked.stdout.strip()
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def _available_bytes(device: str) -> int:
    if device == "mps":
        return int(torch.mps.recommended_max_memory())
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    available = int(psutil.virtual_memory().available)
    group = cgroup.available_bytes()
    return available if group is None else min(available, group)


def prepare_device(device: str, limit_bytes: int | None = None) -> torch.device:
    """Make the device refuse what the machine cannot hold, or what is over the limit, before anything is allocated on it.

    On the CPU there is no limit to set: the operating system's limit on addresses would also count what is never touched.
    """
    if device == "cpu":
        _keep_freed_memory()
    if device == "cuda":
        # cuBLAS's work spaces on Hopper: 8 MB for each stream and thread instead of 32, at the same speed; read when the first one is made.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:2:16:8")
    if device != "cpu":
        # Without it MPS allows 1.7 times the recommended memory (the Mac swaps instead of raising); 0 would mean no limit at all.
        fraction = cap_bytes(device, limit_bytes) / _total_bytes(device)
        module = torch.mps if device == "mps" else torch.cuda
        module.set_per_process_memory_fraction(fraction)
    return torch.device(device)


def _keep_freed_memory() -> None:
    """Let glibc use freed blocks again instead of giving them back after each operation.

    Tensors above 32 MB were mapped and cleared page by page for every operation: half of a step's time at 67,000 nodes.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            libc.mallopt(option, 2**31 - 1)


def cap_bytes(device: str, limit_bytes: int | None = None) -> int:
    """What torch may take of the device at most. On CUDA its context comes on top (some hundred MB).

    Raises InputError when the limit is not above 0.
    """
    if limit_bytes is not None and limit_bytes <= 0:
        raise InputError(f"A memory limit must be above 0 bytes, not {limit_bytes:,}. Leave it out to use what the device has.")
    return min(_total_bytes(device), limit_bytes or sys.maxsize)


def _total_bytes(device: str) -> int:
    if device == "mps":
        return int(torch.mps.recommended_max_memory())
    return int(torch.cuda.mem_get_info()[1]) if device == "cuda" else int(psutil.virtual_memory().total)


@dataclass(frozen=True)
class MemoryUse:
    """allocated: in live tensors; reserved: taken by torch from the device, cache and (MPS) compiled graphs included;
    process: resident in host memory. On the CPU all three are the process's.
    """

    allocated_bytes: int
    reserved_bytes: int
    process_bytes: int

    def or_higher(self, other: MemoryUse) -> MemoryUse:
        return MemoryUse(*map(max, astuple(self), astuple(other)))


def memory_in_use(device: str) -> MemoryUse:
    """Now."""
    process = int(psutil.Process().memory_info().rss)
    if device == "mps":
        return MemoryUse(int(torch.mps.current_allocated_memory()), int(torch.mps.driver_allocated_memory()), process)
    if device == "cuda":
        return MemoryUse(int(torch.cuda.memory_allocated()), int(torch.cuda.memory_reserved()), process)
    return MemoryUse(process, process, process)


def peak_memory(device: str) -> MemoryUse:
    """The highest so far, as far as the device remembers it: all of it on CUDA and the CPU.

    MPS's allocator remembers its own peaks (since torch 2.13), but not what Metal's compiled graphs took besides.
    """
    process = _process_peak_bytes()
    if device == "cuda":
        return MemoryUse(int(torch.cuda.max_memory_allocated()), int(torch.cuda.max_memory_reserved()), process)
    if device == "mps":
        remembered = MemoryUse(0, 0, process)
        with contextlib.suppress(RuntimeError):  # "not supported" before 2.13
            remembered = MemoryUse(torch.accelerator.max_memory_allocated(), torch.accelerator.max_memory_reserved(), process)
        return remembered.or_higher(memory_in_use(device))
    return MemoryUse(process, process, process)


def _process_peak_bytes() -> int:
    """Not `ru_maxrss` on Linux: it starts at what the parent held when it started this process (1.06 GB instead of 0.01 in a test)."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, kilobytes on Linux


def peak_memory_bytes(device: str) -> int:
    """The highest use that counts against the device's limit."""
    return peak_memory(device).reserved_bytes


def clear_cache(device: str) -> None:
    """Give cached blocks back. Not after every step: on MPS the compiled graphs go with them."""
    if device == "mps":
        torch.mps.empty_cache()  # torch.accelerator's leaves the graphs
    elif device == "cuda":
        torch.cuda.empty_cache()


class DeviceMemory:
    """One program's use of its device: runs the phases of the memory plan, keeps the measured peak, clears the cache.

    planned: {phase: bytes}; limit_bytes: as given to `prepare_device`
    """

    def __init__(self, device: str, planned: Mapping[str, int], limit_bytes: int | None = None):
        self.device = device
        self.planned = planned
        self.cap_bytes = cap_bytes(device, limit_bytes)
        self.peak = peak_memory(device)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Do something that the plan foresaw under this name. Raises OutOfMemory for any form of it."""
        with translating_out_of_memory(self.device, name, self.planned.get(name)):
            yield
        self.sample()
        if self.is_under_pressure():
            clear_cache(self.device)

    def sample(self) -> MemoryUse:
        """Take the peak's measure, before a cache is cleared and after; returns the peak."""
        self.peak = self.peak.or_higher(peak_memory(self.device))
        return self.peak

    def is_under_pressure(self) -> bool:
        """Whether torch holds over 80 % of the cap, and a good part of it in cache that tensors never needed at once."""
        if self.device == "cpu":
            return False
        held = memory_in_use(self.device).reserved_bytes
        return held > _PRESSURE * self.cap_bytes and held - self.peak.allocated_bytes > _WORTH_CLEARING * self.cap_bytes

    def clear_cache(self) -> None:
        """Once per epoch."""
        self.sample()
        clear_cache(self.device)

    def as_dict(self) -> dict[str, int]:
        """The peak, as events and MLflow name it."""
        peak = self.sample()
        return {
            "peak_memory_bytes": peak.reserved_bytes,
            "peak_allocated_bytes": peak.allocated_bytes,
            "peak_process_bytes": peak.process_bytes,
        }


@contextmanager
def translating_out_of_memory(device: str, phase: str, planned_bytes: int | None = None) -> Iterator[None]:
    """Every form of out-of-memory becomes one OutOfMemory; what else is raised passes as it is, and so does an OutOfMemory.

    The failed frames' tensors are let go and the cache is cleared, so that a smaller attempt may follow in this process.
    """
    try:
        yield
    except OutOfMemory:
        raise
    except Exception as error:
        ran_out = out_of_memory_device(error)
        if ran_out is None:
            raise
        held = memory_in_use(ran_out).allocated_bytes if _found()[ran_out] else None
        _let_go(error)
        clear_cache(device)
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        plan = "nothing was planned for it" if planned_bytes is None else f"planned were {planned_bytes:,} bytes"
        raise OutOfMemory(
            f"{_SPOKEN[ran_out]} ran out of memory in phase {phase} on {device}: {plan}, "
            f"{'an unknown number' if held is None else f'{held:,} bytes'} were allocated. {said} Free memory, take smaller steps (raise "
            "accumulation_steps, lower edge_sample_size or node_batch_size) or another device; the last checkpoint is whole.",
            ran_out, phase, planned_bytes, held,
        ) from error  # fmt: skip


def _let_go(error: BaseException | None) -> None:
    """Drop the local variables of the frames that failed: a traceback keeps their tensors alive."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def out_of_memory_device(error: BaseException) -> str | None:
    """mps, cuda or cpu, whichever an exception says has run out of memory; None for any other exception."""
    if isinstance(error, OutOfMemory):
        return error.device
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "cpu"
    if isinstance(error, RuntimeError):  # torch.OutOfMemoryError among them
        named = (device for device, pattern in _OUT_OF_MEMORY.items() if pattern.search(str(error)))
        return next(named, "cuda" if isinstance(error, torch.OutOfMemoryError) else None)
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of any kind says that memory ran out."""
    return isinstance(error, OutOfMemory) or out_of_memory_device(error) is not None


def says_out_of_memory(text: str) -> bool:
    """Whether a message or a program's output tells of memory that ran out, on any device."""
    return any(pattern.search(text) for pattern in _OUT_OF_MEMORY.values())


def exit_is_out_of_memory(exit_code: int, error_output: str) -> bool:
    """Whether a dead child ran out of memory: killed without a word, or aborted by an allocation (DESIGN.md 3).

    Where it left a traceback, that one's exception decides alone.
    """
    if _TRACEBACK in error_output:
        raised = error_output.rpartition(_TRACEBACK)[2].splitlines()
        return any(re.match(r"(\w+\.)*(\w*MemoryError|RuntimeError|AcceleratorError|OSError)\b", s) and _says_memory(s) for s in raised)
    if exit_code in _ABORTED:
        return says_out_of_memory(error_output) or bool(_TOO_LARGE_FOR_METAL.search(error_output))
    return exit_code in _KILLED


def _says_memory(line: str) -> bool:
    return "MemoryError" in line.partition(":")[0] or says_out_of_memory(line)


def configure_threads() -> None:
    """Let OMP_NUM_THREADS speak, of a list (one number per level of nesting) the first; otherwise torch's own choice stays."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if given.isdecimal() and int(given):
        torch.set_num_threads(int(given))
