"""Every form of out-of-memory, real ones where they can be had; what must not count; caps, peaks and caches of each device."""

import errno
import gc
import os
import signal
import subprocess
import sys
import weakref

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch

from hgt.device import device as device_module
from hgt.device.device import (
    DeviceMemory,
    MemoryUse,
    cap_bytes,
    chip_name,
    clear_cache,
    configure_threads,
    exit_is_out_of_memory,
    is_out_of_memory,
    memory_in_use,
    out_of_memory_device,
    peak_memory,
    peak_memory_bytes,
    prepare_device,
    probe_device,
    translating_out_of_memory,
)
from hgt.errors import HgtError, InputError, OutOfMemory, TrainingDiverged
from tests.conftest import CHECKOUT

GIB = 1 << 30
TOO_MUCH = 2**60

# As torch 2.13 says them.
MPS = (
    "MPS backend out of memory (MPS allocated: 9.57 GiB, other allocations: 17.35 GiB, max allowed: 27.20 GiB). Tried to allocate "
    "292.50 MiB on private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for memory allocations (may cause "
    "system failure)."
)
MPS_BUFFER = "Invalid buffer size: 19.45 GiB"
MPS_COMMAND = "MPS command buffer failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.18 GiB of which 1.21 GiB is free. Including "
    "non-PyTorch memory, this process has 77.96 GiB memory in use."
)
METAL_PATH = "/AppleInternal/Library/BuildRoots/b11baf73/Library/Caches/com.apple.xbs/Sources/MetalPerformanceShaders/MPSCore/Types/"
NDARRAY = METAL_PATH + "MPSNDArray.mm:850: failed assertion `[MPSNDArray initWithDevice:descriptor:isTextureBacked:] Error: {}'"

MESSAGES = [
    (RuntimeError(MPS), "mps"),
    (RuntimeError(MPS_BUFFER), "mps"),
    (RuntimeError(MPS_COMMAND), "mps"),
    (torch.OutOfMemoryError(CUDA), "cuda"),
    (torch.OutOfMemoryError("Allocation on device"), "cuda"),
    (torch.AcceleratorError("CUDA error: out of memory"), "cuda"),
    (RuntimeError("CUDA driver error: out of memory"), "cuda"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "cuda"),
    (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "cuda"),
    (RuntimeError("unable to mmap 4096 bytes from file <x>: Cannot allocate memory (12)"), "cpu"),
    (RuntimeError("std::bad_alloc"), "cpu"),
    (MemoryError(), "cpu"),
    (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "cpu"),
]
OTHERS = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: misaligned address"),
    ValueError("CUDA out of memory"),
    ValueError("there is not enough memory for that many rows"),
    RuntimeError("Expected all tensors to be on the same device, but found at least two devices, mps:0 and cpu!"),
    RuntimeError("view size is not compatible with input tensor's size and stride (at least one dimension spans memory)"),
    NotImplementedError("The operator 'aten::segment_reduce' is not currently implemented for the MPS device."),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    TrainingDiverged("the loss ran out of memory of its past"),
    HgtError("a checkpoint could not be written"),
    KeyboardInterrupt(),
]


def named(values):
    return [f"{type(v).__name__}: {str(v)[:40]}" for v in values]


@pytest.mark.parametrize(("error", "ran_out"), MESSAGES, ids=named(e for e, _ in MESSAGES))
def test_every_message_of_out_of_memory_counts(error, ran_out):
    assert is_out_of_memory(error)
    assert out_of_memory_device(error) == ran_out
    with pytest.raises(OutOfMemory) as caught, translating_out_of_memory("cpu", "step", 1000):
        raise error
    assert caught.value.device == ran_out
    assert caught.value.phase == "step"
    assert caught.value.planned_bytes == 1000
    assert str(error).splitlines()[:1] == [] or str(error).splitlines()[0] in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", OTHERS, ids=named(OTHERS))
def test_no_other_error_counts(error):
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as caught, translating_out_of_memory("cpu", "step", 1000):
        raise error
    assert caught.value is error


