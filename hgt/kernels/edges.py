"""The operations over edges that an HGT step consists of, behind one seam: how they are computed
depends on the device.

edge_dot:          per edge and head, the inner product of its node's row and its table row
                   (scores; gradients of weights)
add_weighted_sum:  per row and head, the weighted sum of the other side's rows over its edges
(messages; gradients of rows)
weighted_table:    the same as a table of its own
per_edge:          each edge's row of what stands per node and head
table, add_table:  a group's node rows as a table, and a table added to its nodes' rows
transformed:       a table's rows times their relation's matrices
add_outer:         per relation and head, the product of two tables, summed over its rows
                   (gradients of relation matrices)

Rows come head by head, [H, num_rows, D]: a contiguous table, or node rows [num_rows, H * D] seen so
(`heads`). No formulation holds more than a chunk of gathered rows: never an [edges x hidden]
tensor.
Shapes: E edges of one group, H heads, D dimensions per head; weights [E, H] float32.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn import functional

from hgt.messages.message_graph import EdgeGroup, MessageGraph, SortedEdges

# Where the CPU's tables have no more rows together than this, a layer keeps up to four of each row
# from the forward to the backward pass (256 MB at 256 dimensions). At 5,000 nodes and 20,000 facts,
# 10,700 rows, a step takes 5 % less time.
CPU_KEPT_ROWS = 65_536


def heads(rows: Tensor, num_heads: int) -> Tensor:
    """Node rows [num_rows, H * D] seen head by head: [H, num_rows, D]."""
    return rows.view(len(rows), num_heads, -1).transpose(0, 1)


class ChunkedKernels:
    """Gather, multiply, add, a chunk of edges at a time: runs on every device. All formulations
    have these methods.
    """

    def __init__(self, chunk: int):
        """chunk: rows that are gathered at a time"""
        self.chunk = chunk

    def keeps_tables(self, graph: MessageGraph) -> bool:
        """Whether a layer that keeps its projections also keeps tables of them."""
        return False

    def per_edge_and_head(self, num_edges: int, like: Tensor) -> Tensor:
        """[num_edges, H] of like's type, to be written; like: [R, H]"""
        return like.new_empty(num_edges, like.shape[1])

    def table(self, x: Tensor, group: EdgeGroup, num_heads: int) -> Tensor:
        """[H, table_rows, D]: the group's rows of x [N, hidden]."""
        return (
            x.view(len(x) * num_heads, -1)
            .index_select(0, _rows_of_table(group, num_heads))
            .view(num_heads, len(group.nodes), -1)
        )

    def transformed(
        self, table: Tensor, group: EdgeGroup, matrices: Tensor, transposed: bool = False
    ) -> Tensor:
        """`table[h, n] @ matrices[h, relation of n]` or with the matrices transposed, [H,
        table_rows, D]. matrices: [H, R, D, D]
        """
        matrices = matrices.transpose(2, 3) if transposed else matrices
        return (in_blocks(table, group) @ matrices.index_select(1, group.relation)).view(
            table.shape
        )

    def add_table(self, out: Tensor, group: EdgeGroup, table: Tensor) -> None:
        """Add each table row [H, table_rows, D] to its node's row of out [N, hidden]."""
        num_heads, _, head_dim = table.shape
        rows = _rows_of_table(group, num_heads)
        out.view(len(out) * num_heads, head_dim).index_add_(
            0, rows, table.view(-1, head_dim).to(out.dtype)
        )

    def add_outer(self, out: Tensor, left: Tensor, right: Tensor, group: EdgeGroup) -> None:
        """`out[r, h] += sum over the relation's table rows n of left[h, n]^T right[h, n]`. out: [R,
        H, D, D]
        """
        products = in_blocks(left, group).transpose(2, 3) @ in_blocks(right, group)
        out.index_add_(0, group.relation, products.transpose(0, 1).to(out.dtype))

    def per_edge(self, values: Tensor, node: Tensor) -> Tensor:
        """[E, H]: the rows `node` [E] of values [N, H]."""
        return values.index_select(0, node)

    def edge_dot(self, nodes: Tensor, table: Tensor, group: EdgeGroup, out: Tensor) -> None:
        """`out[e, h] = nodes[h, node of e] . table[h, table row of e]` in the group's order of
        edges. out: [E, H] float32
        """
        rows, others = (nodes, table) if group.transforms_source else (table, nodes)
        self._dot_by_target(rows, others, group.by_target, out)

    def _dot_by_target(self, rows: Tensor, others: Tensor, edges: SortedEdges, out: Tensor) -> None:
        for start in range(0, len(out), self.chunk):
            part = slice(start, start + self.chunk)
            product = _full_precision(_gathered(rows, edges.row[part]))
            product *= _gathered(others, edges.other[part])
            torch.sum(product, dim=-1, out=out[part])

    def add_weighted_sum(
        self, out: Tensor, summands: Tensor, weights: Tensor, edges: SortedEdges
    ) -> None:
        """`out[h, i] += sum over edges e of row i of weights[e, h] * summands[h, other_e]`. out:
        float32

        `weights` are in the group's own order; `edges.order` says where each edge's stands.
        """
        weights = _in_order(weights, edges)
        for start in range(0, len(weights), self.chunk):
            part = slice(start, start + self.chunk)
            message = _full_precision(_gathered(summands, edges.other[part])).mul_(
                weights[part].unsqueeze(-1)
            )
            _head_rows(out).index_add_(
                0, _places(out, edges.row[part]).flatten(), message.view(-1, out.shape[2])
            )

    def weighted_table(
        self, num_rows: int, summands: Tensor, weights: Tensor, edges: SortedEdges
    ) -> Tensor:
        """[H, num_rows, D] float32: `add_weighted_sum` to a table of zeros."""
        table = weights.new_zeros(len(summands), num_rows, summands.shape[2])
        self.add_weighted_sum(table, summands, weights, edges)
        return table


