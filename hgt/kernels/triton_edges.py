"""CUDA formulation of `edges`: one Triton kernel each, segments summed in registers instead of edge
by edge with atomics.

Imported on CUDA alone; Triton comes with torch's CUDA builds. Same results as the other
formulations up to rounding.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hgt.kernels.edges import ChunkedKernels
from hgt.messages.message_graph import EdgeGroup, SortedEdges

_EDGES_PER_PROGRAM = 16
_EDGES_AT_A_TIME = 4
_ROWS_PER_PROGRAM = 16


@triton.jit
def _edge_dot(
    rows, others, row, other, out, num_edges,
    ROW: tl.constexpr, ROW_HEAD, OTHER: tl.constexpr, OTHER_HEAD,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROW, OTHER: floats from one row to the next; ROW_HEAD, OTHER_HEAD: from one head to the
    next.
    """
    edge = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = edge < num_edges
    head = tl.arange(0, HEADS)
    column = tl.arange(0, DIM)
    r = tl.load(row + edge, mask=inside, other=0).to(tl.int64)
    o = tl.load(other + edge, mask=inside, other=0).to(tl.int64)
    at = (
        r[:, None, None] * ROW + head[None, :, None].to(tl.int64) * ROW_HEAD + column[None, None, :]
    )
    a = tl.load(rows + at, mask=inside[:, None, None], other=0.0).to(tl.float32)
    at = (
        o[:, None, None] * OTHER
        + head[None, :, None].to(tl.int64) * OTHER_HEAD
        + column[None, None, :]
    )
    b = tl.load(others + at, mask=inside[:, None, None], other=0.0).to(tl.float32)
    tl.store(
        out + edge[:, None].to(tl.int64) * HEADS + head[None, :],
        tl.sum(a * b, axis=2),
        mask=inside[:, None],
    )


@triton.jit
def _segment_sum(
    out, summands, weights, rows, ptr, other, order,
    ROW: tl.constexpr, ROW_HEAD, OTHER: tl.constexpr, OTHER_HEAD,
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
        weight = tl.load(
            weights + place[:, None].to(tl.int64) * HEADS + head[None, :],
            mask=inside[:, None],
            other=0.0,
        )
        at = (
            o[:, None, None] * OTHER
            + head[None, :, None].to(tl.int64) * OTHER_HEAD
            + column[None, None, :]
        )
        x = tl.load(summands + at, mask=inside[:, None, None], other=0.0).to(tl.float32)
        total += tl.sum(x * weight[:, :, None], axis=0)
    row = tl.load(rows + segment).to(tl.int64)
    tl.atomic_add(
        out + row * ROW + head[:, None].to(tl.int64) * ROW_HEAD + column[None, :],
        total,
        sem="relaxed",
    )


@triton.jit
def _table_rows(
    x,
    table,
    nodes,
    num_rows,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Node rows of x into a table, head by head; or, ADD, the table's rows added to those of x."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = (row < num_rows)[:, None, None]
    node = tl.load(nodes + row, mask=row < num_rows, other=0)
    head = tl.arange(0, HEADS)[None, :, None]
    column = tl.arange(0, DIM)[None, None, :]
    of_x = x + node[:, None, None] * (HEADS * DIM) + head * DIM + column
    of_table = table + (head.to(tl.int64) * num_rows + row[:, None, None]) * DIM + column
    if ADD:
        tl.atomic_add(
            of_x,
            tl.load(of_table, mask=inside, other=0.0).to(tl.float32),
            mask=inside,
            sem="relaxed",
        )
    else:
        tl.store(of_table, tl.load(of_x, mask=inside, other=0.0), mask=inside)


class TritonKernels(ChunkedKernels):
    """Needs powers of two for heads and dimensions per head, and float32 weights; anything else
    goes by chunks.
    """

    def per_edge(self, values: Tensor, node: Tensor) -> Tensor:
        return values[node]  # index_select and gather: four times as long on an H100

    def table(self, x: Tensor, group: EdgeGroup, num_heads: int) -> Tensor:
        dim = x.shape[1] // num_heads
        if not (_powers_of_two(num_heads, dim) and x.is_contiguous()):
            return super().table(x, group, num_heads)
        table = x.new_empty(num_heads, len(group.nodes), dim)
        _move_rows(x, table, group, add=False)
        return table

    def add_table(self, out: Tensor, group: EdgeGroup, table: Tensor) -> None:
        fits = (
            _powers_of_two(len(table), table.shape[2])
            and out.is_contiguous()
            and table.is_contiguous()
        )
        if not (fits and out.dtype == torch.float32):
            return super().add_table(out, group, table)
        return _move_rows(out, table, group, add=True)

    def _dot_by_target(self, rows: Tensor, others: Tensor, edges: SortedEdges, out: Tensor) -> None:
        if not _fits(rows, others, out):
            return super()._dot_by_target(rows, others, edges, out)
        num_heads, _, dim = rows.shape
        if len(out):
            _edge_dot[(triton.cdiv(len(out), _EDGES_PER_PROGRAM),)](
                rows,
                others,
                edges.row,
                edges.other,
                out,
                len(out),
                ROW=rows.stride(1),
                ROW_HEAD=rows.stride(0),
                OTHER=others.stride(1),
                OTHER_HEAD=others.stride(0),
                HEADS=num_heads,
                DIM=dim,
                BLOCK=_EDGES_PER_PROGRAM,
            )
        return None

    def add_weighted_sum(
        self, out: Tensor, summands: Tensor, weights: Tensor, edges: SortedEdges
    ) -> None:
        if not _fits(out, summands, weights):
            return super().add_weighted_sum(out, summands, weights, edges)
        num_heads, _, dim = out.shape
        if len(edges.rows):
            has_order = edges.order is not None
            _segment_sum[(len(edges.rows),)](
                out,
                summands,
                weights,
                edges.rows,
                edges.ptr,
                edges.other,
                edges.order if has_order else edges.other,
                ROW=out.stride(1),
                ROW_HEAD=out.stride(0),
                OTHER=summands.stride(1),
                OTHER_HEAD=summands.stride(0),
                HAS_ORDER=has_order,
                HEADS=num_heads,
                DIM=dim,
                BLOCK=_EDGES_AT_A_TIME,
                num_warps=2,
            )
        return None


def _move_rows(x: Tensor, table: Tensor, group: EdgeGroup, add: bool) -> None:
    num_heads, num_rows, dim = table.shape
    _table_rows[(triton.cdiv(num_rows, _ROWS_PER_PROGRAM),)](
        x, table, group.nodes, num_rows, HEADS=num_heads, DIM=dim, ADD=add, BLOCK=_ROWS_PER_PROGRAM
    )


def _powers_of_two(*sizes: int) -> bool:
    return all(n & (n - 1) == 0 for n in sizes)


def _fits(rows: Tensor, others: Tensor, per_edge: Tensor) -> bool:
    num_heads, _, dim = rows.shape
    return (
        _powers_of_two(num_heads, dim)
        and rows.stride(2) == others.stride(2) == 1
        and per_edge.is_contiguous()
        and per_edge.dtype == torch.float32
    )