REAL = {
    "torch, an allocation": lambda: torch.empty(TOO_MUCH, dtype=torch.uint8),
    "torch, a copy": lambda: torch.zeros(1).expand(TOO_MUCH // 4).clone(),
    "numpy": lambda: np.empty(TOO_MUCH, np.uint8),
    "pyarrow": lambda: pa.allocate_buffer(TOO_MUCH),
    "python": lambda: bytearray(TOO_MUCH),
}


@pytest.mark.parametrize("allocate", REAL.values(), ids=REAL)
def test_real_failures_of_the_host(allocate):
    before = psutil.Process().memory_info().rss
    with pytest.raises(OutOfMemory) as caught, translating_out_of_memory("cpu", "inference", 12_345):
        allocate()
    error = caught.value
    assert (error.device, error.phase, error.planned_bytes) == ("cpu", "inference", 12_345)
    assert before / 2 < error.allocated_bytes < 2 * before
    assert "in phase inference" in str(error)
    assert "12,345 bytes" in str(error)
    assert f"{error.allocated_bytes:,} bytes were allocated" in str(error)
    assert str(error.__cause__) in str(error)
    assert len(str(error).splitlines()) == 1


def test_a_failure_in_the_backward_pass_is_translated():
    class Greedy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad + torch.empty(TOO_MUCH, dtype=torch.uint8).sum()

    x = torch.ones(3, requires_grad=True)
    with pytest.raises(OutOfMemory), translating_out_of_memory("cpu", "step"):
        Greedy.apply(x).sum().backward()


def test_an_inner_phase_is_the_one_that_is_named():
    with pytest.raises(OutOfMemory) as caught, translating_out_of_memory("cpu", "train"), translating_out_of_memory("cpu", "step", 7):
        raise MemoryError
    assert (caught.value.phase, caught.value.planned_bytes) == ("step", 7)


def test_what_the_failed_frames_held_is_let_go():
    """A traceback keeps its frames, they keep their tensors, and a smaller attempt in the same process would fail too."""
    held = []

    def greedy():
        large = torch.zeros(1000)
        held.append(weakref.ref(large))
        torch.empty(TOO_MUCH, dtype=torch.uint8)

    with pytest.raises(OutOfMemory) as caught, translating_out_of_memory("cpu", "step"):
        greedy()
    gc.collect()
    assert caught.value.__cause__ is not None
    assert held[0]() is None


def test_out_of_memory_keeps_its_figures_across_processes():
    import pickle

    error = pickle.loads(pickle.dumps(OutOfMemory("too much", "mps", "step", 2, 3)))  # noqa: S301
    assert (str(error), error.details()) == ("too much", {"device": "mps", "phase": "step", "planned_bytes": 2, "allocated_bytes": 3})
    assert is_out_of_memory(error)
    assert is_out_of_memory(OutOfMemory("a killed child knows no device"))


def a_traceback(last):
    return f'warning: something\nTraceback (most recent call last):\n  File "x.py", line 1, in <module>\n    f()\n{last}\n'


@pytest.mark.parametrize(
    ("exit_code", "output"),
    [
        *((code, "") for code in (-9, 137)),
        (-9, "epoch 3\n"),
        *((code, NDARRAY.format("total bytes of NDArray > 2**32")) for code in (-6, 134)),
        (-6, NDARRAY.format("product of dimension sizes > 2**31")),
        (-6, NDARRAY.format("NDArray dimension length > INT_MAX")),
        (-6, "libc++abi: terminating due to uncaught exception of type std::bad_alloc: std::bad_alloc"),
        (-6, "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n"),
        (-6, "python(1,0x2) malloc: *** mach_vm_map(size=1152921504606846976) failed\n*** error: can't allocate region\n"),
        (134, f"failed assertion `{MPS_COMMAND}'"),
        (-9, a_traceback(f"RuntimeError: {MPS}")),
        (1, a_traceback("MemoryError")),
        (1, a_traceback("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 1.00 EiB for an array")),
        (1, a_traceback(f"torch.OutOfMemoryError: {CUDA}").replace("torch.OutOfMemoryError", "RuntimeError")),
    ],
)  # fmt: skip
def test_exits_that_are_out_of_memory(exit_code, output):
    assert exit_is_out_of_memory(exit_code, output)


@pytest.mark.parametrize(
    ("exit_code", "output"),
    [
        *((code, "") for code in (1, 2, 3, -6, 134, -11, 139, -15, 143, 130)),
        (-9, a_traceback("ValueError: there is not enough memory for that many rows")),
        (-9, a_traceback("KeyError: 'MemoryError'")),
        (137, a_traceback("RuntimeError: CUDA error: an illegal memory access was encountered")),
        (-6, a_traceback("AssertionError")),
        (-6, "Fatal Python error: Aborted"),
        (-6, NDARRAY.format("buffer is not large enough. Must be 960 bytes")),  # a defect in a kernel (pytorch 136132)
        (-6, NDARRAY.format("subRange.start (8192) is not less than length of dimension[1] (512)")),
        (-11, NDARRAY.format("total bytes of NDArray > 2**32")),
        (1, MPS),  # it said so and went on
    ],
)  # fmt: skip
def test_exits_that_are_not(exit_code, output):
    assert not exit_is_out_of_memory(exit_code, output)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGABRT])
