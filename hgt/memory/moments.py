"""Bytes at the worst moment of each phase: the sum of the tensors that live then.

In: counts and a form of the step. Out: bytes, moment by moment as the code in `layer_pass.py`,
`attention.py`, `step.py`, `loss_gradient.py`, `table.py` and `ranking.py` makes and drops tensors.
Whoever changes what lives there changes it here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

from hgt.evaluation.ranking import COMPARED_PER_CHUNK, SCORES_PER_CHUNK
from hgt.kernels.edges import CPU_KEPT_ROWS
from hgt.kernels.nodes import MAX_REDUCTION_ROWS
from hgt.memory.counts import Asked, Counts, MessageType
from hgt.messages.message_graph import MAX_SEGMENT_EDGES, GroupLimits, block_rows_of
from hgt.training.sampled_softmax import rows_at_a_time
from hgt.training.step_form import StepForm

_FLOAT, _INT, _LONG = 4, 4, 8


def worst_moments(c: Counts, form: StepForm) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes at the worst moment of each phase; and what the step's worst moment consists of."""
    b = _Bytes(c, c.message_types, form.limits)
    step = _Bytes(c, c.step_types, form.limits, drawn=True) if c.draws_edges else b
    batch = _batch_bytes(c, form) + step.removed
    step_graph, evaluation_graph = b.graph, b.graph
    # the graph with all edges stays on the CPU between evaluations; facts of drawn edges do so
    # always
    if c.draws_edges:
        step_graph = step.graph - step.facts
        # beside it, on the CPU the graph with all edges, or the draw that the step was recorded
        # with
        of_record = step_graph - step.same_in_draws if c.traits.records_steps else 0
        step_graph += b.graph if c.traits.is_host else of_record
        evaluation_graph = b.graph + step.same_in_draws
    host = _host_bytes(c) if c.traits.is_host else {}
    gaps = _GAPS if c.traits.is_host else 0.0
    drawing = _drawing_bytes(c, b, step) if c.traits.is_host and c.draws_edges else 0
    libraries = c.traits.library_bytes
    average = b.parameters if c.traits.is_host and c.averages else 0  # it is in host memory
    has_second_batch = c.traits.is_host or c.traits.records_steps  # the next one; the recorded one
    tensors = {
        **({"drawing of edges": drawing} if drawing else {}),
        **({"average of the weights": average} if average else {}),
        "weights and Adam": 3 * b.parameters,
        "message graph": step_graph,
        "batch": 2 * batch if has_second_batch else batch,
        **_step_parts(c, step, form),
    }
    worst = {
        "step": sum(tensors.values()),
        "optimizer": average + drawing + 4 * b.parameters + step_graph + tensors["batch"],
        "inference": b.parameters + _inference(c, b),
        # the last step's gradients stay until the next step begins
        "evaluation": max(
            average + drawing + 4 * b.parameters + evaluation_graph + _validation(c, b, form),
            _test(c),
        ),
    }
    beside = sum(host.values()) + libraries
    phases = {name: beside + n + int(gaps * n) for name, n in worst.items()}
    parts = {
        **host,
        **({"gaps between blocks": int(gaps * worst["step"])} if gaps else {}),
        **({"libraries": libraries} if libraries else {}),
        **tensors,
    }
    return phases, parts


@dataclass(frozen=True)
class _Group:
    """What `message_graph` makes a group of. rows, blocks: of its table; nodes: on the side that is
    not transformed
    """

    transforms_source: bool
    rows: int
    blocks: int
    nodes: int
    edges: int


