"""What a run will take, computed from counts before anything is allocated; and the largest form of the step that fits.

In: a graph, the configuration, the device's limit. Out: a `MemoryPlan`. A phase's figure is the sum of the tensors that live at
its worst moment, moment by moment as the code in `layer.py`, `attention.py`, `step.py` and `ranking.py` makes and drops them.
What may shrink without changing the result is a `StepForm`; `embedding_dim` is never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from math import ceil, inf
from typing import Any

import torch
from torch import Tensor

from hgt.batches import BatchSizes, batch_sizes
from hgt.config import RunConfig, parse_bytes
from hgt.device import DeviceProbe, probe_device
from hgt.edge_kernels import ACCELERATOR_CHUNK, CPU_CHUNK
from hgt.errors import InputError
from hgt.graph import KnowledgeGraph
from hgt.layer import MAX_REDUCTION_ROWS
from hgt.message_graph import MAX_SEGMENT_EDGES, GroupLimits, _block_rows
from hgt.ranking import COMPARED_PER_CHUNK, SCORES_PER_CHUNK

_FLOAT, _INT, _LONG = 4, 4, 8
_PHASES = {
    "step": "forward, loss and backward of one optimizer step",
    "optimizer": "Adam's update",
    "inference": "embeddings of all nodes, layer by layer",
    "evaluation": "ranks of held-out facts",
}


@dataclass(frozen=True)
class StepForm:
    """How a step is worked off: smaller forms take less memory and more time, and give the same result.

    table_rows, group_edges: see `GroupLimits`; recompute_layers, keep_projections: see `HGTLayer`
    """

    accumulation_steps: int
    table_rows: int
    group_edges: int
    recompute_layers: bool
    keep_projections: bool

    @classmethod
    def of(cls, config: RunConfig) -> StepForm:
        """The largest form that the configuration allows."""
        limits, recompute = GroupLimits(), config.train.recompute_layers
        return cls(config.train.accumulation_steps, limits.rows, limits.edges, recompute, keep_projections=not recompute)

    @property
    def limits(self) -> GroupLimits:
        return GroupLimits(self.table_rows, self.group_edges)

    def smaller(self) -> StepForm | None:
        """The next smaller form, or None: recomputed projections, smaller chunks, recomputed layers, more micro-batches."""
        if self.keeps_projections:
            return replace(self, keep_projections=False)
        if self.table_rows > 8_192:
            return replace(self, table_rows=self.table_rows // 4, group_edges=self.group_edges // 4)
        if not self.recompute_layers:
            return replace(self, recompute_layers=True)
        if self.accumulation_steps < 64:
            return replace(self, accumulation_steps=2 * self.accumulation_steps)
        return None

    @property
    def keeps_projections(self) -> bool:
        return self.keep_projections and not self.recompute_layers

    def __str__(self) -> str:
        layers = "kept with keys, queries and values" if self.keeps_projections else "kept"
        layers = "recomputed" if self.recompute_layers else layers
        sizes = f"tables of {self.table_rows:,} rows, groups of {self.group_edges:,} edges"
        return f"{self.accumulation_steps} micro-batches, {sizes}, layers {layers} for the backward pass"


@dataclass(frozen=True)
class MemoryPlan:
    """phases: bytes at the worst moment of each; parts: what the step's worst moment consists of
    limit_bytes: what the device may give; required_bytes: the largest phase; form: how steps are worked off
    """

    device: str
    limit_bytes: int
    phases: dict[str, int]
    parts: dict[str, int]
    form: StepForm
    required_bytes: int

    @property
    def fits(self) -> bool:
        """With a tenth of the limit left over: no allocator packs without gaps (8 % on an H100)."""
        return self.required_bytes <= 0.9 * self.limit_bytes

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        lines = [f"memory plan for {self.device}: {self.form}"]
        lines += [f"  {n / 2**20:>10,.0f} MiB  {name:<12}{_PHASES[name]}" for name, n in self.phases.items()]
        lines.append("of the step")
        lines += [f"  {n / 2**20:>10,.0f} MiB  {name}" for name, n in self.parts.items()]
        lines.append(f"  {self.required_bytes / 2**20:>10,.0f} MiB  at the peak, of {self.limit_bytes / 2**20:,.0f} MiB available")
        return "\n".join(lines)


def plan_memory(graph: KnowledgeGraph, config: RunConfig, probe: DeviceProbe) -> MemoryPlan:
    """The plan with the largest form that fits the limit; with the smallest form where none does."""
    counts = _Counts.of(graph, config, probe.type)
    form: StepForm | None = StepForm.of(config)
    while form is not None:
        plan = _plan(counts, form, probe)
        form = None if plan.fits else form.smaller()
    return plan


def plan_of_form(graph: KnowledgeGraph, config: RunConfig, probe: DeviceProbe, form: StepForm) -> MemoryPlan:
    """The plan of one form, whether it fits or not."""
    return _plan(_Counts.of(graph, config, probe.type), form, probe)


def refuse_what_cannot_fit(plan: MemoryPlan, graph: KnowledgeGraph, config: RunConfig, probe: DeviceProbe) -> None:
    """Raises InputError with required and available bytes and the smallest change that would fit. Never touches `embedding_dim`."""
    if plan.fits:
        return
    changes = [_change(name, value) for name, value in _fitting_changes(graph, config, probe)]
    advice = f"What would fit: {', or '.join(changes)}; or another device." if changes else "Take another device, or a smaller graph."
    raise InputError(
        f"This run needs {plan.required_bytes:,} bytes on {plan.device} in its smallest form ({plan.form}), and a tenth more for gaps; "
        f"{plan.limit_bytes:,} are available. {advice}"
    )


def _change(name: str, value: int) -> str:
    return f"--{name.replace('_', '-')} {value}"


def _fitting_changes(graph: KnowledgeGraph, config: RunConfig, probe: DeviceProbe) -> Iterator[tuple[str, int]]:
    """For each parameter that may shrink, the largest smaller value with which the run fits."""
    heads = config.model.num_heads
    steps = {
        "hidden_dim": [h for h in (192, 128, 96, 64, 32) if h < config.model.hidden_dim and h % heads == 0],
        "num_layers": list(range(config.model.num_layers - 1, 0, -1)),
    }
    for name, values in steps.items():
        for value in values:
            changed: dict[str, Any] = {name: value}
            smaller = replace(config, model=replace(config.model, **changed))
            if plan_memory(graph, smaller, probe).fits:
                yield name, value
                break
    counts = _Counts.of(graph, config, probe.type)
    low, high = 0, graph.total_nodes
    form = replace(
        StepForm.of(config), accumulation_steps=64, table_rows=4_096, group_edges=65_536, recompute_layers=True, keep_projections=False
    )
    while high - low > graph.total_nodes // 100 + 1:  # a sample of nodes has about its share of the facts
        middle = (low + high) // 2
        fits = _plan(counts.scaled(middle / graph.total_nodes), form, probe).fits
        low, high = (middle, high) if fits else (low, middle)
    low = int(0.9 * low) // 100 * 100  # a sample's share of the facts is a little larger than that of the nodes
    if low:
        yield "limit_nodes", low


def memory_limit(config: RunConfig) -> int | None:
    """The bytes that the parameter `memory` allows; None for all that there are."""
    return None if config.train.memory is None else parse_bytes(config.train.memory)


def probe_for_plan(config: RunConfig) -> DeviceProbe:
    """The device that a run would get; one that is not on this machine can be planned for where `memory` says what it has.

    Raises InputError as `probe_device` does.
    """
    device, limit = config.train.compute_device, memory_limit(config)
    try:
        return probe_device(device, limit)
    except InputError:
        if device is None or limit is None:
            raise
        return DeviceProbe(device, "elsewhere", limit, "asked for", torch.__version__, "")


@dataclass(frozen=True)
class _MessageType:
    """One message edge type's edges: how many, and how many nodes they come from and go to."""

    sources: int
    targets: int
    edges: int

    def scaled(self, share: float) -> _MessageType:
        return _MessageType(ceil(self.sources * share), ceil(self.targets * share), ceil(self.edges * share))