@pytest.mark.parametrize("shell", [False, True], ids=["as a child", "as a shell's child"])
def test_a_real_child_killed_by_a_signal(signum, shell):
    """-9 and -6 from the child itself, 137 and 134 where a shell or a container stands between."""
    assertion = NDARRAY.format("total bytes of NDArray > 2**32") if signum == signal.SIGABRT else ""
    code = f"import os, sys; sys.stderr.write({assertion!r}); sys.stderr.flush(); os.kill(os.getpid(), {int(signum)})"
    command = [sys.executable, "-c", code]
    if shell:
        command = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == (128 + signum if shell else -signum)
    assert exit_is_out_of_memory(done.returncode, done.stderr)


def test_a_real_child_with_a_memory_error_before_our_own_handler():
    done = subprocess.run([sys.executable, "-c", "bytearray(2**60)"], capture_output=True, text=True)
    assert done.returncode == 1
    assert exit_is_out_of_memory(done.returncode, done.stderr)
    done = subprocess.run([sys.executable, "-c", "raise ValueError('out of memory')"], capture_output=True, text=True)
    assert not exit_is_out_of_memory(done.returncode, done.stderr)


class FakeMPS:
    """torch.mps as far as `hgt.device.device` uses it: 16 GiB recommended, counted like the allocator's."""

    def __init__(self):
        self.recommended, self.allocated, self.driver, self.fraction, self.clears = 16 * GIB, 0, 0, None, 0

    def recommended_max_memory(self):
        return self.recommended

    def set_per_process_memory_fraction(self, fraction):
        assert isinstance(fraction, float), "torch insists"
        self.fraction = fraction

    def current_allocated_memory(self):
        return self.allocated

    def driver_allocated_memory(self):
        return self.driver

    def empty_cache(self):
        self.clears += 1
        self.driver = self.allocated


@pytest.fixture
def mps(monkeypatch):
    """A Mac's GPU as far as `hgt.device.device` looks at it."""
    fake = FakeMPS()
    monkeypatch.setattr(torch, "mps", fake)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)

    def unsupported():
        raise RuntimeError("Allocator for mps is not a DeviceAllocator.")

    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", unsupported)
    monkeypatch.setattr(torch.accelerator, "max_memory_reserved", unsupported)
    return fake


@pytest.fixture
def cuda(monkeypatch):
    """An 80 GiB card of which 60 GiB are free."""
    fake = FakeMPS()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (60 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fake.set_per_process_memory_fraction)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 1)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 2)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 4)
    return fake