def _groups(
    types: tuple[MessageType, ...], limits: GroupLimits, nodes: int, drawn: bool
) -> list[_Group]:
    """As `message_graph` and, for drawn edges, `neighbor_sampling` cut and pack them."""
    pieces: list[_Group] = []
    for t in types:
        parts = ceil(t.edges / limits.edges)
        by_source, rows = t.sources <= t.targets, min(t.sources, t.targets)
        if drawn:
            by_source = t.sources <= limits.rows and parts * t.sources <= t.targets
            rows = t.sources * parts if by_source else t.targets
        parts = max(parts, ceil(rows / limits.rows)) or 1
        others = t.targets if by_source else t.sources
        pieces += [_Group(by_source, ceil(rows / parts), 0, others, ceil(t.edges / parts))] * (
            parts if t.edges else 0
        )
    block_rows = block_rows_of([p.rows for p in pieces])
    groups: list[_Group] = []
    for piece in sorted(pieces, key=lambda p: not p.transforms_source):
        blocks, last = ceil(piece.rows / block_rows), groups[-1] if groups else None
        piece = replace(piece, rows=blocks * block_rows, blocks=blocks)
        if last and last.transforms_source == piece.transforms_source:
            rows, edges = last.rows + piece.rows, last.edges + piece.edges
            if rows <= limits.rows and edges <= limits.edges:
                groups[-1] = _Group(
                    piece.transforms_source,
                    rows,
                    last.blocks + blocks,
                    min(last.nodes + piece.nodes, nodes),
                    edges,
                )
                continue
        groups.append(piece)
    return groups