@dataclass(frozen=True)
class _Asked:
    """One relation's ranked facts: how many, from how many nodes they are asked, and how many facts of these nodes are known."""

    facts: int
    nodes: int
    known: int


@dataclass(frozen=True)
class _Counts:
    """All that the plan depends on. Sizes are numbers of things."""

    device: str
    nodes: int
    node_types: int
    largest_type: int  # nodes
    hidden: int
    dim: int
    heads: int
    layers: int
    relations: int
    facts: int  # of the whole graph
    message_types: tuple[_MessageType, ...]  # of the training facts
    step_types: tuple[_MessageType, ...]  # of a training step: all, or the edges that `num_neighbors` leaves
    chunk_types: tuple[_MessageType, ...]  # into the chunk of nodes with the most edges (inference)
    draws_edges: bool
    dropout: bool
    complex: bool
    item: int  # bytes of what is gathered along edges
    node_chunk: int
    ranked: tuple[_Asked, ...]  # after each epoch
    tested: tuple[_Asked, ...]
    batch: BatchSizes

    @classmethod
    def of(cls, graph: KnowledgeGraph, config: RunConfig, device: str) -> _Counts:
        m, t = config.model, config.train
        share = 1 - config.split.val_fraction - config.split.test_fraction
        degrees = list(_degrees(graph))
        types = tuple(_message_type(source, target, share) for _, source, target in degrees)
        most = t.num_neighbors or inf
        drawn = (ceil((share * target).clamp(max=most).sum()) for _, _, target in degrees)
        return cls(
            device=device, nodes=graph.total_nodes, node_types=len(graph.node_types), largest_type=max(graph.num_nodes.values()),
            hidden=m.hidden_dim, dim=m.embedding_dim, heads=m.num_heads, layers=m.num_layers, relations=len(graph.edge_types),
            facts=graph.total_facts, message_types=types,
            step_types=tuple(replace(of_type, edges=n) for of_type, n in zip(types, drawn, strict=True)),
            chunk_types=_chunk_types(degrees, graph.total_nodes, t.node_batch_size, share), draws_edges=t.num_neighbors is not None,
            dropout=m.dropout > 0, complex=m.decoder == "complex", item=2 if m.mixed_precision else 4, node_chunk=t.node_batch_size,
            ranked=_asked(graph, min(t.num_val_edges / graph.total_facts, config.split.val_fraction)),
            tested=_asked(graph, config.split.test_fraction), batch=batch_sizes(graph, config),
        )  # fmt: skip

    def scaled(self, share: float) -> _Counts:
        """A graph with this share of the nodes and facts."""
        changed: dict[str, Any] = {n: max(1, int(getattr(self, n) * share)) for n in ("nodes", "largest_type", "facts")}
        for name in ("message_types", "step_types"):
            changed[name] = tuple(of_type.scaled(share) for of_type in getattr(self, name))
        return replace(self, **changed)


