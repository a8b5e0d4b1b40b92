"""CUDA formulation of `edge_kernels`: one Triton kernel each, segments summed in registers instead of edge by edge with atomics.

Imported on CUDA alone; Triton comes with torch's CUDA builds. Same results as the other formulations up to rounding.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hgt.edge_kernels import ChunkedKernels
from hgt.message_graph import SortedEdges

_EDGES_PER_PROGRAM = 16
_EDGES_AT_A_TIME = 4


@triton.jit
def _edge_dot(  # noqa: ANN202
    rows, others, row, other, out, num_edges,  # noqa: ANN001
    ROW: tl.constexpr, ROW_HEAD, OTHER: tl.constexpr, OTHER_HEAD,  # noqa: ANN001
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROW, OTHER: floats from one row to the next; ROW_HEAD, OTHER_HEAD: from one head to the next."""
    edge = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = edge < num_edges
    head = tl.arange(0, HEADS)
    column = tl.arange(0, DIM)
    r = tl.load(row + edge, mask=inside, other=0).to(tl.int64)
    o = tl.load(other + edge, mask=inside, other=0).to(tl.int64)
    at = r[:, None, None] * ROW + head[None, :, None].to(tl.int64) * ROW_HEAD + column[None, None, :]
    a = tl.load(rows + at, mask=inside[:, None, None], other=0.0).to(tl.float32)
    at = o[:, None, None] * OTHER + head[None, :, None].to(tl.int64) * OTHER_HEAD + column[None, None, :]
    b = tl.load(others + at, mask=inside[:, None, None], other=0.0).to(tl.float32)
    tl.store(out + edge[:, None].to(tl.int64) * HEADS + head[None, :], tl.sum(a * b, axis=2), mask=inside[:, None])


@triton.jit
def _segment_sum(  # noqa: ANN202
    out, summands, weights, rows, ptr, other, order,  # noqa: ANN001
    ROW: tl.constexpr, ROW_HEAD, OTHER: tl.constexpr, OTHER_HEAD,  # noqa: ANN001
    HAS_ORDER: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROW, ROW_HEAD: strides of `out`; OTHER, OTHER_HEAD: of `summands`."""
    segment = tl.program_id(0)
    start = tl.load(ptr + segment)
    stop = tl.load(ptr + segment + 1)
    head = tl.arange(0, HEADS)
    column = tl.arange(0, DIM)
    total = tl.zeros((HEADS, DIM), dtype=tl.float32)
    for first in range(start, stop, BLOCK):
        edge = first + tl.arange(0, BLOCK)
        inside = edge < stop
        o = tl.load(other + edge, mask=inside, other=0).to(tl.int64)
        place = edge
        if HAS_ORDER:
            place = tl.load(order + edge, mask=inside, other=0)
        weight = tl.load(weights + place[:, None].to(tl.int64) * HEADS + head[None, :], mask=inside[:, None], other=0.0)
        at = o[:, None, None] * OTHER + head[None, :, None].to(tl.int64) * OTHER_HEAD + column[None, None, :]
        x = tl.load(summands + at, mask=inside[:, None, None], other=0.0).to(tl.float32)
        total += tl.sum(x * weight[:, :, None], axis=0)
    row = tl.load(rows + segment).to(tl.int64)
    tl.atomic_add(out + row * ROW + head[:, None].to(tl.int64) * ROW_HEAD + column[None, :], total, sem="relaxed")


class TritonKernels(ChunkedKernels):
    """Needs powers of two for heads and dimensions per head, and float32 weights; anything else goes by chunks."""

    def _dot_by_target(self, rows: Tensor, others: Tensor, edges: SortedEdges, out: Tensor) -> None:
        if not _fits(rows, others, out):
            return super()._dot_by_target(rows, others, edges, out)
        num_heads, _, dim = rows.shape
        if len(out):
            _edge_dot[(triton.cdiv(len(out), _EDGES_PER_PROGRAM),)](
                rows, others, edges.row, edges.other, out, len(out),
                ROW=rows.stride(1), ROW_HEAD=rows.stride(0), OTHER=others.stride(1), OTHER_HEAD=others.stride(0),
                HEADS=num_heads, DIM=dim, BLOCK=_EDGES_PER_PROGRAM,
            )  # fmt: skip
        return None

    def add_weighted_sum(self, out: Tensor, summands: Tensor, weights: Tensor, edges: SortedEdges) -> None:
        if not _fits(out, summands, weights):
            return super().add_weighted_sum(out, summands, weights, edges)
        num_heads, _, dim = out.shape
        if len(edges.rows):
            has_order = edges.order is not None
            _segment_sum[(len(edges.rows),)](
                out, summands, weights, edges.rows, edges.ptr, edges.other, edges.order if has_order else edges.other,
                ROW=out.stride(1), ROW_HEAD=out.stride(0), OTHER=summands.stride(1), OTHER_HEAD=summands.stride(0),
                HAS_ORDER=has_order, HEADS=num_heads, DIM=dim, BLOCK=_EDGES_AT_A_TIME, num_warps=2,
            )  # fmt: skip
        return None


def _fits(rows: Tensor, others: Tensor, per_edge: Tensor) -> bool:
    num_heads, _, dim = rows.shape
    powers = all(n & (n - 1) == 0 for n in (num_heads, dim))
    return powers and rows.stride(2) == others.stride(2) == 1 and per_edge.is_contiguous() and per_edge.dtype == torch.float32
