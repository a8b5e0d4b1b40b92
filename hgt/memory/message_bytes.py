"""Bytes of the messages of one layer.

In: counts and message types. Out: bytes of the moments of a layer, as `attention.py` and
`layer_pass.py` make and drop tensors. Whoever changes that changes it here.
"""

from __future__ import annotations

from collections.abc import Callable

from hgt.kernels.edges import CPU_KEPT_ROWS
from hgt.kernels.nodes import MAX_REDUCTION_ROWS
from hgt.memory.counts import Counts, MessageType
from hgt.memory.group_bytes import FLOAT, INT, GroupBytes, groups_of
from hgt.messages.message_graph import GroupLimits


class MessageBytes:
    """Sizes in bytes of the tensors that pass messages along some edges."""

    def __init__(
        self, c: Counts, types: tuple[MessageType, ...], limits: GroupLimits, drawn: bool = False
    ):
        head_dim = c.hidden // c.heads
        edges = sum(t.edges for t in types)
        self.node = c.nodes * c.hidden * FLOAT  # a node-sized tensor
        self.compute = c.nodes * c.hidden * c.item  # keys, queries or values
        # output maps process parts of this size
        self.part = min(c.largest_type, MAX_REDUCTION_ROWS) * c.hidden * FLOAT
        self.per_head = c.nodes * c.heads * FLOAT
        self.weights = edges * c.heads * FLOAT
        self.kept = c.nodes * c.hidden * c.dropout
        # one relation matrix for each type and head
        self.transforms = len(types) * c.hidden * head_dim * FLOAT
        self.layer = (
            c.node_types * (4 * c.hidden + 4) * c.hidden * FLOAT
            + 2 * self.transforms
            + len(types) * c.heads * FLOAT
        )
        self.parameters = (
            c.nodes * c.hidden * FLOAT
            + c.layers * self.layer
            + ((c.hidden + 1) * c.dim + c.relations * c.dim) * FLOAT
        )
        self.groups = [GroupBytes(c, g) for g in groups_of(types, limits, c.nodes, drawn)]
        self.facts = edges * INT  # the fact of each edge
        self.removed = edges  # bool
        self.graph = sum(g.graph for g in self.groups) + self.facts
        self.same_in_draws = sum(g.same_in_draws for g in self.groups)
        self.edges = edges
        # gradients of queries, keys and values, where these are kept
        self.joins = c.traits.kernels == "fused"
        self.key_tables = self.value_tables = 0  # kept with them
        if c.traits.kernels == "fused" and sum(g.rows for g in self.groups) <= CPU_KEPT_ROWS:
            self.key_tables = sum(2 * g.rows for g in self.groups) * c.hidden * c.item
            self.value_tables = (
                sum((2 if g.by_source else 1) * g.rows for g in self.groups) * c.hidden * c.item
            )

    def largest(self, moment: Callable[[GroupBytes, int], int]) -> int:
        """The largest moment over all groups, in bytes. When a group begins, the table of the
        previous group still lives. Its size is the second argument of `moment`.
        """
        before = [0, *(g.table for g in self.groups)]
        return max(map(moment, self.groups, before), default=0)

    def scores(self) -> int:
        """Bytes of `Attention.scores`, without queries and keys."""

        def moment(g: GroupBytes, before: int) -> int:
            return max(before + 2 * g.table + g.matrices, g.table + g.targets, g.table + g.edge_dot)

        return self.weights + self.per_head + self.transforms + self.largest(moment)

    def messages(self) -> int:
        """Bytes of `Attention.messages` without values: scores, highest, total and messages."""

        def moment(g: GroupBytes, before: int) -> int:
            return g.targets + max(
                before + g.weights,
                before + 2 * g.table + max(g.matrices, g.add_table),
                g.table + g.sums,
            )

        return self.weights + 2 * self.per_head + self.node + self.transforms + self.largest(moment)

    def message_backward(self) -> int:
        """Bytes of `Attention.message_backward` besides node-sized tensors: rows and two tables. At
        a group's end there is also the gradient of its totals.
        """

        def moment(g: GroupBytes, before: int) -> int:
            tables = 2 if g.by_source else 3
            products = (
                max(before + 2 * g.table, 3 * g.table) if g.by_source else before + 3 * g.table
            )
            return g.weights + max(
                products + max(g.matrices, g.add_table),
                2 * g.table + g.edge_dot,
                2 * g.table + g.ordered_sums,
                tables * g.table + g.weights + g.targets,
            )

        return 2 * self.transforms + self.largest(moment)

    def score_backward(self) -> int:
        """Bytes of `Attention.score_backward` besides node-sized tensors."""

        def moment(g: GroupBytes, before: int) -> int:
            return max(
                max(before, g.table) + 2 * g.table + max(g.matrices, g.add_table),
                2 * g.table + g.ordered_sums,
            )

        return 2 * self.transforms + self.largest(moment)


def attended_bytes(b: MessageBytes, keeps: bool) -> int:
    """Bytes that `_attend` of a layer returns.

    keeps: the layer keeps keys, queries and values for the backward pass.
    """
    return (
        b.node
        + b.weights
        + b.per_head
        + (3 * b.compute + b.key_tables + b.value_tables if keeps else 0)
    )


def attend_bytes(b: MessageBytes, keeps: bool) -> int:
    """Bytes of `_attend` of a layer at its worst moment: scores from queries and keys, or messages
    from values.
    """
    # one group's are among those of `scores` and `messages`
    tables = b.key_tables + b.value_tables if keeps else 0
    return max(2 * b.compute + b.scores(), (3 if keeps else 1) * b.compute + b.messages() + tables)
