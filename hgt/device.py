"""What is particular to MPS, CUDA and the CPU: finding one, its memory, and what its out-of-memory looks like.

Everything else in the library is device-neutral.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from hgt.errors import InputError

# The message is all there is to tell MPS's out-of-memory by: it is a plain RuntimeError (FACTS.md 2).
_OUT_OF_MEMORY = re.compile(
    r"MPS backend out of memory|Invalid buffer size|CUDA out of memory|can't allocate memory|not enough memory|"
    r"kIOGPUCommandBufferCallbackErrorOutOfMemory|Cannot allocate memory|std::bad_alloc",
    re.IGNORECASE,
)
# Aborted or killed, as a child process reports it and as a shell or a container does.
_OUT_OF_MEMORY_EXITS = frozenset({-6, -9, 134, 137})
_ABORT_SIGNATURE = re.compile(r"MPSNDArray|MTLBuffer|buffer is not large enough|total bytes of NDArray", re.IGNORECASE)


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


def probe_device(wanted: str | None) -> DeviceProbe:
    """Choose MPS, else CUDA, else the CPU, or the one that is wanted. Allocates nothing.

    Raises InputError when the wanted device is not there.
    """
    found = {"mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available(), "cpu": True}
    if wanted is not None and not found[wanted]:
        there = ", ".join(name for name, available in found.items() if available)
        raise InputError(f"Device {wanted} is not available on this machine; available: {there}. Leave device out to choose by itself.")
    chosen = wanted or next(name for name, available in found.items() if available)
    reason = "asked for" if wanted else ("the only device" if chosen == "cpu" else "the accelerator of this machine")
    if chosen == "cpu" and not wanted and platform.system() == "Darwin":
        reason = "MPS is not available (macOS on Apple Silicon has it outside of containers)"
    return DeviceProbe(chosen, _name(chosen), _limit_bytes(chosen), reason, torch.__version__, platform.machine())


def _name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name(0)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _limit_bytes(device: str) -> int:
    if device == "mps":
        return int(torch.mps.recommended_max_memory())
    if device == "cuda":
        return int(torch.cuda.mem_get_info(0)[0])
    return min(psutil.virtual_memory().available, _cgroup_limit_bytes())


def _cgroup_limit_bytes() -> int:
    """A container's memory limit; a very large number where there is none."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return sys.maxsize
    return sys.maxsize if text == "max" else int(text)


def prepare_device(device: str) -> torch.device:
    """Make the device refuse what the machine cannot hold, before anything is allocated on it."""
    if device == "mps":
        # The default cap is 1.7 times the recommended memory: the Mac would swap instead of raising.
        torch.mps.set_per_process_memory_fraction(1.0)
    return torch.device(device)


def peak_memory_bytes(device: str) -> int:
    """Highest memory use of this process so far: the allocator's on CUDA, the driver's now on MPS, resident on the CPU."""
    if device == "cuda":
        return int(torch.cuda.max_memory_reserved())
    if device == "mps":
        return int(torch.mps.driver_allocated_memory())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, kilobytes on Linux


def clear_cache(device: str) -> None:
    """Give cached blocks back. Once per epoch at most: on MPS the graph cache goes with it."""
    if device == "mps":
        torch.mps.empty_cache()
    elif device == "cuda":
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of any kind says that memory ran out."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))
    )


def exit_is_out_of_memory(exit_code: int, error_output: str) -> bool:
    """Whether a dead child ran out of memory: killed without a word, or aborted by an allocation (DESIGN.md 3)."""
    if exit_code not in _OUT_OF_MEMORY_EXITS or "Traceback (most recent call last)" in error_output:
        return False
    killed = exit_code in (-9, 137)
    return killed or bool(_ABORT_SIGNATURE.search(error_output) or _OUT_OF_MEMORY.search(error_output))


def configure_threads() -> None:
    """Let OMP_NUM_THREADS speak; otherwise torch's own choice stays."""
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