@pytest.mark.parametrize(("limit", "fraction"), [(None, 1.0), (10 * GIB, 10 / 16), (64 * GIB, 1.0), (1, 1 / (16 * GIB))])
def test_the_cap_on_mps_is_a_fraction_of_the_recommended_memory_and_never_none(mps, limit, fraction):
    assert prepare_device("mps", limit) == torch.device("mps")
    assert mps.fraction == fraction > 0, "0 is torch's word for no limit"


@pytest.mark.parametrize(("limit", "fraction"), [(None, 1.0), (10 * GIB, 10 / 80), (100 * GIB, 1.0)])
def test_the_cap_on_cuda_is_a_fraction_of_all_its_memory(cuda, limit, fraction):
    prepare_device("cuda", limit)
    assert cuda.fraction == fraction


def test_a_limit_bounds_what_is_planned_with(mps, cuda):
    assert probe_device("mps").limit_bytes == 16 * GIB
    assert probe_device("mps", 10 * GIB).limit_bytes == 10 * GIB
    assert probe_device("cuda").limit_bytes == 60 * GIB
    assert probe_device("cuda", 70 * GIB).limit_bytes == 60 * GIB
    assert probe_device("cpu", 1 << 20).limit_bytes == 1 << 20
    assert probe_device(None).type == "mps"


def test_the_cpu_has_no_cap_of_torchs():
    assert prepare_device("cpu", 1 << 20) == torch.device("cpu")
    assert len(torch.zeros(1 << 20)) == 1 << 20


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_of_nothing_is_refused(limit):
    with pytest.raises(InputError, match="must be above 0 bytes"):
        cap_bytes("cpu", limit)


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"Device cuda is not available on this machine; available:.*cpu"):
        probe_device("cuda")


def test_the_cpus_limit_is_what_its_container_leaves(monkeypatch):
    free = probe_device("cpu").limit_bytes
    monkeypatch.setattr(device_module.cgroup, "available_bytes", lambda: 1 << 20)
    assert probe_device("cpu").limit_bytes == 1 << 20
    monkeypatch.setattr(device_module.cgroup, "available_bytes", lambda: free * 1000)
    assert free / 2 < probe_device("cpu").limit_bytes < free * 2


def test_chip_name():
    assert chip_name()
    assert "\n" not in chip_name()


def test_the_cpus_peak_stays_when_the_memory_is_gone():
    before = peak_memory("cpu").process_bytes
    now = memory_in_use("cpu").process_bytes
    size = max(before - now, 0) + (100 << 20)
    block = np.ones(size, np.uint8)
    assert block.sum() == size
    del block
    peak = peak_memory("cpu").process_bytes
    assert before + (60 << 20) < peak < before + (200 << 20)
    assert memory_in_use("cpu").process_bytes < peak
    assert peak_memory_bytes("cpu") == peak


@pytest.mark.skipif(sys.platform != "linux", reason="Linux hands a parent's peak on to its children")
def test_the_peak_is_not_the_parents():
    child = (
        "import resource; from hgt.device.device import peak_memory; "
        "print(peak_memory('cpu').process_bytes, resource.getrusage(0).ru_maxrss)"
    )
    parent = f"import subprocess, sys; block = b'x' * {GIB}; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    done = subprocess.run([sys.executable, "-c", parent], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    peak, resources = map(int, done.stdout.split())
    assert resources * 1024 > GIB, "if the kernel no longer does this, the work-around may go"
    assert 50 << 20 < peak < GIB


def test_cudas_peaks_are_its_allocators(cuda):
    peak = peak_memory("cuda")
    assert (peak.allocated_bytes, peak.reserved_bytes) == (3, 4)
    assert (memory_in_use("cuda").allocated_bytes, memory_in_use("cuda").reserved_bytes) == (1, 2)
    assert peak_memory_bytes("cuda") == 4


