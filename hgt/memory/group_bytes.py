"""Bytes of one group of edges.

In: counts and the limits of the groups. Out: the groups that `grouping.py` makes, and the tensors
of each in bytes. Whoever changes the tensors in `attention.py` or in the kernels changes them here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from hgt.memory.counts import Counts, MessageType
from hgt.messages.grouping import block_rows_of
from hgt.messages.message_graph import MAX_SEGMENT_EDGES, GroupLimits

FLOAT, INT, LONG = 4, 4, 8


@dataclass(frozen=True)
class Group:
    """One group of edges, as `grouping.py` makes it.

    rows: number of rows of its table.
    blocks: number of blocks of its table.
    nodes: number of nodes on the side that is not transformed.
    edges: number of edges.
    """

    transforms_source: bool
    rows: int
    blocks: int
    nodes: int
    edges: int


def groups_of(
    types: tuple[MessageType, ...], limits: GroupLimits, nodes: int, drawn: bool
) -> list[Group]:
    """The groups that `grouping.py` makes of these edges.

    drawn: the edges are drawn for each step, so `neighbor_sampling.py` cuts them.
    """
    pieces: list[Group] = []
    for t in types:
        parts = ceil(t.edges / limits.edges)
        by_source, rows = t.sources <= t.targets, min(t.sources, t.targets)
        if drawn:
            by_source = t.sources <= limits.rows and parts * t.sources <= t.targets
            rows = t.sources * parts if by_source else t.targets
        parts = max(parts, ceil(rows / limits.rows)) or 1
        others = t.targets if by_source else t.sources
        pieces += [Group(by_source, ceil(rows / parts), 0, others, ceil(t.edges / parts))] * (
            parts if t.edges else 0
        )
    block_rows = block_rows_of([p.rows for p in pieces])
    groups: list[Group] = []
    for piece in sorted(pieces, key=lambda p: not p.transforms_source):
        blocks, last = ceil(piece.rows / block_rows), groups[-1] if groups else None
        piece = replace(piece, rows=blocks * block_rows, blocks=blocks)
        if last and last.transforms_source == piece.transforms_source:
            rows, edges = last.rows + piece.rows, last.edges + piece.edges
            if rows <= limits.rows and edges <= limits.edges:
                groups[-1] = Group(
                    piece.transforms_source,
                    rows,
                    last.blocks + blocks,
                    min(last.nodes + piece.nodes, nodes),
                    edges,
                )
                continue
        groups.append(piece)
    return groups


class GroupBytes:
    """Sizes in bytes of the tensors of one group.

    table: [num_heads, table_rows, head_dim].
    matrices: one [head_dim, head_dim] for each block and head.
    weights: [num_edges, num_heads].
    targets: [num_edges] int64.
    edge_dot, add_table: working memory of the kernels with these names.
    sums: working memory of a weighted sum besides its result, with edges in the group's order.
    ordered_sums: the same with edges in another order.
    """

    def __init__(self, c: Counts, g: Group):
        self.by_source = g.transforms_source
        self.rows = g.rows
        self.table = g.rows * c.hidden * FLOAT
        self.matrices = g.blocks * c.hidden**2 // c.heads * FLOAT
        self.weights = g.edges * c.heads * FLOAT
        self.targets = g.edges * LONG
        chunk = min(c.traits.edges_at_a_time, g.edges)
        gathered = chunk * (c.hidden + c.heads) * FLOAT  # with their places
        self.edge_dot = self.sums = self.ordered_sums = self.add_table = 0
        if c.traits.kernels != "triton":  # ChunkedKernels
            self.edge_dot, self.sums, self.ordered_sums = (
                2 * gathered,
                gathered,
                gathered + self.weights,
            )
        # FusedKernels: places and weights of all heads; sums of each node, and these turned to be
        # added
        if c.traits.kernels == "fused":
            sums = g.nodes * c.hidden * FLOAT
            self.add_table = self.table
            self.sums = self.ordered_sums = max(2 * self.weights, sums) + sums
            # the nodes' rows with their places, products of all heads, and the edges' order
            if c.item == FLOAT:
                self.edge_dot = sums + max(g.nodes * c.heads * LONG, self.weights + g.edges * LONG)
        self.graph = g.edges * 5 * INT + self.segments(g) * 2 + (g.rows + g.blocks) * LONG
        self.same_in_draws = g.edges * INT + self.segments(g) + (g.rows + g.blocks) * LONG

    @staticmethod
    def segments(g: Group) -> int:
        """Rows and starts of one order of the edges. The two sides together have as many rows as
        there are nodes and table rows.
        """
        return ((g.nodes + g.rows) // 2 + g.edges // MAX_SEGMENT_EDGES) * (LONG + INT)
