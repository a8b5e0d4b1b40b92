"""What differs by device, in one table: a row per device, each difference with its reason.

In: a device's type, as torch names it. Out: its `DeviceTraits`. Knows no kernels, no training and
no plan: they take their device's values from here.

A new device is a new row. What the row leaves out works through `torch.accelerator` and in the
formulations that run on every device. torch is imported at the first question to it, not before:
the command line takes the devices' names from here, and `hgt --help` must not wait for torch.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from hgt.device import host

Bytes = tuple[int, int]  # in live tensors; taken from the device, caches included


def _torch() -> Any:
    return importlib.import_module("torch")


def _accelerator_name() -> str:
    name = getattr(_torch().get_device_module(), "get_device_name", None)
    return str(name() if name else _torch().accelerator.current_accelerator())


def _accelerator_in_use() -> Bytes:
    accelerator = _torch().accelerator
    return accelerator.memory_allocated(), accelerator.memory_reserved()


def _accelerator_peak() -> Bytes:
    accelerator = _torch().accelerator
    return accelerator.max_memory_allocated(), accelerator.max_memory_reserved()


def _cap_accelerator(fraction: float) -> None:
    """torch.accelerator has no cap; where the device's own module has none either, none is set."""
    cap = getattr(_torch().get_device_module(), "set_per_process_memory_fraction", None)
    if cap is not None:
        cap(fraction)


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class DeviceTraits:
    """One device. Fields that are functions ask torch or the operating system; others are plain.

    type: as torch and the user name it
    spoken: the subject of "... ran out of memory"
    out_of_memory: what torch says when its memory runs out
    found: whether this machine has it; None: when it is torch's current accelerator
    name: of the hardware, for people
    available_bytes: what a run may plan with
    total_bytes: what a cap is a share of
    in_use: `Bytes` now
    peak: the highest `Bytes` so far, as far as the device remembers them
    clear_cache: gives cached blocks back
    set_cap: makes torch refuse more than this share of total_bytes
    prepare: called before anything is allocated
    is_host: its memory is that of the process, and torch has no cap on it
    torchs_own_cap: share of total_bytes that torch takes where no cap is set
    raises_own_error: torch.OutOfMemoryError comes from it, also without the words above
    library_bytes: what libraries take beside tensors while training
    pins_memory: batches come from pinned memory, copied while the device works
    records_steps: a training step can be recorded and replayed (CUDA graphs)
    kernels: formulation of the operations over edges and nodes; see `hgt.kernels.choice`
    edges_at_a_time: rows that are gathered along edges at a time
    hashes_at_a_time: of dropout
    facts_at_a_time: of the sampled softmax; None: as many as one product may reduce over
    """

    type: str
    spoken: str
    out_of_memory: re.Pattern[str]
    found: Callable[[], bool] | None = None
    name: Callable[[], str] = _accelerator_name
    available_bytes: Callable[[], int] = lambda: _torch().accelerator.get_memory_info()[0]
    total_bytes: Callable[[], int] = lambda: _torch().accelerator.get_memory_info()[1]
    in_use: Callable[[], Bytes] = _accelerator_in_use
    peak: Callable[[], Bytes] = _accelerator_peak
    clear_cache: Callable[[], None] = lambda: _torch().accelerator.empty_cache()
    set_cap: Callable[[float], None] = _cap_accelerator
    prepare: Callable[[], None] = _nothing
    is_host: bool = False
    torchs_own_cap: float = 1.0
    raises_own_error: bool = True
    library_bytes: int = 0
    pins_memory: bool = False
    records_steps: bool = False
    kernels: Literal["chunked", "fused", "triton"] = "chunked"
    edges_at_a_time: int = 32_768  # accelerators want few, large chunks
    hashes_at_a_time: int = 1 << 20  # 8 MB of scratch memory
    facts_at_a_time: int | None = None  # few kernels

    def is_available(self) -> bool:
        """Whether this machine has the device."""
        if self.found is not None:
            return self.found()
        current = _torch().accelerator.current_accelerator(check_available=True)
        return current is not None and current.type == self.type


def _mps_in_use() -> Bytes:
    """The driver's figure contains the compiled graphs."""
    mps = _torch().mps
    return mps.current_allocated_memory(), mps.driver_allocated_memory()


def _mps_peak() -> Bytes:
    """The allocator remembers its own peaks (since torch 2.13), but not what Metal's compiled
    graphs took besides."""
    in_use, remembered = _mps_in_use(), (0, 0)
    with contextlib.suppress(RuntimeError):  # "not supported" before 2.13
        remembered = _accelerator_peak()
    return max(in_use[0], remembered[0]), max(in_use[1], remembered[1])


