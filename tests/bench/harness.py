"""What the benchmarks share: timing, peaks, and a header that says on what they ran."""

from __future__ import annotations

import platform
import resource
import statistics
import time
from collections.abc import Callable

import torch


def header(device: str) -> str:
    name = torch.cuda.get_device_name(0) if device == "cuda" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    return f"{time.strftime('%Y-%m-%d')}  {device} ({name})  torch {torch.__version__}  python {platform.python_version()}"


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


def seconds(function: Callable[[], object], device: str, repeats: int, warm_up: int = 1) -> float:
    """Median wall time of a call, after `warm_up` calls."""
    for _ in range(warm_up):
        function()
    taken = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def peak_bytes(device: str) -> int:
    """CUDA: most that tensors held; CPU: the process's peak."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def matmul_flops(device: str, n: int = 4096, dtype: torch.dtype = torch.float32) -> float:
    """Measured peak of a square matrix product, operations per second."""
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / seconds(lambda: torch.mm(a, b), device, repeats=5)


def copy_bandwidth(device: str, num_bytes: int = 1 << 29) -> float:
    """Measured bytes per second of a copy, read and written bytes counted both."""
    a = torch.randn(num_bytes // 4, device=device)
    b = torch.empty_like(a)
    return 2 * num_bytes / seconds(lambda: b.copy_(a), device, repeats=5)
