"""The operations over edges that an HGT step consists of, behind one seam: how they are computed depends on the device.

edge_dot:          per edge and head, the inner product of a row from either side        (scores; gradients of weights)
add_weighted_sum:  per row and head, the weighted sum of the other side's rows over its edges  (messages; gradients of rows)
weighted_table:    the same as a table of its own

Rows come head by head, [H, num_rows, D]: a contiguous table, or node rows [num_rows, H * D] seen so (`heads`). No formulation holds
more than a chunk of gathered rows: never an [edges x hidden] tensor.
Shapes: E edges of one group, H heads, D dimensions per head; weights [E, H] float32.
"""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor
from torch.nn import functional

from hgt.message_graph import SortedEdges

# On two CPU cores, 180,000 edges: 2,048 rows (2 MB) at a time 0.046 s, 8,192 rows 0.067 s. Accelerators want fewer, larger chunks.
CPU_CHUNK = 2_048
ACCELERATOR_CHUNK = 32_768


def heads(rows: Tensor, num_heads: int) -> Tensor:
    """Node rows [num_rows, H * D] seen head by head: [H, num_rows, D]."""
    return rows.view(len(rows), num_heads, -1).transpose(0, 1)


class ChunkedKernels:
    """Gather, multiply, add, a chunk of edges at a time: runs on every device. All formulations have these three methods."""

    def __init__(self, chunk: int = ACCELERATOR_CHUNK):
        self.chunk = chunk

    def edge_dot(self, rows: Tensor, others: Tensor, edges: SortedEdges, out: Tensor) -> None:
        """`out[e, h] = rows[h, row_e] . others[h, other_e]` in the order of `edges`. out: [E, H] float32"""
        for start in range(0, len(out), self.chunk):
            part = slice(start, start + self.chunk)
            product = _full_precision(_gathered(rows, edges.row[part]))
            product *= _gathered(others, edges.other[part])
            torch.sum(product, dim=-1, out=out[part])

    def add_weighted_sum(self, out: Tensor, summands: Tensor, weights: Tensor, edges: SortedEdges) -> None:
        """`out[h, i] += sum over edges e of row i of weights[e, h] * summands[h, other_e]`. out: float32

        `weights` are in the group's own order; `edges.order` says where each edge's stands.
        """
        weights = _in_order(weights, edges)
        for start in range(0, len(weights), self.chunk):
            part = slice(start, start + self.chunk)
            message = _full_precision(_gathered(summands, edges.other[part])).mul_(weights[part].unsqueeze(-1))
            _head_rows(out).index_add_(0, _places(out, edges.row[part]).flatten(), message.view(-1, out.shape[2]))

    def weighted_table(self, num_rows: int, summands: Tensor, weights: Tensor, edges: SortedEdges) -> Tensor:
        """[H, num_rows, D] float32: `add_weighted_sum` to a table of zeros."""
        table = weights.new_zeros(len(summands), num_rows, summands.shape[2])
        self.add_weighted_sum(table, summands, weights, edges)
        return table


class BagKernels(ChunkedKernels):
    """CPU: `embedding_bag` gathers, weights and sums in one pass (400,000 edges: 0.03 s, by chunks 0.11 s)."""

    def __init__(self, chunk: int = CPU_CHUNK):
        super().__init__(chunk)

    def add_weighted_sum(self, out: Tensor, summands: Tensor, weights: Tensor, edges: SortedEdges) -> None:
        sums = _bags(summands, _in_order(weights, edges), edges.other, edges.ptr)
        _head_rows(out).index_add_(0, _places(out, edges.rows.long()).t().flatten(), sums)

    def weighted_table(self, num_rows: int, summands: Tensor, weights: Tensor, edges: SortedEdges) -> Tensor:
        every_row = torch.searchsorted(edges.row, torch.arange(num_rows + 1, dtype=edges.row.dtype), out_int32=True)
        return _bags(summands, _in_order(weights, edges), edges.other, every_row).view(len(summands), num_rows, -1)


def _bags(summands: Tensor, weights: Tensor, other: Tensor, ptr: Tensor) -> Tensor:
    """[H * num_bags, D] weighted sums of the summands' rows `other`, between each two of `ptr`."""
    num_edges, num_heads = weights.shape
    starts = ptr[:-1] + num_edges * torch.arange(num_heads, dtype=ptr.dtype).unsqueeze(1)
    return functional.embedding_bag(
        _places(summands, other).t().flatten(),
        _full_precision(_head_rows(summands)),
        torch.cat([starts.flatten(), ptr.new_tensor([num_edges * num_heads])]),
        mode="sum",
        per_sample_weights=weights.t().flatten(),
        include_last_offset=True,
    )


def _head_rows(x: Tensor) -> Tensor:
    """The rows of [H, num_rows, D] in the order in which they lie in memory: [H * num_rows, D]."""
    return (x if x.is_contiguous() else x.transpose(0, 1)).view(-1, x.shape[2])


def _places(x: Tensor, index: Tensor) -> Tensor:
    """[len(index), H] where each head of the rows `index` stands among `_head_rows(x)`."""
    head, row = x.stride(0) // x.shape[2], x.stride(1) // x.shape[2]
    return (index * row).unsqueeze(1) + head * torch.arange(len(x), dtype=index.dtype, device=index.device)


def _gathered(x: Tensor, index: Tensor) -> Tensor:
    """[len(index), H, D]"""
    if x.is_contiguous():
        return _head_rows(x).index_select(0, _places(x, index).flatten()).view(len(index), len(x), -1)
    return x.transpose(0, 1).index_select(0, index)


def _in_order(weights: Tensor, edges: SortedEdges) -> Tensor:
    return weights if edges.order is None else weights.index_select(0, edges.order)


def _full_precision(rows: Tensor) -> Tensor:
    """Half-precision rows as float32: products are added up in full precision."""
    return rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows


@functools.cache
def edge_kernels(device_type: str) -> ChunkedKernels:
    """The fastest formulation that runs on this kind of device."""
    if device_type == "cpu":
        return BagKernels()
    if device_type == "cuda" and importlib.util.find_spec("triton") is not None:
        from hgt.triton_kernels import TritonKernels

        return TritonKernels()
    return ChunkedKernels()