def test_mps_peak_is_the_highest_that_was_seen_at_the_end_of_a_phase(mps):
    memory = DeviceMemory("mps", {})
    for allocated, driver in ((2, 3), (5, 9), (1, 4)):
        with memory.phase("step"):
            mps.allocated, mps.driver = allocated * GIB, driver * GIB
    assert (memory.peak.allocated_bytes, memory.peak.reserved_bytes) == (5 * GIB, 9 * GIB)
    assert memory.peak.process_bytes > 0
    assert memory.as_dict()["peak_memory_bytes"] == 9 * GIB


def test_mps_peak_takes_what_the_allocator_remembers_of_the_middle_of_a_phase(mps, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", lambda: 7 * GIB)
    monkeypatch.setattr(torch.accelerator, "max_memory_reserved", lambda: 8 * GIB)
    mps.allocated, mps.driver = GIB, 9 * GIB  # compiled graphs besides what the allocator counts
    peak = peak_memory("mps")
    assert (peak.allocated_bytes, peak.reserved_bytes) == (7 * GIB, 9 * GIB)


def test_clearing_measures_first(mps):
    memory = DeviceMemory("mps", {})
    mps.allocated, mps.driver = GIB, 6 * GIB
    memory.clear_cache()
    assert mps.clears == 1
    assert mps.driver == GIB
    assert memory.peak.reserved_bytes == 6 * GIB


@pytest.mark.parametrize(
    ("allocated", "driver", "limit", "clears"),
    [
        (4, 12, None, 0),  # 75 % of the cap
        (4, 13, None, 1),  # 81 %
        (4, 9, 10 * GIB, 1),  # of a smaller cap
        (12, 13, None, 0),  # full of tensors: clearing would only lose the compiled graphs, step after step
    ],
)
def test_the_cache_is_cleared_under_pressure_alone(mps, allocated, driver, limit, clears):
    memory = DeviceMemory("mps", {}, limit)
    with memory.phase("step"):
        mps.allocated, mps.driver = allocated * GIB, driver * GIB
    assert mps.clears == clears
    assert memory.peak.reserved_bytes == driver * GIB


def test_a_step_that_needs_most_of_the_cap_keeps_its_cache(mps, monkeypatch):
    """Between the steps nothing is allocated, but the next one needs the same blocks again."""
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", lambda: 13 * GIB)
    monkeypatch.setattr(torch.accelerator, "max_memory_reserved", lambda: 14 * GIB)
    memory = DeviceMemory("mps", {})
    with memory.phase("step"):
        mps.allocated, mps.driver = GIB, 14 * GIB
    assert mps.clears == 0


def test_a_failed_phase_names_its_plan_and_clears_the_cache(mps):
    memory = DeviceMemory("mps", {"step": 123})
    with pytest.raises(OutOfMemory) as caught, memory.phase("step"):
        mps.allocated = 4 * GIB
        raise RuntimeError(MPS)
    assert caught.value.details() == {"device": "mps", "phase": "step", "planned_bytes": 123, "allocated_bytes": 4 * GIB}
    assert MPS in str(caught.value)
    assert mps.clears == 1
    with pytest.raises(OutOfMemory) as caught, memory.phase("another"):
        raise MemoryError
    assert caught.value.device == "cpu", "the host ran out while the GPU was busy"
    assert caught.value.planned_bytes is None


def test_clearing_the_cpus_cache_does_nothing():
    clear_cache("cpu")
    memory = DeviceMemory("cpu", {})
    memory.clear_cache()
    assert not memory.is_under_pressure()


def test_the_higher_of_two_uses():
    assert MemoryUse(1, 5, 2).or_higher(MemoryUse(3, 4, 2)) == MemoryUse(3, 5, 2)


@pytest.mark.parametrize(("given", "threads"), [("1", 1), ("1,2", 1), (" 1 ", 1), ("", None), ("0", None), ("many", None)])
def test_omp_num_threads_as_openmp_reads_it(monkeypatch, given, threads):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    try:
        configure_threads()
        assert torch.get_num_threads() == (threads or before)
    finally:
        torch.set_num_threads(before)
