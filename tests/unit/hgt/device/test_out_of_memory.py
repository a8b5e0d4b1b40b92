"""Every form of out-of-memory, real ones where they can be had, and what must not count."""

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

from hgt.device.out_of_memory import (
    MemoryDeath,
    ProgramEnd,
    memory_death,
    out_of_memory_device,
    translating_out_of_memory,
)
from hgt.errors import HgtError, OutOfMemory, TrainingDiverged

TOO_MUCH = 2**60

# As torch 2.13 says them.
MPS = (
    "MPS backend out of memory (MPS allocated: 9.57 GiB, other allocations: 17.35 GiB, max allowed:"
    " 27.20 GiB). Tried to allocate 292.50 MiB on private pool. Use"
    " PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for memory allocations (may cause"
    " system failure)."
)
MPS_BUFFER = "Invalid buffer size: 19.45 GiB"
MPS_COMMAND = (
    "MPS command buffer failed: Insufficient Memory"
    " (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
)
CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.18 GiB of"
    " which 1.21 GiB is free. Including non-PyTorch memory, this process has 77.96 GiB memory in"
    " use."
)
METAL_PATH = (
    "/AppleInternal/Library/BuildRoots/b11baf73/Library/Caches/com.apple.xbs/"
    "Sources/MetalPerformanceShaders/MPSCore/Types/"
)
NDARRAY = (
    METAL_PATH
    + "MPSNDArray.mm:850: failed assertion `[MPSNDArray initWithDevice:descriptor:isTextureBacked:]"
    " Error: {}'"
)

MESSAGES = [
    (RuntimeError(MPS), "mps"),
    (RuntimeError(MPS_BUFFER), "mps"),
    (RuntimeError(MPS_COMMAND), "mps"),
    (torch.OutOfMemoryError(CUDA), "cuda"),
    (torch.OutOfMemoryError("Allocation on device"), "cuda"),
    (torch.AcceleratorError("CUDA error: out of memory"), "cuda"),
    (RuntimeError("CUDA driver error: out of memory"), "cuda"),
    (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        "cuda",
    ),
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
    RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, mps:0 and"
        " cpu!"
    ),
    RuntimeError(
        "view size is not compatible with input tensor's size and stride (at least one dimension"
        " spans memory)"
    ),
    NotImplementedError(
        "The operator 'aten::segment_reduce' is not currently implemented for the MPS device."
    ),
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
    assert out_of_memory_device(error) is None
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
    with (
        pytest.raises(OutOfMemory) as caught,
        translating_out_of_memory("cpu", "inference", 12_345),
    ):
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
    with (
        pytest.raises(OutOfMemory) as caught,
        translating_out_of_memory("cpu", "train"),
        translating_out_of_memory("cpu", "step", 7),
    ):
        raise MemoryError
    assert (caught.value.phase, caught.value.planned_bytes) == ("step", 7)


def test_what_the_failed_frames_held_is_let_go():
    """A traceback keeps its frames, they keep their tensors, and a smaller attempt in the same
    process would fail too.
    """
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
    assert (str(error), error.details()) == (
        "too much",
        {"device": "mps", "phase": "step", "planned_bytes": 2, "allocated_bytes": 3},
    )
    assert out_of_memory_device(error) == "mps"


def a_traceback(last):
    return (
        'warning: something\nTraceback (most recent call last):\n  File "x.py", line 1, in'
        f" <module>\n    f()\n{last}\n"
    )


@pytest.mark.parametrize(
    ("exit_code", "output"),
    [
        *((code, "") for code in (-9, 137)),
        (-9, "epoch 3\n"),
        *((code, NDARRAY.format("total bytes of NDArray > 2**32")) for code in (-6, 134)),
        (-6, NDARRAY.format("product of dimension sizes > 2**31")),
        (-6, NDARRAY.format("NDArray dimension length > INT_MAX")),
        (
            -6,
            (
                "libc++abi: terminating due to uncaught exception of type std::bad_alloc:"
                " std::bad_alloc"
            ),
        ),
        (
            -6,
            (
                "terminate called after throwing an instance of 'std::bad_alloc'\n  what(): "
                " std::bad_alloc\n"
            ),
        ),
        (
            -6,
            (
                "python(1,0x2) malloc: *** mach_vm_map(size=1152921504606846976) failed\n*** error:"
                " can't allocate region\n"
            ),
        ),
        (134, f"failed assertion `{MPS_COMMAND}'"),
        (-9, a_traceback(f"RuntimeError: {MPS}")),
        (1, a_traceback("MemoryError")),
        (
            1,
            a_traceback(
                "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 1.00 EiB for an"
                " array"
            ),
        ),
        (
            1,
            a_traceback(f"torch.OutOfMemoryError: {CUDA}").replace(
                "torch.OutOfMemoryError", "RuntimeError"
            ),
        ),
    ],
)
def test_exits_that_are_out_of_memory(exit_code, output):
    how = memory_death(ProgramEnd(exit_code, output))
    wordless = exit_code in (-9, 137) and "Traceback" not in output
    assert how is (MemoryDeath.KILLED if wordless else MemoryDeath.FAILED)