class FusedKernels(ChunkedKernels):
    """CPU, in one pass without gathered rows: `embedding_bag` gathers, weights and sums (400,000
    edges: 0.03 s, by chunks 0.11 s); `sampled_addmm` gathers and multiplies (130,000 edges: 0.03 s,
    by chunks 0.07 to 0.16 s).
    """

    def __init__(self, chunk: int):
        super().__init__(chunk)
        # that sparse tensors are "in beta state" is said once in a process: here, to nobody
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _sparse(
                torch.zeros(2, dtype=torch.int32),
                torch.zeros(0, dtype=torch.int32),
                torch.zeros(0),
                1,
            )

    def keeps_tables(self, graph: MessageGraph) -> bool:
        return sum(len(group.nodes) for group in graph.groups) <= CPU_KEPT_ROWS

    def per_edge_and_head(self, num_edges: int, like: Tensor) -> Tensor:
        # head after head, as sums and products read and write them
        return like.new_empty(like.shape[1], num_edges).t()

    def edge_dot(self, nodes: Tensor, table: Tensor, group: EdgeGroup, out: Tensor) -> None:
        if nodes.dtype not in (torch.float32, torch.float64):  # it would be converted as a whole
            return super().edge_dot(nodes, table, group, out)
        # By the node: one head of the table stays in the cache while the edges go through it,
        # whichever side it stands for.
        edges, num_heads = group.by_node, len(table)
        left = (
            _head_rows(nodes)
            .index_select(0, _places_by_head(nodes, edges.rows))
            .view(num_heads, -1, table.shape[2])
        )
        dots = out.new_zeros(num_heads, len(out))  # they are read, with a factor of 0
        pairs = _sparse(
            edges.ptr.expand(num_heads, -1), edges.other.expand(num_heads, -1), dots, table.shape[1]
        )
        torch.sparse.sampled_addmm(pairs, left, table.transpose(1, 2), beta=0.0, out=pairs)
        if edges.order is None:
            out.copy_(dots.t())
        else:
            out.t().index_copy_(1, edges.order.long(), dots)
        return None

    def transformed(
        self, table: Tensor, group: EdgeGroup, matrices: Tensor, transposed: bool = False
    ) -> Tensor:
        # Matrices copied as they lie and turned in the product: half the time of copying.
        number = group.relation + matrices.shape[1] * torch.arange(len(matrices)).unsqueeze(1)
        of_blocks = matrices.flatten(0, 1).index_select(0, number.flatten())
        blocks = table.view(len(of_blocks), group.block_rows, -1)
        return (blocks @ (of_blocks.transpose(1, 2) if transposed else of_blocks)).view(table.shape)

    def add_table(self, out: Tensor, group: EdgeGroup, table: Tensor) -> None:
        _add_to_rows(out, group.nodes, table)

    def add_outer(self, out: Tensor, left: Tensor, right: Tensor, group: EdgeGroup) -> None:
        if left.dtype != out.dtype:
            return super().add_outer(out, left, right, group)
        # A product per relation: one per block, and their sum, took three times as long (5,504
        # rows: 4.7 ms, so 1.7).
        for relation, rows in group.relation_rows:
            out[relation].baddbmm_(left[:, rows].transpose(1, 2), right[:, rows])
        return None

    def add_weighted_sum(
        self, out: Tensor, summands: Tensor, weights: Tensor, edges: SortedEdges
    ) -> None:
        sums = _bags(summands, _by_head_in_order(weights, edges), edges.other, edges.ptr)
        _add_to_rows(
            out.transpose(0, 1).flatten(1), edges.rows, sums.view(len(out), -1, out.shape[2])
        )

    def weighted_table(
        self, num_rows: int, summands: Tensor, weights: Tensor, edges: SortedEdges
    ) -> Tensor:
        every_row = torch.searchsorted(
            edges.row, torch.arange(num_rows + 1, dtype=edges.row.dtype), out_int32=True
        )
        return _bags(summands, _by_head_in_order(weights, edges), edges.other, every_row).view(
            len(summands), num_rows, -1
        )


