"""The two operations over edges that an HGT step consists of, behind one seam: how they are computed depends on the device.

edge_dot:          per edge and head, the inner product of a row from either side        (scores; gradients of weights)
add_weighted_sum:  per row and head, the weighted sum of the other side's rows over its edges  (messages; gradients of rows)

No formulation holds more than a chunk of gathered rows: never an [edges x hidden] tensor.
Shapes: E edges of one group, H heads, D dimensions per head; rows are [num_rows, H * D], weights [E, H].
"""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor
from torch.nn import functional

from hgt.message_graph import SortedEdges

# On two CPU cores, 400,000 edges: 4,096 rows (4 MB) at a time 0.055 s, 131,072 rows 0.41 s. Accelerators want fewer, larger chunks.
CPU_CHUNK = 4_096
ACCELERATOR_CHUNK = 32_768


class ChunkedKernels:
    """Gather, multiply, add, a chunk of edges at a time: runs on every device. All formulations have these three methods."""

    def __init__(self, chunk: int = ACCELERATOR_CHUNK):
        self.chunk = chunk

    def edge_dot(self, rows: Tensor, others: Tensor, edges: SortedEdges, out: Tensor) -> None:
        """`out[e, h] = rows[row_e, h] . others[other_e, h]` in the order of `edges`. out: [E, H] float32"""
        for start in range(0, len(out), self.chunk):
            part = slice(start, start + self.chunk)
            product = _full_precision(rows.index_select(0, edges.row[part]))
            product *= others.index_select(0, edges.other[part])
            torch.sum(product.view(len(product), out.shape[1], -1), dim=-1, out=out[part])

    def summands(self, rows: Tensor, num_heads: int) -> Tensor:
        """`rows` in the form that `add_weighted_sum` reads; made once and used for several groups."""
        return rows

    def add_weighted_sum(self, out: Tensor, summands: Tensor, weights: Tensor, edges: SortedEdges) -> None:
        """`out[i, h] += sum over edges e of row i of weights[e, h] * others[other_e, h]`. out: [num_rows, H * D] float32

        `weights` are in the group's own order; `edges.order` says where each edge's stands.
        """
        weights = _in_order(weights, edges)
        for start in range(0, len(weights), self.chunk):
            part = slice(start, start + self.chunk)
            message = _full_precision(summands.index_select(0, edges.other[part]))
            message.view(len(message), weights.shape[1], -1).mul_(weights[part].unsqueeze(-1))
            out.index_add_(0, edges.row[part], message)


class BagKernels(ChunkedKernels):
    """CPU: `embedding_bag` gathers, weights and sums in one pass (400,000 edges: 0.03 s, by chunks 0.11 s); summands lie head by head."""

    def __init__(self, chunk: int = CPU_CHUNK):
        super().__init__(chunk)

    def summands(self, rows: Tensor, num_heads: int) -> Tensor:
        return _full_precision(rows).view(len(rows), num_heads, -1).transpose(0, 1).contiguous()

    def add_weighted_sum(self, out: Tensor, summands: Tensor, weights: Tensor, edges: SortedEdges) -> None:
        by_head = _in_order(weights, edges).t().contiguous()
        sums = out.new_empty(len(edges.rows), len(summands), summands.shape[2])
        for head, rows in enumerate(summands):
            sums[:, head] = functional.embedding_bag(
                edges.other, rows, edges.ptr, mode="sum", per_sample_weights=by_head[head], include_last_offset=True
            )
        out.index_add_(0, edges.rows, sums.view(len(sums), -1))


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