@pytest.mark.parametrize(
    ("exit_code", "output"),
    [
        *((code, "") for code in (1, 2, 3, -6, 134, -11, 139, -15, 143, 130)),
        (-9, a_traceback("ValueError: there is not enough memory for that many rows")),
        (-9, a_traceback("KeyError: 'MemoryError'")),
        (137, a_traceback("RuntimeError: CUDA error: an illegal memory access was encountered")),
        (-6, a_traceback("AssertionError")),
        (-6, "Fatal Python error: Aborted"),
        # a defect in a kernel (pytorch 136132)
        (-6, NDARRAY.format("buffer is not large enough. Must be 960 bytes")),
        (-6, NDARRAY.format("subRange.start (8192) is not less than length of dimension[1] (512)")),
        (-11, NDARRAY.format("total bytes of NDArray > 2**32")),
        (1, MPS),  # it said so and went on
    ],
)  # fmt: skip
def test_exits_that_are_not(exit_code, output):
    assert memory_death(ProgramEnd(exit_code, output)) is None


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGABRT])
@pytest.mark.parametrize("shell", [False, True], ids=["as a child", "as a shell's child"])
def test_a_real_child_killed_by_a_signal(signum, shell):
    """-9 and -6 from the child itself, 137 and 134 where a shell or a container stands between."""
    assertion = NDARRAY.format("total bytes of NDArray > 2**32") if signum == signal.SIGABRT else ""
    code = (
        f"import os, sys; sys.stderr.write({assertion!r}); sys.stderr.flush(); os.kill(os.getpid(),"
        f" {int(signum)})"
    )
    command = [sys.executable, "-c", code]
    if shell:
        command = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == (128 + signum if shell else -signum)
    assert memory_death(ProgramEnd(done.returncode, done.stderr))


def test_a_real_child_with_a_memory_error_before_our_own_handler():
    done = subprocess.run(
        [sys.executable, "-c", "bytearray(2**60)"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert memory_death(ProgramEnd(done.returncode, done.stderr))
    done = subprocess.run(
        [sys.executable, "-c", "raise ValueError('out of memory')"], capture_output=True, text=True
    )
    assert not memory_death(ProgramEnd(done.returncode, done.stderr))


def event(kind="ValueError", out_of_memory=False):
    return {"event": "error", "type": kind, "message": "said", "out_of_memory": out_of_memory}


DIVERGED = TrainingDiverged.__name__


@pytest.mark.parametrize(
    ("end", "how"),
    [
        (ProgramEnd(4, error=event("OutOfMemory", True)), MemoryDeath.REPORTED),
        (ProgramEnd(1, MPS_COMMAND, event(DIVERGED)), MemoryDeath.REPORTED),
        (ProgramEnd(1, "", event(DIVERGED)), None),
        (ProgramEnd(1, MPS_COMMAND, event()), None),
        (ProgramEnd(137, error=event()), None),
        (ProgramEnd(137, error=event(), in_container=True), None),
        (ProgramEnd(137, in_container=True), MemoryDeath.KILLED),
        (ProgramEnd(137, a_traceback("ValueError"), in_container=True), MemoryDeath.KILLED),
        (
            ProgramEnd(
                134, NDARRAY.format("product of dimension sizes > 2**31"), in_container=True
            ),
            MemoryDeath.FAILED,
        ),
        (ProgramEnd(1, a_traceback("MemoryError"), in_container=True), MemoryDeath.FAILED),
        (ProgramEnd(1, in_container=True), None),
        (ProgramEnd(137, in_container=True, over_limit=True), MemoryDeath.OVER_LIMIT),
        (ProgramEnd(1, error=event(), in_container=True, over_limit=True), MemoryDeath.OVER_LIMIT),
        (ProgramEnd(0, in_container=True, over_limit=True), MemoryDeath.OVER_LIMIT),
        (ProgramEnd(0, MPS), None),
        (
            ProgramEnd(said="Crashed: Flow run process exited with non-zero status code -9."),
            MemoryDeath.KILLED,
        ),
        (ProgramEnd(said="Crashed: container exited with status code: 137"), MemoryDeath.KILLED),
        (ProgramEnd(said="Crashed: container exited with status code: 1371"), None),
        (ProgramEnd(said="OutOfMemory: The host ran out of memory"), MemoryDeath.FAILED),
        (ProgramEnd(said="OutOfMemory"), MemoryDeath.FAILED),
        (ProgramEnd(said="Failed: OutOfMemory"), None),
        (ProgramEnd(), None),
    ],
)
def test_what_a_parent_saw_is_judged(end, how):
    assert memory_death(end) is how