def _bags(summands: Tensor, weights: Tensor, other: Tensor, ptr: Tensor) -> Tensor:
    """[H * num_bags, D] weighted sums of the summands' rows `other`, between each two of `ptr`.
    weights: [H, E]
    """
    num_heads, num_edges = weights.shape
    starts = ptr[:-1] + num_edges * torch.arange(num_heads, dtype=ptr.dtype).unsqueeze(1)
    return functional.embedding_bag(
        _places_by_head(summands, other),
        _full_precision(_head_rows(summands)),
        torch.cat([starts.flatten(), ptr.new_tensor([num_edges * num_heads])]),
        mode="sum",
        per_sample_weights=weights.flatten(),
        include_last_offset=True,
    )


def _sparse(ptr: Tensor, columns: Tensor, values: Tensor, num_columns: int) -> Tensor:
    return torch.sparse_csr_tensor(
        ptr,
        columns,
        values,
        (*ptr.shape[:-1], ptr.shape[-1] - 1, num_columns),
        check_invariants=False,
    )


def in_blocks(table: Tensor, group: EdgeGroup) -> Tensor:
    """[H, table_rows, D] -> [H, num_blocks, block_rows, D]."""
    return table.view(len(table), len(group.relation), group.block_rows, -1)


def _rows_of_table(group: EdgeGroup, num_heads: int) -> Tensor:
    """[H * table_rows] numbers of the table's rows, head by head, among node rows cut into
    heads.
    """
    return (
        group.nodes * num_heads + torch.arange(num_heads, device=group.nodes.device).unsqueeze(1)
    ).flatten()


def _head_rows(x: Tensor) -> Tensor:
    """The rows of [H, num_rows, D] in the order in which they lie in memory: [H * num_rows, D]."""
    return (x if x.is_contiguous() else x.transpose(0, 1)).view(-1, x.shape[2])


def _places(x: Tensor, index: Tensor) -> Tensor:
    """[len(index), H] where each head of the rows `index` stands among `_head_rows(x)`."""
    head, row = x.stride(0) // x.shape[2], x.stride(1) // x.shape[2]
    return (index * row).unsqueeze(1) + head * torch.arange(
        len(x), dtype=index.dtype, device=index.device
    )


def _places_by_head(x: Tensor, index: Tensor) -> Tensor:
    """[H * len(index)] `_places`, head after head."""
    head, row = x.stride(0) // x.shape[2], x.stride(1) // x.shape[2]
    return (head * torch.arange(len(x), dtype=index.dtype).unsqueeze(1) + index * row).flatten()


def _add_to_rows(out: Tensor, rows: Tensor, table: Tensor) -> None:
    """Add each table row [H, table_rows, D] to a row of out [N, hidden]: whole rows at once, not
    head by head, is twice as fast.
    """
    out.index_add_(0, rows, table.transpose(0, 1).flatten(1).to(out.dtype))


def _gathered(x: Tensor, index: Tensor) -> Tensor:
    """[len(index), H, D]"""
    if x.is_contiguous():
        return (
            _head_rows(x).index_select(0, _places(x, index).flatten()).view(len(index), len(x), -1)
        )
    return x.transpose(0, 1).index_select(0, index)


def _in_order(weights: Tensor, edges: SortedEdges) -> Tensor:
    return weights if edges.order is None else weights.index_select(0, edges.order)


def _by_head_in_order(weights: Tensor, edges: SortedEdges) -> Tensor:
    """[H, E]"""
    return weights.t() if edges.order is None else weights.t().index_select(1, edges.order)


def _full_precision(rows: Tensor) -> Tensor:
    """Half-precision rows as float32: products are added up in full precision."""
    return rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