# torch's RuntimeError on MPS is a plain one, and so is the CPU's: the text alone tells.
_MPS = DeviceTraits(
    type="mps",
    spoken="MPS",
    out_of_memory=re.compile(
        r"MPS backend out of memory|Invalid buffer size"
        r"|kIOGPUCommandBufferCallbackErrorOutOfMemory"
    ),
    found=lambda: _torch().backends.mps.is_available(),
    name=host.chip_name,
    available_bytes=lambda: _torch().mps.recommended_max_memory(),
    total_bytes=lambda: _torch().mps.recommended_max_memory(),
    in_use=_mps_in_use,
    peak=_mps_peak,
    clear_cache=lambda: _torch().mps.empty_cache(),  # torch.accelerator's leaves compiled graphs
    set_cap=lambda fraction: _torch().mps.set_per_process_memory_fraction(fraction),
    torchs_own_cap=1.7,  # more than the Mac has: it swaps instead of raising
    raises_own_error=False,
    pins_memory=False,  # asynchronous copies may arrive damaged (pytorch 189690)
)


def _cuda_in_use() -> Bytes:
    cuda = _torch().cuda
    return cuda.memory_allocated(), cuda.memory_reserved()


def _cuda_peak() -> Bytes:
    cuda = _torch().cuda
    return cuda.max_memory_allocated(), cuda.max_memory_reserved()


def _limit_work_spaces() -> None:
    """cuBLAS's on Hopper: 8 MB for each stream and thread instead of 32, at the same speed. Read
    when the first one is made."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:2:16:8")


_CUDA = DeviceTraits(
    type="cuda",
    spoken="CUDA",
    out_of_memory=re.compile(
        r"CUDA out of memory|CUDA (driver )?error: out of memory"
        r"|CU(BLAS|DNN|SPARSE)_STATUS_\w*ALLOC\w*_FAILED"
    ),
    found=lambda: _torch().cuda.is_available(),
    name=lambda: _torch().cuda.get_device_name(),
    available_bytes=lambda: _torch().cuda.mem_get_info()[0],
    total_bytes=lambda: _torch().cuda.mem_get_info()[1],
    in_use=_cuda_in_use,
    peak=_cuda_peak,
    clear_cache=lambda: _torch().cuda.empty_cache(),
    set_cap=lambda fraction: _torch().cuda.set_per_process_memory_fraction(fraction),
    prepare=_limit_work_spaces,
    library_bytes=24 << 20,  # cuBLAS: of the forward and the backward thread and of a recording
    pins_memory=True,
    records_steps=True,
    kernels="triton",
)


def _process_in_use() -> Bytes:
    return (host.process_bytes(),) * 2


def _process_peak() -> Bytes:
    return (host.process_peak_bytes(),) * 2


def _processor_name() -> str:
    processor = platform.processor() or platform.machine()
    return f"{processor}, {_torch().get_num_threads()} threads"


_CPU = DeviceTraits(
    type="cpu",
    spoken="The host",
    out_of_memory=re.compile(
        r"DefaultCPUAllocator: (can't allocate|not enough) memory|Cannot allocate memory"
        r"|bad_alloc|can't allocate region"
    ),
    found=lambda: True,
    name=_processor_name,
    available_bytes=host.available_bytes,
    total_bytes=host.total_bytes,
    in_use=_process_in_use,
    peak=_process_peak,
    clear_cache=_nothing,
    # The operating system's limit on addresses would also count what is never touched.
    set_cap=lambda fraction: None,
    prepare=host.keep_freed_memory,
    is_host=True,
    raises_own_error=False,
    kernels="fused",
    # Two CPU cores, 180,000 edges: 2,048 rows (2 MB) at a time 0.046 s, 8,192 rows 0.067 s.
    edges_at_a_time=2_048,
    # 1 MB, which the cache holds and several threads share: a third of the time that 128 KB take.
    hashes_at_a_time=1 << 18,
    facts_at_a_time=1_024,  # whose scores the cache holds
)

# In the order in which a machine's devices are tried.
DEVICES = {traits.type: traits for traits in (_MPS, _CUDA, _CPU)}


def traits_of(device: str) -> DeviceTraits:
    """The row of a device's type. Raises KeyError for one that the table does not have."""
    return DEVICES[device]
