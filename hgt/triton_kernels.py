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
def _edge_dot(rows, others, row, other, out, num_edges, HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202
    edge = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = edge < num_edges
    column = tl.arange(0, HEADS * DIM)
    head = tl.arange(0, HEADS)
    r = tl.load(row + edge, mask=inside, other=0).to(tl.int64)
    o = tl.load(other + edge, mask=inside, other=0).to(tl.int64)
    a = tl.load(rows + r[:, None] * (HEADS * DIM) + column[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
    b = tl.load(others + o[:, None] * (HEADS * DIM) + column[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
    product = tl.sum(tl.reshape(a * b, (BLOCK, HEADS, DIM)), axis=2)
    tl.store(out + edge[:, None].to(tl.int64) * HEADS + head[None, :], product, mask=inside[:, None])


@triton.jit
def _segment_sum(  # noqa: ANN202
    out, summands, weights, rows, ptr, other, order,  # noqa: ANN001
    HAS_ORDER: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    segment = tl.program_id(0)
    start = tl.load(ptr + segment)
    stop = tl.load(ptr + segment + 1)
    column = tl.arange(0, HEADS * DIM)
    head = tl.arange(0, HEADS)
    total = tl.zeros((HEADS, DIM), dtype=tl.float32)
    for first in range(start, stop, BLOCK):
        edge = first + tl.arange(0, BLOCK)
        inside = edge < stop
        o = tl.load(other + edge, mask=inside, other=0).to(tl.int64)
        place = edge
        if HAS_ORDER:
            place = tl.load(order + edge, mask=inside, other=0)
        weight = tl.load(weights + place[:, None].to(tl.int64) * HEADS + head[None, :], mask=inside[:, None], other=0.0)
        x = tl.load(summands + o[:, None] * (HEADS * DIM) + column[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
        total += tl.sum(tl.reshape(x, (BLOCK, HEADS, DIM)) * weight[:, :, None], axis=0)
    row = tl.load(rows + segment).to(tl.int64)
    tl.atomic_add(out + row * (HEADS * DIM) + column, tl.reshape(total, (HEADS * DIM,)), sem="relaxed")


class TritonKernels(ChunkedKernels):
    """Needs powers of two for heads and dimensions per head, and float32 weights; anything else goes by chunks."""

    def edge_dot(self, rows: Tensor, others: Tensor, edges: SortedEdges, out: Tensor) -> None:
        num_heads = out.shape[1]
        if not _fits(rows, num_heads, out):
            return super().edge_dot(rows, others, edges, out)
        if len(out):
            grid = (triton.cdiv(len(out), _EDGES_PER_PROGRAM),)
            _edge_dot[grid](
                rows, others, edges.row, edges.other, out, len(out),
                HEADS=num_heads, DIM=rows.shape[1] // num_heads, BLOCK=_EDGES_PER_PROGRAM,
            )  # fmt: skip
        return None

    def add_weighted_sum(self, out: Tensor, summands: Tensor, weights: Tensor, edges: SortedEdges) -> None:
        num_heads = weights.shape[1]
        if not _fits(summands, num_heads, weights):
            return super().add_weighted_sum(out, summands, weights, edges)
        if len(edges.rows):
            has_order = edges.order is not None
            _segment_sum[(len(edges.rows),)](
                out, summands, weights, edges.rows, edges.ptr, edges.other, edges.order if has_order else edges.other,
                HAS_ORDER=has_order, HEADS=num_heads, DIM=out.shape[1] // num_heads, BLOCK=_EDGES_AT_A_TIME, num_warps=2,
            )  # fmt: skip
        return None


def _fits(rows: Tensor, num_heads: int, per_edge: Tensor) -> bool:
    dim = rows.shape[1] // num_heads
    powers = all(n & (n - 1) == 0 for n in (num_heads, dim))
    return powers and rows.is_contiguous() and per_edge.is_contiguous() and per_edge.dtype == torch.float32
