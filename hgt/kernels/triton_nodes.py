"""CUDA formulation of `nodes`: all types' products in one Triton kernel each, with what surrounds
them done on the way.

On an H100, 66,903 nodes of ten types, cuBLAS took a product per type at half its speed, and a
kernel for every sum between. Products are sums of three TF32 ones on the tensor cores ("tf32x3"),
as exact as float32's own. Imported on CUDA alone.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from hgt.kernels.nodes import NodeKernels, Nodes, Weights

_ROWS, _COLUMNS, _DEPTH = 128, 128, 32  # of a product's tiles
# Of a weight's gradient: (rows that one program adds up, rows and columns of its tile, warps). On
# an H100, 66,903 nodes: 0.23 ms of a projection's (tiles of 128 x 128: 0.54); of the output map's,
# where gelu is computed again in every tile, 0.50 ms.
_PROJECTION, _OUTPUT_MAP = (1_024, 32, 64, 2), (512, 128, 128, 8)


@triton.jit
def _affine(
    x, weight, bias, out, tiles,
    W_TYPE, W_OUT, W_IN, BIAS_TYPE,
    WIDTH: tl.constexpr, HAS_BIAS: tl.constexpr, ADD: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """out = x W_type^T + bias_type, or out += x W_type^T."""
    tile = tiles + 3 * tl.program_id(1)
    of_type, rows = tl.load(tile).to(tl.int64), tl.load(tile + 1).to(tl.int64) + tl.arange(0, ROWS)
    inside = rows < tl.load(tile + 2)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, WIDTH, DEPTH):
        k = first + tl.arange(0, DEPTH)
        left = tl.load(x + rows[:, None] * WIDTH + k[None, :], mask=inside[:, None], other=0.0)
        right = tl.load(weight + of_type * W_TYPE + k[:, None] * W_IN + columns[None, :] * W_OUT)
        total = tl.dot(left, right, total, input_precision="tf32x3")
    if HAS_BIAS:
        total += tl.load(bias + of_type * BIAS_TYPE + columns)[None, :]
    at = out + rows[:, None] * WIDTH + columns[None, :]
    if ADD:
        total += tl.load(at, mask=inside[:, None], other=0.0)
    tl.store(at, total, mask=inside[:, None])


@triton.jit
def _update(
    x,
    message,
    weight,
    bias,
    skip,
    kept,
    out,
    tiles,
    keep_scale,
    WIDTH: tl.constexpr,
    DROPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """out = x + gate (dropout(gelu(message) W_type^T + bias_type) - x)."""
    tile = tiles + 3 * tl.program_id(1)
    of_type, rows = tl.load(tile).to(tl.int64), tl.load(tile + 1).to(tl.int64) + tl.arange(0, ROWS)
    inside = rows < tl.load(tile + 2)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    new = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, WIDTH, DEPTH):
        k = first + tl.arange(0, DEPTH)
        left = tl.load(
            message + rows[:, None] * WIDTH + k[None, :], mask=inside[:, None], other=0.0
        )
        left *= 0.5 * (1.0 + tl.erf(left * 0.7071067811865476))  # gelu
        right = tl.load(weight + of_type * WIDTH * WIDTH + k[:, None] + columns[None, :] * WIDTH)
        new = tl.dot(left, right, new, input_precision="tf32x3")
    new += tl.load(bias + of_type * WIDTH + columns)[None, :]
    at = rows[:, None] * WIDTH + columns[None, :]
    if DROPS:
        new = tl.where(
            tl.load(kept + at, mask=inside[:, None], other=0) != 0, new * keep_scale, 0.0
        )
    old = tl.load(x + at, mask=inside[:, None], other=0.0)
    tl.store(
        out + at, old + tl.sigmoid(tl.load(skip + of_type)) * (new - old), mask=inside[:, None]
    )


@triton.jit
def _update_backward(
    grad_out,
    x,
    message,
    transposed,
    skip,
    kept,
    grad_message,
    through,
    tiles,
    keep_scale,
    WIDTH: tl.constexpr,
    DROPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """The message's gradient; and per type, in `through`, the sums of activation * grad_activation
    and of x * grad_out.
    """
    tile = tiles + 3 * tl.program_id(1)
    of_type, rows = tl.load(tile).to(tl.int64), tl.load(tile + 1).to(tl.int64) + tl.arange(0, ROWS)
    inside = rows < tl.load(tile + 2)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    scale = tl.sigmoid(tl.load(skip + of_type)) * keep_scale
    grad = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for first in range(0, WIDTH, DEPTH):
        k = first + tl.arange(0, DEPTH)
        at = rows[:, None] * WIDTH + k[None, :]
        left = tl.load(grad_out + at, mask=inside[:, None], other=0.0) * scale
        if DROPS:
            left = tl.where(tl.load(kept + at, mask=inside[:, None], other=0) != 0, left, 0.0)
        right = tl.load(
            transposed + of_type * WIDTH * WIDTH + k[:, None] + columns[None, :] * WIDTH
        )
        grad = tl.dot(left, right, grad, input_precision="tf32x3")
    at = rows[:, None] * WIDTH + columns[None, :]
    m = tl.load(message + at, mask=inside[:, None], other=0.0)
    below = 0.5 * (1.0 + tl.erf(m * 0.7071067811865476))  # gelu(m) = m * below
    tl.store(
        grad_message + at,
        grad * (below + m * 0.3989422804014327 * tl.exp(-0.5 * m * m)),
        mask=inside[:, None],
    )
    tl.atomic_add(through + 2 * of_type, tl.sum(m * below * grad), sem="relaxed")
    old = tl.load(x + at, mask=inside[:, None], other=0.0) * tl.load(
        grad_out + at, mask=inside[:, None], other=0.0
    )
    tl.atomic_add(through + 2 * of_type + 1, tl.sum(old), sem="relaxed")


@triton.jit
def _weight_gradient(
    grad,
    inputs,
    skip,
    kept,
    grad_weight,
    grad_bias,
    tiles,
    keep_scale,
    G_TYPE,
    BIAS_TYPE,
    WIDTH: tl.constexpr,
    UPDATE: tl.constexpr,
    DROPS: tl.constexpr,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """grad_weight += grad^T inputs, grad_bias += sum of grad, of one type's rows.

    UPDATE: of the output map, whose output's gradient is that of the layer times gate and dropout,
        and whose input is gelu(inputs).
    """
    at = tiles + 3 * tl.program_id(1)
    of_type, start, stop = tl.load(at).to(tl.int64), tl.load(at + 1), tl.load(at + 2)
    out = (tl.program_id(0) // (WIDTH // IN)) * OUT + tl.arange(0, OUT)
    into = (tl.program_id(0) % (WIDTH // IN)) * IN + tl.arange(0, IN)
    scale = tl.sigmoid(tl.load(skip + of_type)) * keep_scale if UPDATE else 1.0
    total = tl.zeros((OUT, IN), dtype=tl.float32)
    of_bias = tl.zeros((OUT,), dtype=tl.float32)
    for first in range(0, ROWS, DEPTH):
        rows = (start + first + tl.arange(0, DEPTH)).to(tl.int64)
        inside = rows < stop
        places = rows[:, None] * WIDTH + out[None, :]
        left = tl.load(grad + places, mask=inside[:, None], other=0.0)
        right = tl.load(
            inputs + rows[:, None] * WIDTH + into[None, :], mask=inside[:, None], other=0.0
        )
        if UPDATE:
            left *= scale
            if DROPS:
                left = tl.where(
                    tl.load(kept + places, mask=inside[:, None], other=0) != 0, left, 0.0
                )
            right *= 0.5 * (1.0 + tl.erf(right * 0.7071067811865476))  # gelu
        of_bias += tl.sum(left, axis=0)
        total = tl.dot(tl.trans(left), right, total, input_precision="tf32x3")
    tl.atomic_add(
        grad_weight + of_type * G_TYPE + out[:, None] * WIDTH + into[None, :], total, sem="relaxed"
    )
    if tl.program_id(0) % (WIDTH // IN) == 0:
        tl.atomic_add(grad_bias + of_type * BIAS_TYPE + out, of_bias, sem="relaxed")


class TritonNodeKernels(NodeKernels):
    """Needs float32 and a width that is a power of two; anything else goes type by type."""

    def project(self, x: Tensor, w: Weights, which: int, nodes: Nodes) -> Tensor:
        if not _fits(x, nodes):
            return super().project(x, w, which, nodes)
        out = torch.empty_like(x)
        self._affine(x, w.projection[:, which], w.projection_bias[:, which], out, nodes)
        return out

    def _affine(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, nodes: Nodes
    ) -> None:
        """weight: [T, out, in], of any strides; without a bias it is added to what is there"""
        width = x.shape[1]
        tiles, columns = _tiles(nodes.ranges, _ROWS, x.device), min(_COLUMNS, width)
        _affine[(width // columns, len(tiles))](
            x,
            weight,
            weight if bias is None else bias,
            out,
            tiles,
            *weight.stride(),
            0 if bias is None else bias.stride(0),
            WIDTH=width,
            HAS_BIAS=bias is not None,
            ADD=bias is None,
            ROWS=_ROWS,
            COLUMNS=columns,
            DEPTH=min(_DEPTH, width),
            num_warps=8,
        )

    def project_backward(
        self,
        grad: Tensor,
        x: Tensor,
        w: Weights,
        grads: Weights,
        which: int,
        nodes: Nodes,
        grad_x: Tensor,
    ) -> None:
        if not _fits(grad, nodes):
            return super().project_backward(grad, x, w, grads, which, nodes, grad_x)
        self._affine(grad, _transposed(w.projection[:, which]), None, grad_x, nodes)
        self._weight_gradient(
            grad,
            x,
            w.skip,
            grads.projection[:, which],
            grads.projection_bias[:, which],
            nodes,
            update=False,
        )
        return None

    def _weight_gradient(
        self,
        grad: Tensor,
        inputs: Tensor,
        skip: Tensor,
        weight: Tensor,
        bias: Tensor,
        nodes: Nodes,
        update: bool,
    ) -> None:
        width, drops = grad.shape[1], update and nodes.kept is not None
        rows, out, into, warps = _OUTPUT_MAP if update else _PROJECTION
        tiles, out, into = (
            _tiles(nodes.ranges, rows, grad.device),
            min(out, width),
            min(into, width),
        )
        _weight_gradient[(width // out * (width // into), len(tiles))](
            grad,
            inputs,
            skip,
            nodes.kept if drops else grad,
            weight,
            bias,
            tiles,
            nodes.keep_scale if drops else 1.0,
            weight.stride(0),
            bias.stride(0),
            WIDTH=width,
            UPDATE=update,
            DROPS=drops,
            ROWS=rows,
            OUT=out,
            IN=into,
            DEPTH=_DEPTH,
            num_warps=warps,
        )

    def update(self, x: Tensor, message: Tensor, w: Weights, nodes: Nodes) -> Tensor:
        if not _fits(x, nodes):
            return super().update(x, message, w, nodes)
        out, width = torch.empty_like(x), x.shape[1]
        tiles, columns, drops = (
            _tiles(nodes.ranges, _ROWS, x.device),
            min(_COLUMNS, width),
            nodes.kept is not None,
        )
        _update[(width // columns, len(tiles))](
            x,
            message,
            w.out,
            w.out_bias,
            w.skip,
            nodes.kept if drops else x,
            out,
            tiles,
            nodes.keep_scale,
            WIDTH=width,
            DROPS=drops,
            ROWS=_ROWS,
            COLUMNS=columns,
            DEPTH=min(_DEPTH, width),
            num_warps=8,
        )
        return out

    def update_backward(
        self, grad_out: Tensor, x: Tensor, message: Tensor, w: Weights, grads: Weights, nodes: Nodes
    ) -> tuple[Tensor, Tensor]:
        if not _fits(grad_out, nodes):
            return super().update_backward(grad_out, x, message, w, grads, nodes)
        width, drops, gate = x.shape[1], nodes.kept is not None, w.skip.sigmoid()
        tiles, columns = _tiles(nodes.ranges, _ROWS, x.device), min(_COLUMNS, width)
        grad_message, through = torch.empty_like(message), grad_out.new_zeros(len(gate), 2)
        _update_backward[(width // columns, len(tiles))](
            grad_out,
            x,
            message,
            _transposed(w.out),
            w.skip,
            nodes.kept if drops else x,
            grad_message,
            through,
            tiles,
            nodes.keep_scale if drops else 1.0,
            WIDTH=width,
            DROPS=drops,
            ROWS=_ROWS,
            COLUMNS=columns,
            DEPTH=min(_DEPTH, width),
            num_warps=8,
        )
        grad_bias = torch.zeros_like(w.out_bias)
        self._weight_gradient(grad_out, message, w.skip, grads.out, grad_bias, nodes, update=True)
        grads.out_bias += grad_bias
        grads.skip += (1 - gate) * (
            through[:, 0] + (w.out_bias * grad_bias).sum(1) - gate * through[:, 1]
        )
        rest = (1 - gate).index_select(0, _types(nodes.ranges, x.device)).unsqueeze(1)
        return (grad_out.mul_(rest) if nodes.spend_gradient else grad_out * rest), grad_message


def _fits(x: Tensor, nodes: Nodes) -> bool:
    width = x.shape[1]
    return (
        x.dtype == nodes.dtype == torch.float32
        and x.is_contiguous()
        and width >= 16
        and width & (width - 1) == 0
    )


def _transposed(weight: Tensor) -> Tensor:
    """[T, out, in] -> [T, in, out], laid out anew: along what is summed, tensor cores read in
    order.
    """
    return weight.transpose(1, 2).contiguous()


@functools.cache
def _tiles(ranges: tuple[tuple[int, int], ...], rows: int, device: torch.device) -> Tensor:
    """[num_tiles, 3] type, first row and end of its type, of every `rows` rows of one type. Kept: a
    recorded step reads it.
    """
    tiles = [
        (i, first, stop)
        for i, (start, stop) in enumerate(ranges)
        for first in range(start, stop, rows)
    ]
    return torch.tensor(tiles, dtype=torch.int32, device=device)


@functools.cache
def _types(ranges: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """[N] the type of each node. Kept: a recorded step reads it."""
    return torch.cat(
        [torch.full((stop - start,), i, device=device) for i, (start, stop) in enumerate(ranges)]
    )