def _degrees(graph: KnowledgeGraph) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each message edge type: the global number of its first target, and each source's and target's number of edges."""
    for edge_type, index in graph.edge_index.items():
        ends = edge_type[::2]
        heads, tails = (torch.bincount(side, minlength=graph.num_nodes[e]) for side, e in zip(index, ends, strict=True))
        if edge_type in graph.symmetric:
            yield graph.offsets[ends[0]], heads + tails, heads + tails
        else:
            yield graph.offsets[ends[1]], heads, tails
            yield graph.offsets[ends[0]], tails, heads


def _drawn_share(degree: Tensor, share: float) -> Tensor:
    """Of each node the chance that one of its edges is among this share of the edges, drawn at random."""
    return 1 - (1 - share) ** degree


def _message_type(source: Tensor, target: Tensor, share: float, into: Tensor | None = None) -> _MessageType:
    """Expected of a random share of the edges. into: the degrees of those targets alone that count; all when not given"""
    into = target if into is None else into
    of_sources = share * int(into.sum()) / max(int(target.sum()), 1)
    sources, targets = (ceil(_drawn_share(*side).sum()) for side in ((source, of_sources), (into, share)))
    return _MessageType(sources, targets, ceil(share * int(into.sum())))


def _chunk_types(degrees: list[tuple[int, Tensor, Tensor]], nodes: int, chunk: int, share: float) -> tuple[_MessageType, ...]:
    edges = torch.zeros(nodes, dtype=torch.int64)
    for offset, _, target in degrees:
        edges[offset : offset + len(target)] += target
    start = chunk * int(torch.stack([part.sum() for part in edges.split(chunk)]).argmax())
    return tuple(
        _message_type(source, target, share, target[max(start - offset, 0) : max(start + chunk - offset, 0)])
        for offset, source, target in degrees
    )


def _asked(graph: KnowledgeGraph, share: float) -> tuple[_Asked, ...]:
    """Where this share of each relation's facts is ranked; of the two sides the one that asks more nodes."""
    asked = []
    for edge_type, index in graph.edge_index.items():
        sides = [torch.bincount(side, minlength=max(graph.num_nodes[e] for e in edge_type[::2])) for side in index]
        known = [sides[0] + sides[1]] * 2 if edge_type in graph.symmetric else sides
        for_side = []
        for degree, known_degree in zip(sides, known, strict=True):
            chance = _drawn_share(degree, share)
            for_side.append(_Asked(int(share * index.shape[1]), ceil(chance.sum()), ceil((chance * known_degree).sum())))
        asked.append(max(for_side, key=lambda side: side.nodes))
    return tuple(asked)