class _GroupBytes:
    """Sizes in bytes of what one group's edges take on the way.

    table: [H, table_rows, D]; matrices: one [D, D] for each block and head; weights: [edges, H];
        targets: [edges] int64
    edge_dot, add_table: what the kernels of these names take; sums, ordered_sums: what a weighted
        sum takes beside its result, with edges in the group's order or in another
    """

    def __init__(self, c: Counts, g: _Group):
        self.by_source = g.transforms_source
        self.rows = g.rows
        self.table = g.rows * c.hidden * _FLOAT
        self.matrices = g.blocks * c.hidden**2 // c.heads * _FLOAT
        self.weights = g.edges * c.heads * _FLOAT
        self.targets = g.edges * _LONG
        chunk = min(c.traits.edges_at_a_time, g.edges)
        gathered = chunk * (c.hidden + c.heads) * _FLOAT  # with their places
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
            sums = g.nodes * c.hidden * _FLOAT
            self.add_table = self.table
            self.sums = self.ordered_sums = max(2 * self.weights, sums) + sums
            # the nodes' rows with their places, products of all heads, and the edges' order
            if c.item == _FLOAT:
                self.edge_dot = sums + max(
                    g.nodes * c.heads * _LONG, self.weights + g.edges * _LONG
                )
        self.graph = g.edges * 5 * _INT + self.segments(g) * 2 + (g.rows + g.blocks) * _LONG
        self.same_in_draws = g.edges * _INT + self.segments(g) + (g.rows + g.blocks) * _LONG

    @staticmethod
    def segments(g: _Group) -> int:
        """Rows and starts of one order of the edges; on the two sides together there are as many as
        nodes and table rows.
        """
        return ((g.nodes + g.rows) // 2 + g.edges // MAX_SEGMENT_EDGES) * (_LONG + _INT)


class _Bytes:
    """Sizes in bytes of what passing messages along some edges takes."""

    def __init__(
        self, c: Counts, types: tuple[MessageType, ...], limits: GroupLimits, drawn: bool = False
    ):
        head_dim = c.hidden // c.heads
        edges = sum(t.edges for t in types)
        self.node = c.nodes * c.hidden * _FLOAT  # a node-sized tensor
        self.compute = c.nodes * c.hidden * c.item  # keys, queries or values
        # what output maps are worked off in
        self.part = min(c.largest_type, MAX_REDUCTION_ROWS) * c.hidden * _FLOAT
        self.per_head = c.nodes * c.heads * _FLOAT
        self.weights = edges * c.heads * _FLOAT
        self.kept = c.nodes * c.hidden * c.dropout
        # one relation matrix for each type and head
        self.transforms = len(types) * c.hidden * head_dim * _FLOAT
        self.layer = (
            c.node_types * (4 * c.hidden + 4) * c.hidden * _FLOAT
            + 2 * self.transforms
            + len(types) * c.heads * _FLOAT
        )
        self.parameters = (
            c.nodes * c.hidden * _FLOAT
            + c.layers * self.layer
            + ((c.hidden + 1) * c.dim + c.relations * c.dim) * _FLOAT
        )
        self.groups = [_GroupBytes(c, g) for g in _groups(types, limits, c.nodes, drawn)]
        self.facts = edges * _INT  # the fact of each edge
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

    def largest(self, moment: Callable[[_GroupBytes, int], int]) -> int:
        """Over all groups. A group begins while the table of the one before is still there, whose
        size is the second argument.
        """
        before = [0, *(g.table for g in self.groups)]
        return max(map(moment, self.groups, before), default=0)

    def scores(self) -> int:
        """`Attention.scores`, without queries and keys."""

        def moment(g: _GroupBytes, before: int) -> int:
            return max(before + 2 * g.table + g.matrices, g.table + g.targets, g.table + g.edge_dot)

        return self.weights + self.per_head + self.transforms + self.largest(moment)

    def messages(self) -> int:
        """`Attention.messages`, without values: scores, highest, total and messages."""

        def moment(g: _GroupBytes, before: int) -> int:
            return g.targets + max(
                before + g.weights,
                before + 2 * g.table + max(g.matrices, g.add_table),
                g.table + g.sums,
            )

        return self.weights + 2 * self.per_head + self.node + self.transforms + self.largest(moment)

    def message_backward(self) -> int:
        """`Attention.message_backward` beside node-sized tensors: rows and two tables; at a group's
        end the gradient of its totals.
        """

        def moment(g: _GroupBytes, before: int) -> int:
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
        """`Attention.score_backward` beside node-sized tensors."""

        def moment(g: _GroupBytes, before: int) -> int:
            return max(
                max(before, g.table) + 2 * g.table + max(g.matrices, g.add_table),
                2 * g.table + g.ordered_sums,
            )

        return 2 * self.transforms + self.largest(moment)


def _batch_bytes(c: Counts, form: StepForm) -> int:
    """`MicroBatch`es: nodes; weights, relations, order and filters of both sides; anchors, their
    weights and filters.
    """
    parts = form.accumulation_steps
    anchors, pool = c.batch.contrast or (0, 0)
    of_facts = c.batch.facts(parts) * (_FLOAT + 2 * _LONG + 2 * c.batch.width)
    return parts * (c.batch.rows(parts) * _INT + of_facts) + anchors * (pool + _FLOAT)


def _step_parts(c: Counts, b: _Bytes, form: StepForm) -> dict[str, int]:
    """The worst moment of a step, beyond weights, Adam, graph and batch."""
    attended = _attended(b, form.keeps_projections)
    kept_per_layer = b.kept + (0 if form.recompute_layers else attended)
    # the dropped inputs are made again from it
    kept_of_inputs = c.nodes * c.hidden * c.input_dropout
    saved = c.layers * kept_per_layer + (c.layers - 1) * b.node + kept_of_inputs
    first_alone, first_too = kept_per_layer + kept_of_inputs, b.node * c.input_dropout
    moments = [
        _forward(b, form, saved - kept_per_layer + first_too * (c.layers == 1), attended),
        *_decoder(c, b, form, saved),
        _backward(c, b, form, saved + first_too * (c.layers == 1), attended, gradients=b.layer),
        # the first layer's way back comes last: the others' parameters have their gradients, and
        # what they kept is gone
        _backward(c, b, form, first_alone + first_too, attended, gradients=c.layers * b.layer),
    ]
    return max(moments, key=lambda parts: sum(parts.values()))


def _attended(b: _Bytes, keeps: bool) -> int:
    """What `_attend` of a layer returns."""
    return (
        b.node
        + b.weights
        + b.per_head
        + (3 * b.compute + b.key_tables + b.value_tables if keeps else 0)
    )


def _attend(b: _Bytes, keeps: bool) -> int:
    """`_attend` of a layer: scores from queries and keys; messages from values."""
    # one group's are among those of `scores` and `messages`
    tables = b.key_tables + b.value_tables if keeps else 0
    return max(2 * b.compute + b.scores(), (3 if keeps else 1) * b.compute + b.messages() + tables)


def _forward(b: _Bytes, form: StepForm, saved: int, attended: int) -> dict[str, int]:
    """The last layer: attention, or the output map with its activations and products."""
    last = max(_attend(b, form.keeps_projections), attended + b.node + 2 * b.part)
    return {"kept for the backward pass": saved + b.kept, "forward, last layer": last}


def _decoder(c: Counts, b: _Bytes, form: StepForm, saved: int) -> list[dict[str, int]]:
    """The loss of a micro-batch; and where all nodes are projected, the way back through the
    projection.
    """
    rows, facts, width = (
        c.batch.rows(form.accumulation_steps),
        c.batch.facts(form.accumulation_steps),
        c.batch.width,
    )
    first, shared = c.batch.projects_first(c.nodes), c.batch.num_shared
    dim, hidden = c.dim * _FLOAT, c.hidden * _FLOAT
    state = dim if first else hidden
    # Of the pools, from the first part to the last: numbers, states, embeddings and their gradient.
    pools = shared * (_LONG + state + (1 if first else 2) * dim)
    own = (rows - shared) * (_LONG + state + (0 if first else dim))
    some = min(c.batch.competing(form.accumulation_steps), rows_at_a_time(c.device))
    losses = (
        facts * c.query_tensors * dim,  # while the decoder makes the queries of both sides
        # Relations, queries and their gradients of both sides; the pools' gradient; filters in the
        # heads' order; some facts' scores.
        facts * (6 * dim + width) + shared * dim + some * width * _FLOAT,
        # gradients of all rows by section, and those of queries
        (rows - shared) * dim + facts * 5 * dim,
    )
    states = {
        "kept for the backward pass": saved + (b.node if first else 0),
        "embeddings and their gradient" if first else "hidden states and their gradient": (
            2 * c.nodes * (dim if first else hidden)
        ),
    }
    moments = [states | {"loss of one micro-batch": pools + own + max(losses)}]
    if first:
        moments.append(
            states
            | {
                "last micro-batch and gradient of the hidden states": (
                    pools + (rows - shared) * _LONG + b.node
                )
            }
        )
    return moments


def _backward(
    c: Counts, b: _Bytes, form: StepForm, saved: int, attended: int, gradients: int
) -> dict[str, int]:
    """Of a layer. The incoming gradient becomes that of the layer's input. gradients: of
    parameters
    """
    keeps = form.keeps_projections
    half = b.compute if b.compute < b.node else 0  # the gradient of the sums in half precision
    working = max(
        # `_update_backward`: gradient of the messages; activations, their gradient and that of the
        # output map
        b.node + 3 * b.part,
        # `sum_backward`: gradient of the sums, and its product with the messages
        2 * b.node + b.per_head,
        # without messages: gradients of the sums and of the values, values
        b.node + b.per_head + half + (0 if keeps else b.compute) + b.message_backward(),
        # without messages (and values): queries and keys and their gradients
        b.node
        + (b.node * b.joins - b.compute - b.value_tables if keeps else 2 * b.compute)
        + b.score_backward(),
    )
    if form.recompute_layers:
        working = max(attended + working, _attend(b, keeps=False))
    return {
        "kept for the backward pass": saved,
        "gradients": b.node + gradients,
        "backward, one layer": working,
    }


def _inference(c: Counts, b: _Bytes) -> int:
    """Layer by layer: inputs and outputs, keys and values, and a chunk's edges; or the embeddings,
    beside the last keys and values.
    """
    on_cpu = c.traits.is_host
    chunk = _Bytes(
        replace(c, nodes=min(c.node_chunk, c.nodes), largest_type=c.node_chunk),
        c.chunk_types,
        GroupLimits(),
    )
    edges = b.edges * 3 * _LONG if on_cpu else 0  # sorted by target
    of_layer = (2 if c.layers > 1 else 1) * b.node + 2 * b.compute
    attend = max(
        chunk.compute + chunk.scores(),
        chunk.messages(),
        2 * chunk.node + chunk.weights + 2 * chunk.part,
    )
    moments = [
        b.edges * (7 if on_cpu else 4) * _LONG,  # `edge_list` and `sorted_by_target`
        edges + of_layer + chunk.graph - chunk.facts + attend,
        # `edges_into`, while it groups and sorts
        edges + of_layer + (16 * chunk.edges * _LONG if on_cpu else 0),
        # keys and values of the layer before go when the new ones are there
        edges + of_layer + (2 * b.compute if c.layers > 1 else 0),
        edges + b.node + 2 * b.compute + (c.nodes + min(c.node_chunk, c.nodes)) * c.dim * _FLOAT,
    ]
    return b.graph + max(moments)


def _validation(c: Counts, b: _Bytes, form: StepForm) -> int:
    """After an epoch: a forward pass, then ranks."""
    inputs = b.node if c.layers > 1 else 0
    attended = _attended(b, form.keeps_projections)
    embeddings = c.nodes * c.dim * _FLOAT
    projected = embeddings * (1 if c.nodes <= MAX_REDUCTION_ROWS else 2)  # in parts, then as one
    return max(
        inputs + max(_attend(b, form.keeps_projections), attended + b.node + 2 * b.part),
        b.node + projected,
        embeddings + _ranking(c, c.ranked),
    )


def _test(c: Counts) -> int:
    """In a program of its own, which knows nothing but embeddings; reading them takes host
    memory.
    """
    embeddings = (c.nodes + c.relations) * c.dim * _FLOAT
    reading = _READING_FACTOR * embeddings if c.traits.is_host else 0
    return max(embeddings + _ranking(c, c.tested), reading)


def _ranking(c: Counts, asked: tuple[Asked, ...]) -> int:
    """Scores, the signs that they are compared to (of two chunks, as one follows another), and the
    places of known facts in them.
    """
    scores = (
        min(SCORES_PER_CHUNK, a.nodes * a.candidates)
        + min(2 * COMPARED_PER_CHUNK, a.facts * a.candidates)
        for a in asked
    )
    sizes = (n * _FLOAT + a.known * _LONG for n, a in zip(scores, asked, strict=True))
    return max(sizes, default=0)


# Measured in a training process (Linux, torch 2.13): interpreter, torch and the library take 313
# MiB, what the optimizer and the first step load besides 168 MiB; per node its strings; per fact
# its edge index, split and filters.
_PROCESS_BYTES = 481 << 20
_BYTES_PER_NODE = 400
_BYTES_PER_FACT = 150
# The heap keeps freed blocks (`host.keep_freed_memory`). Where each block was mapped by itself
# instead, a process took the planned bytes (within 3 %); in the heap a tenth to a third of them
# more, in nine cases.
_GAPS = 0.2
_READING_FACTOR = 5  # of a Parquet table, while it is read (66,903 x 512: 700 MB for 137 MB)


def _host_bytes(c: Counts) -> dict[str, int]:
    """On the CPU the device's memory is the process's."""
    return {
        "process": _PROCESS_BYTES,
        "graph, split and filters": c.nodes * _BYTES_PER_NODE + c.facts * _BYTES_PER_FACT,
    }


def _drawing_bytes(c: Counts, b: _Bytes, step: _Bytes) -> int:
    """Sources and facts of all edges by target, places in a draw, and the draw of the next step."""
    return b.edges * 2 * _INT + step.edges * (_LONG + 2 * _INT) + step.graph
