"""Chooses by device which formulation computes an operation. Nothing else does.

In: a device's type. Out: the operations over edges (`edges.py`), over nodes (`nodes.py`), and the
mask of dropout (`dropout_mask.py`), in the fastest formulation that runs there. The formulations
compute the same up to rounding and do not know this module.

kernels in the table of traits:
    chunked: torch's operations, a chunk at a time; runs on every device
    fused: the CPU's
    triton: Triton's, which comes with torch's CUDA builds for Linux; chunked where it is missing
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

from torch import Tensor

from hgt.device.traits import traits_of
from hgt.kernels import dropout_mask
from hgt.kernels.edges import ChunkedKernels, FusedKernels
from hgt.kernels.nodes import CpuNodeKernels, NodeKernels


@functools.cache
def edge_kernels(device_type: str) -> ChunkedKernels:
    """The operations over edges."""
    chunk = traits_of(device_type).edges_at_a_time
    if _uses_triton(device_type):
        from hgt.kernels.triton_edges import TritonKernels

        return TritonKernels(chunk)
    return FusedKernels(chunk) if _is_fused(device_type) else ChunkedKernels(chunk)


@functools.cache
def node_kernels(device_type: str) -> NodeKernels:
    """The products that each node type does with matrices of its own."""
    if _uses_triton(device_type):
        from hgt.kernels.triton_nodes import TritonNodeKernels

        return TritonNodeKernels()
    return CpuNodeKernels() if _is_fused(device_type) else NodeKernels()


@functools.cache
def mask_kernel(device_type: str) -> Callable[[Tensor, Tensor, int], None]:
    """`dropout_mask.fill` without its number of hashes at a time."""
    if _uses_triton(device_type):
        from hgt.kernels.triton_dropout import fill

        return fill
    at_a_time = traits_of(device_type).hashes_at_a_time
    return functools.partial(dropout_mask.fill, hashes_at_a_time=at_a_time)


def _uses_triton(device_type: str) -> bool:
    has_triton = importlib.util.find_spec("triton") is not None
    return traits_of(device_type).kernels == "triton" and has_triton


def _is_fused(device_type: str) -> bool:
    return traits_of(device_type).kernels == "fused"