@dataclass(frozen=True)
class _Group:
    """What `message_graph` makes a group of. rows, blocks: of its table; nodes: on the side that is not transformed"""

    transforms_source: bool
    rows: int
    blocks: int
    nodes: int
    edges: int


def _groups(types: tuple[_MessageType, ...], limits: GroupLimits, nodes: int, drawn: bool) -> list[_Group]:
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
        pieces += [_Group(by_source, ceil(rows / parts), 0, others, ceil(t.edges / parts))] * (parts if t.edges else 0)
    block_rows = _block_rows([p.rows for p in pieces])
    groups: list[_Group] = []
    for piece in sorted(pieces, key=lambda p: not p.transforms_source):
        blocks, last = ceil(piece.rows / block_rows), groups[-1] if groups else None
        piece = replace(piece, rows=blocks * block_rows, blocks=blocks)
        if last and last.transforms_source == piece.transforms_source:
            rows, edges = last.rows + piece.rows, last.edges + piece.edges
            if rows <= limits.rows and edges <= limits.edges:
                groups[-1] = _Group(piece.transforms_source, rows, last.blocks + blocks, min(last.nodes + piece.nodes, nodes), edges)
                continue
        groups.append(piece)
    return groups


class _GroupBytes:
    """Sizes in bytes of what one group's edges take on the way.

    table: [H, table_rows, D]; matrices: one [D, D] for each block and head; weights: [edges, H]; targets: [edges] int64
    edge_dot: what the kernel of this name takes; sums, ordered_sums: what a weighted sum takes beside its result, with edges in the
    group's order or in another
    """

    def __init__(self, c: _Counts, g: _Group):
        self.by_source = g.transforms_source
        self.table = g.rows * c.hidden * _FLOAT
        self.matrices = g.blocks * c.hidden**2 // c.heads * _FLOAT
        self.weights = g.edges * c.heads * _FLOAT
        self.targets = g.edges * _LONG
        chunk = min(CPU_CHUNK if c.device == "cpu" else ACCELERATOR_CHUNK, g.edges)
        gathered = chunk * (c.hidden + c.heads) * _FLOAT  # with their places
        self.edge_dot = self.sums = self.ordered_sums = 0
        if c.device != "cuda":  # ChunkedKernels
            self.edge_dot, self.sums, self.ordered_sums = 2 * gathered, gathered, gathered + self.weights
        if c.device == "cpu":  # BagKernels: places and weights head by head; sums of each node before they are added
            sums = g.nodes * c.hidden * _FLOAT
            self.sums, self.ordered_sums = 2 * self.weights + sums, 3 * self.weights + sums
        self.graph = g.edges * 5 * _INT + self.segments(g) * 2 + (g.rows + g.blocks) * _LONG
        self.same_in_draws = g.edges * _INT + self.segments(g) + (g.rows + g.blocks) * _LONG

    @staticmethod
    def segments(g: _Group) -> int:
        """Rows and starts of one order of the edges; on the two sides together there are as many as nodes and table rows."""
        return ((g.nodes + g.rows) // 2 + g.edges // MAX_SEGMENT_EDGES) * (_LONG + _INT)


class _Bytes:
    """Sizes in bytes of what passing messages along some edges takes."""

    def __init__(self, c: _Counts, types: tuple[_MessageType, ...], limits: GroupLimits, drawn: bool = False):
        head_dim = c.hidden // c.heads
        edges = sum(t.edges for t in types)
        self.node = c.nodes * c.hidden * _FLOAT  # a node-sized tensor
        self.compute = c.nodes * c.hidden * c.item  # keys, queries or values
        self.part = min(c.largest_type, MAX_REDUCTION_ROWS) * c.hidden * _FLOAT  # what output maps are worked off in
        self.per_head = c.nodes * c.heads * _FLOAT
        self.weights = edges * c.heads * _FLOAT
        self.kept = c.nodes * c.hidden * c.dropout
        self.transforms = len(types) * c.hidden * head_dim * _FLOAT  # one relation matrix for each type and head
        self.layer = c.node_types * (4 * c.hidden + 4) * c.hidden * _FLOAT + 2 * self.transforms + len(types) * c.heads * _FLOAT
        self.parameters = c.nodes * c.hidden * _FLOAT + c.layers * self.layer + ((c.hidden + 1) * c.dim + c.relations * c.dim) * _FLOAT
        self.groups = [_GroupBytes(c, g) for g in _groups(types, limits, c.nodes, drawn)]
        self.facts = edges * _INT  # the fact of each edge
        self.removed = edges  # bool
        self.graph = sum(g.graph for g in self.groups) + self.facts
        self.same_in_draws = sum(g.same_in_draws for g in self.groups)
        self.edges = edges

    def largest(self, moment: Callable[[_GroupBytes, int], int]) -> int:
        """Over all groups. A group begins while the table of the one before is still there, whose size is the second argument."""
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
            return g.targets + max(before + g.weights, before + 2 * g.table + g.matrices, g.table + g.sums)

        return self.weights + 2 * self.per_head + self.node + self.transforms + self.largest(moment)

    def message_backward(self) -> int:
        """`Attention.message_backward` beside node-sized tensors: rows and two tables; at a group's end the gradient of its totals."""

        def moment(g: _GroupBytes, before: int) -> int:
            tables = 2 if g.by_source else 3
            products = max(before + 2 * g.table, 3 * g.table) if g.by_source else before + 3 * g.table
            return g.weights + max(
                products + g.matrices, 2 * g.table + g.edge_dot, 2 * g.table + g.ordered_sums, tables * g.table + g.weights + g.targets
            )

        return 2 * self.transforms + self.largest(moment)

    def score_backward(self) -> int:
        """`Attention.score_backward` beside node-sized tensors."""

        def moment(g: _GroupBytes, before: int) -> int:
            return max(max(before, g.table) + 2 * g.table + g.matrices, 2 * g.table + g.ordered_sums)

        return 2 * self.transforms + self.largest(moment)


def _plan(c: _Counts, form: StepForm, probe: DeviceProbe) -> MemoryPlan:
    b = _Bytes(c, c.message_types, form.limits)
    step = _Bytes(c, c.step_types, form.limits, drawn=True) if c.draws_edges else b
    batch = _batch_bytes(c, form) + step.removed
    step_graph, evaluation_graph = b.graph, b.graph
    if c.draws_edges:  # the graph with all edges stays on the CPU between evaluations; facts of drawn edges do so always
        step_graph = step.graph - step.facts
        # beside it, on the CPU the graph with all edges; on CUDA the draw that the step was recorded with
        step_graph += {"cpu": b.graph, "cuda": step_graph - step.same_in_draws}.get(c.device, 0)
        evaluation_graph = b.graph + step.same_in_draws
    host = _host_bytes(c) if c.device == "cpu" else {}
    gaps = _GAPS if c.device == "cpu" else 0.0
    drawing = _drawing_bytes(c, b, step) if c.device == "cpu" and c.draws_edges else 0
    libraries = _LIBRARY_BYTES.get(c.device, 0)
    tensors = {
        **({"drawing of edges": drawing} if drawing else {}),
        "weights and Adam": 3 * b.parameters,
        "message graph": step_graph,
        "batch": batch if c.device == "mps" else 2 * batch,  # on CUDA that of the recorded step too, on the CPU that of the next
        **_step_parts(c, step, form),
    }
    worst = {
        "step": sum(tensors.values()),
        "optimizer": drawing + 4 * b.parameters + step_graph + tensors["batch"],
        "inference": b.parameters + _inference(c, b),
        # the last step's gradients stay until the next step begins
        "evaluation": max(drawing + 4 * b.parameters + evaluation_graph + _validation(c, b, form), _test(c)),
    }
    beside = sum(host.values()) + libraries
    phases = {name: beside + n + int(gaps * n) for name, n in worst.items()}
    parts = {
        **host,
        **({"gaps between blocks": int(gaps * worst["step"])} if gaps else {}),
        **({"libraries": libraries} if libraries else {}),
        **tensors,
    }
    return MemoryPlan(probe.type, probe.limit_bytes, phases, parts, form, max(phases.values()))


def _batch_bytes(c: _Counts, form: StepForm) -> int:
    """`MicroBatch`es: nodes; weights, relations, order and filters of both sides; anchors, their weights and filters."""
    parts = form.accumulation_steps
    anchors, pool = c.batch.contrast or (0, 0)
    of_facts = c.batch.facts(parts) * (_FLOAT + 2 * _LONG + 2 * c.batch.pool_width)
    return parts * (c.batch.rows(parts) * _LONG + of_facts) + anchors * (pool + _FLOAT)


def _step_parts(c: _Counts, b: _Bytes, form: StepForm) -> dict[str, int]:
    """The worst moment of a step, beyond weights, Adam, graph and batch."""
    attended = b.node + b.weights + b.per_head + (3 * b.compute if form.keeps_projections else 0)
    kept_per_layer = b.kept + (0 if form.recompute_layers else attended)
    saved = c.layers * kept_per_layer + (c.layers - 1) * b.node  # and the inputs of all layers but the first
    moments = [
        _forward(b, form, saved - kept_per_layer, attended),
        *_decoder(c, b, form, saved),
        _backward(c, b, form, saved, attended, gradients=b.layer),
        # the first layer's way back comes last: the others' parameters have their gradients, and what they kept is gone
        _backward(c, b, form, kept_per_layer, attended, gradients=c.layers * b.layer),
    ]
    return max(moments, key=lambda parts: sum(parts.values()))


def _attend(b: _Bytes, keeps: bool) -> int:
    """`_attend` of a layer: scores from queries and keys; messages from values."""
    return max(2 * b.compute + b.scores(), (3 if keeps else 1) * b.compute + b.messages())


def _forward(b: _Bytes, form: StepForm, saved: int, attended: int) -> dict[str, int]:
    """The last layer: attention, or the output map with its activations and products."""
    last = max(_attend(b, form.keeps_projections), attended + b.node + 2 * b.part)
    return {"kept for the backward pass": saved + b.kept, "forward, last layer": last}


def _decoder(c: _Counts, b: _Bytes, form: StepForm, saved: int) -> list[dict[str, int]]:
    """The loss of a micro-batch; and where all nodes are projected, the way back through the projection."""
    rows, facts, width = c.batch.rows(form.accumulation_steps), c.batch.facts(form.accumulation_steps), c.batch.pool_width
    first = c.batch.projects_first(c.nodes)
    dim, hidden = c.dim * _FLOAT, c.hidden * _FLOAT
    own = rows * (dim if first else hidden)
    before = 2 * own if form.accumulation_steps > 1 else 0  # rows and gradient of the micro-batch before, which its loss still holds
    embeddings = 0 if first else rows * dim
    # Queries and relations of both sides, conjugated relations and products of parts too where numbers are complex.
    queries = 5 if c.complex else 4
    # Of both sides the scores with the true one; on the way there also as they are and filtered, on the way back three as large.
    scores = width * _FLOAT
    losses = (
        before + facts * max((queries + 1) * dim * c.complex, queries * dim + 4 * scores + width),
        facts * (queries * dim + 5 * scores + width),
        rows * dim + facts * (queries + 1) * dim,  # gradients of all rows by section, and those of queries
    )
    states = {
        "kept for the backward pass": saved + (b.node if first else 0),
        "embeddings and their gradient" if first else "hidden states and their gradient": 2 * c.nodes * (dim if first else hidden),
    }
    moments = [states | {"loss of one micro-batch": own + embeddings + max(losses)}]
    if first:
        moments.append(states | {"last micro-batch and gradient of the hidden states": 2 * own + b.node})
    return moments


def _backward(c: _Counts, b: _Bytes, form: StepForm, saved: int, attended: int, gradients: int) -> dict[str, int]:
    """Of a layer. The incoming gradient becomes that of the layer's input. gradients: of parameters"""
    keeps = form.keeps_projections
    half = b.compute if b.compute < b.node else 0  # the gradient of the sums in half precision
    working = max(
        b.node + 3 * b.part,  # `_update_backward`: gradient of the messages; activations, their gradient and that of the output map
        2 * b.node + b.per_head,  # `sum_backward`: gradient of the sums, and its product with the messages
        # without messages: gradients of the sums and of the values, values
        b.node + b.per_head + half + (0 if keeps else b.compute) + b.message_backward(),
        # without messages (and values): queries and keys and their gradients
        b.node + (-b.compute if keeps else 2 * b.compute) + b.score_backward(),
    )
    if form.recompute_layers:
        working = max(attended + working, _attend(b, keeps=False))
    return {"kept for the backward pass": saved, "gradients": b.node + gradients, "backward, one layer": working}


def _inference(c: _Counts, b: _Bytes) -> int:
    """Layer by layer: inputs and outputs, keys and values, and a chunk's edges; or the embeddings, beside the last keys and values."""
    on_cpu = c.device == "cpu"
    chunk = _Bytes(replace(c, nodes=min(c.node_chunk, c.nodes), largest_type=c.node_chunk), c.chunk_types, GroupLimits())
    edges = b.edges * 3 * _LONG if on_cpu else 0  # sorted by target
    of_layer = (2 if c.layers > 1 else 1) * b.node + 2 * b.compute
    attend = max(chunk.compute + chunk.scores(), chunk.messages(), 2 * chunk.node + chunk.weights + 2 * chunk.part)
    moments = [
        b.edges * (7 if on_cpu else 4) * _LONG,  # `edge_list` and `sorted_by_target`
        edges + of_layer + chunk.graph - chunk.facts + attend,
        edges + of_layer + (16 * chunk.edges * _LONG if on_cpu else 0),  # `edges_into`, while it groups and sorts
        edges + of_layer + (2 * b.compute if c.layers > 1 else 0),  # keys and values of the layer before go when the new ones are there
        edges + b.node + 2 * b.compute + (c.nodes + min(c.node_chunk, c.nodes)) * c.dim * _FLOAT,
    ]
    return b.graph + max(moments)


def _validation(c: _Counts, b: _Bytes, form: StepForm) -> int:
    """After an epoch: a forward pass, then ranks."""
    inputs = b.node if c.layers > 1 else 0
    attended = b.node + b.weights + b.per_head + (3 * b.compute if form.keeps_projections else 0)
    embeddings = c.nodes * c.dim * _FLOAT
    projected = embeddings * (1 if c.nodes <= MAX_REDUCTION_ROWS else 2)  # in parts, then as one
    return max(
        inputs + max(_attend(b, form.keeps_projections), attended + b.node + 2 * b.part),
        b.node + projected,
        embeddings + _ranking(c, c.ranked),
    )


def _test(c: _Counts) -> int:
    """In a program of its own, which knows nothing but embeddings; reading them takes host memory."""
    embeddings = (c.nodes + c.relations) * c.dim * _FLOAT
    return max(embeddings + _ranking(c, c.tested), _READING_FACTOR * embeddings if c.device == "cpu" else 0)


def _ranking(c: _Counts, asked: tuple[_Asked, ...]) -> int:
    """Scores, the signs that they are compared to (of two chunks, as one follows another), and the places of known facts in them."""
    scores = (min(SCORES_PER_CHUNK, a.nodes * c.nodes) + min(2 * COMPARED_PER_CHUNK, a.facts * c.nodes) for a in asked)
    sizes = (n * _FLOAT + a.known * _LONG for n, a in zip(scores, asked, strict=True))
    return max(sizes, default=0)


_LIBRARY_BYTES = {"cuda": 72 << 20}  # cuBLAS's work space on Hopper, for the forward and the backward pass's thread (76 MB measured)
# Measured in a training process (Linux, torch 2.13): interpreter, torch and the library take 313 MiB, what the optimizer and the first
# step load besides 168 MiB; per node its strings; per fact its edge index, split and filters.
_PROCESS_BYTES = 481 << 20
_BYTES_PER_NODE = 400
_BYTES_PER_FACT = 150
# The heap keeps freed blocks (`device._keep_freed_memory`). Where each block was mapped by itself instead, a process took the planned
# bytes (within 3 %); in the heap a tenth to a third of them more, in nine cases.
_GAPS = 0.2
_READING_FACTOR = 5  # of a Parquet table, while it is read (66,903 x 512: 700 MB for 137 MB)


def _host_bytes(c: _Counts) -> dict[str, int]:
    """On the CPU the device's memory is the process's."""
    return {"process": _PROCESS_BYTES, "graph, split and filters": c.nodes * _BYTES_PER_NODE + c.facts * _BYTES_PER_FACT}


def _drawing_bytes(c: _Counts, b: _Bytes, step: _Bytes) -> int:
    """Sources and facts of all edges by target, places in a draw, and the draw of the next step."""
    return b.edges * 2 * _INT + step.edges * (_LONG + 2 * _INT) + step.graph
