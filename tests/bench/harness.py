"""What the benchmarks share: timing, peaks, child processes, and a header that says on what they
ran.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from hgt.config import RunConfig
from hgt.device.host import chip_name
from hgt.device.memory_use import peak_memory

Result = TypeVar("Result")

# What tables of time and memory are measured with, so that one can be compared with another,
# whatever the defaults have become since.
_MODEL_OF_TABLES = {
    "num_layers": 2,
    "dropout": 0.1,
    "input_dropout": 0.0,
    "decoder": "distmult",
    "num_negatives": 256,
    "num_other_negatives": 0,
    "softmax_correction": 0.0,
    "average_decay": 0.0,
    "learning_rate": 0.001,
    "rate_decay_epochs": 0,
    "contrastive_weight": 0.5,
    "isotropy_weight": 0.0,
}


class ChildFailed(RuntimeError):
    """A measurement's process ended with an error; says which."""


def bench_config(**values: Any) -> RunConfig:
    """The configuration of the README's tables of time and memory, with other values where
    given.
    """
    return RunConfig.from_flat(_MODEL_OF_TABLES | values)


def header(device: str) -> str:
    name = (
        torch.cuda.get_device_name(0)
        if device == "cuda"
        else f"{chip_name()}, {torch.get_num_threads()} threads"
    )
    return (
        f"{time.strftime('%Y-%m-%d')}  {device} ({name})  torch {torch.__version__}  python"
        f" {platform.python_version()}"
    )


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


def timed(function: Callable[[], Result], device: str) -> tuple[float, Result]:
    """Wall time of one call, and what it returned."""
    synchronize(device)
    start = time.perf_counter()
    result = function()
    synchronize(device)
    return time.perf_counter() - start, result


def timings(
    function: Callable[[], object], device: str, repeats: int, warm_up: int = 1
) -> list[float]:
    """Wall times of `repeats` calls, after `warm_up` calls."""
    for _ in range(warm_up):
        function()
    return [timed(function, device)[0] for _ in range(repeats)]


def seconds(function: Callable[[], object], device: str, repeats: int, warm_up: int = 1) -> float:
    """Median wall time of a call, after `warm_up` calls."""
    return statistics.median(timings(function, device, repeats, warm_up))


def warm_up_calls(device: str) -> int:
    """An accelerator compiles kernels in the first call and settles its allocator in the second."""
    return 1 if device == "cpu" else 2


def peak_bytes(device: str) -> int:
    """CUDA: most that tensors held; CPU: the process's peak."""
    return peak_memory(device).allocated_bytes


def reset_peak(device: str) -> None:
    """Let `peak_bytes` begin anew from what is held now. On the CPU as far as the kernel lets us
    (Linux).
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def matmul_flops(
    device: str,
    shape: tuple[int, int, int] = (4096, 4096, 4096),
    dtype: torch.dtype = torch.float32,
    repeats: int = 5,
) -> float:
    """Best measured speed of a product [n, k] x [k, m], operations per second."""
    n, k, m = shape
    a, b = (
        torch.randn(n, k, device=device, dtype=dtype),
        torch.randn(k, m, device=device, dtype=dtype),
    )
    out = torch.empty(n, m, device=device, dtype=dtype)
    return 2 * n * k * m / min(timings(lambda: torch.mm(a, b, out=out), device, repeats))


def copy_bandwidth(device: str, num_bytes: int = 1 << 29, repeats: int = 5) -> float:
    """Best measured bytes per second of a copy, read and written bytes counted both."""
    a = torch.randn(num_bytes // 4, device=device)
    b = torch.empty_like(a)
    return 2 * num_bytes / min(timings(lambda: b.copy_(a), device, repeats))


def measure_in_child(module: str, arguments: list[str], gpu: str | None = None) -> dict[str, Any]:
    """Run `python -m <module> <arguments>`, which prints JSON as its last line. gpu: the only one
    that it sees. Raises ChildFailed.
    """
    environment = os.environ if gpu is None else os.environ | {"CUDA_VISIBLE_DEVICES": gpu}
    child = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if child.returncode:
        said = child.stderr.strip().splitlines() or [f"exit code {child.returncode}"]
        raise ChildFailed(said[-1][:160])
    return json.loads(child.stdout.splitlines()[-1])


def nodes_and_facts(size: str) -> tuple[int, int]:
    """`"5000/20000"` as a command line gives a graph's size."""
    num_nodes, num_facts = map(int, size.split("/"))
    return num_nodes, num_facts
