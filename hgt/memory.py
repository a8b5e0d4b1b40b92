"""What a run will take, computed from counts before anything is allocated; and the largest form of the step that fits.

In: a graph, the configuration, the device's limit. Out: a `MemoryPlan`. A phase's figure is the sum of the tensors that live at
its worst moment, moment by moment as the code in `layer.py`, `attention.py`, `train.py` and `ranking.py` makes and drops them.
What may shrink without changing the result is a `StepForm`; `embedding_dim` is never touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any

import torch

from hgt.batches import BatchSizes, batch_sizes
from hgt.config import RunConfig, parse_bytes
from hgt.device import DeviceProbe, probe_device
from hgt.edge_kernels import ACCELERATOR_CHUNK, CPU_CHUNK
from hgt.errors import InputError
from hgt.graph import KnowledgeGraph
from hgt.message_graph import MAX_SEGMENT_EDGES, GroupLimits, message_edge_types
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
    device, limit = config.train.device, memory_limit(config)
    try:
        return probe_device(device, limit)
    except InputError:
        if device is None or limit is None:
            raise
        return DeviceProbe(device, "elsewhere", limit, "asked for", torch.__version__, "")


@dataclass(frozen=True)
class _Counts:
    """All that the plan depends on. Sizes are numbers of things; `c_` sizes of one thing in bytes."""

    device: str
    nodes: int
    node_types: int
    hidden: int
    dim: int
    heads: int
    layers: int
    message_types: int
    relations: int
    facts: int  # of the whole graph
    train_facts: int
    edges: int  # message edges
    step_edges: int  # message edges of a training step: all, or those that `num_neighbors` leaves
    draws_edges: bool
    table_rows: int  # of the larger side's groups together
    all_table_rows: int
    dropout: bool
    complex: bool
    item: int  # bytes of what is gathered along edges
    node_chunk: int
    ranked: tuple[int, int]  # after each epoch: the most facts of one edge type, and the most nodes that they are asked of
    tested: tuple[int, int]  # the same of the test facts
    num_known: int  # facts of the largest edge type, symmetric ones twice: left out of the candidates
    batch: BatchSizes

    @classmethod
    def of(cls, graph: KnowledgeGraph, config: RunConfig, device: str) -> _Counts:
        m, t = config.model, config.train
        share = 1 - config.split.val_fraction - config.split.test_fraction
        edges, step_edges, rows = 0, 0.0, {True: 0, False: 0}
        for edge_type, index in graph.edge_index.items():
            n = graph.num_nodes
            degrees = [torch.bincount(side, minlength=n[e]) for side, e in zip(index, edge_type[::2], strict=True)]
            heads, tails = (int(d.count_nonzero()) for d in degrees)
            edges += 2 * index.shape[1]
            into = [degrees[0] + degrees[1]] if edge_type in graph.symmetric else degrees
            step_edges += sum(float((share * d).clamp(max=t.num_neighbors or inf).sum()) for d in into)
            if edge_type in graph.symmetric:
                rows[True] += max(heads, tails)
            else:  # the relation and its reverse transform the same nodes, once as sources, once as targets
                rows[True] += min(heads, tails)
                rows[False] += min(heads, tails)
        return cls(
            device=device, nodes=graph.total_nodes, node_types=len(graph.node_types), hidden=m.hidden_dim, dim=m.embedding_dim,
            heads=m.num_heads, layers=m.num_layers, message_types=len(message_edge_types(graph)), relations=len(graph.edge_types),
            facts=graph.total_facts, train_facts=int(graph.total_facts * share), edges=int(edges * share),
            step_edges=int(edges * share) if t.num_neighbors is None else int(step_edges), draws_edges=t.num_neighbors is not None,
            table_rows=max(rows.values()), all_table_rows=sum(rows.values()),
            dropout=m.dropout > 0, complex=m.decoder == "complex", item=2 if m.mixed_precision else 4, node_chunk=t.node_batch_size,
            ranked=_most_ranked(graph, min(t.num_val_edges / graph.total_facts, config.split.val_fraction)),
            tested=_most_ranked(graph, config.split.test_fraction),
            num_known=max((n * (1 + (e in graph.symmetric)) for e, n in graph.num_facts.items()), default=0),
            batch=batch_sizes(graph, config),
        )  # fmt: skip

    def scaled(self, share: float) -> _Counts:
        """A graph with this share of the nodes and facts."""
        sizes = ("nodes", "facts", "train_facts", "edges", "step_edges", "table_rows", "all_table_rows")
        changed: dict[str, Any] = {name: max(1, int(getattr(self, name) * share)) for name in sizes}
        return replace(self, **changed)


def _most_ranked(graph: KnowledgeGraph, share: float) -> tuple[int, int]:
    """Where this share of each edge type's facts is ranked: the most facts of one, and the most nodes that they can be asked of."""
    facts = {e: int(share * n) for e, n in graph.num_facts.items()}
    asked = (min(n, max(graph.num_nodes[e[0]], graph.num_nodes[e[2]])) for e, n in facts.items())
    return max(facts.values(), default=0), max(asked, default=0)


class _Bytes:
    """Sizes in bytes of what a step makes, for one form."""

    def __init__(self, c: _Counts, form: StepForm):
        on_cpu = c.device == "cpu"
        head_dim = c.hidden // c.heads
        self.node = c.nodes * c.hidden * _FLOAT  # a node-sized tensor
        self.node_compute = c.nodes * c.hidden * c.item
        self.per_head = c.nodes * c.heads * _FLOAT
        self.edge_weights = c.edges * c.heads * _FLOAT
        self.kept = c.nodes * c.hidden * c.dropout
        layer = c.node_types * (4 * c.hidden + 4) * c.hidden + c.message_types * c.heads * (2 * head_dim**2 + 1)
        self.layer = layer * _FLOAT
        self.parameters = (c.nodes * c.hidden + c.layers * layer + (c.hidden + 1) * c.dim + c.relations * c.dim) * _FLOAT
        rows = min(int(1.2 * c.table_rows), form.table_rows)  # with padding
        self.table = rows * c.hidden * _FLOAT
        group_edges = min(c.edges, form.group_edges)
        self.group = group_edges * (_LONG + 2 * c.heads * _FLOAT)  # targets, and two numbers per edge and head
        chunk = CPU_CHUNK if on_cpu else ACCELERATOR_CHUNK
        self.chunk = 0 if c.device == "cuda" else 3 * min(chunk, group_edges) * c.hidden * _FLOAT
        self.by_heads = self.node if on_cpu else 0  # summands lie head by head on the CPU, a copy
        segments = 2 * min(c.edges, c.all_table_rows + c.nodes) + c.edges // MAX_SEGMENT_EDGES
        self.graph = c.edges * 6 * _INT + segments * (_LONG + _INT) + c.all_table_rows * _LONG
        self.same_in_draws = c.edges * _INT + segments // 2 * (_LONG + _INT) + c.all_table_rows * _LONG  # of a graph that is drawn anew


def _plan(c: _Counts, form: StepForm, probe: DeviceProbe) -> MemoryPlan:
    b, step = _Bytes(c, form), _Bytes(replace(c, edges=c.step_edges), form)
    step_graph, evaluation_graph = b.graph, b.graph
    if c.draws_edges:  # the graph with all edges stays on the CPU between evaluations; facts of drawn edges do so always
        step_graph = step.graph - c.step_edges * _INT
        # beside it, on the CPU the graph with all edges; on CUDA the draw that the step was recorded with
        step_graph += {"cpu": b.graph, "cuda": step_graph - step.same_in_draws}.get(c.device, 0)
        evaluation_graph = b.graph + step.same_in_draws
    host = _host_bytes(c) if c.device == "cpu" else {}
    drawing = _drawing_bytes(c, step) if c.device == "cpu" and c.draws_edges else 0
    process = sum(host.values())
    libraries = _LIBRARY_BYTES.get(c.device, 0)
    parts = {
        **host,
        **({"drawing of edges": drawing} if drawing else {}),
        **({"libraries": libraries} if libraries else {}),
        "weights and Adam": 3 * b.parameters,
        "message graph": step_graph,
        **_step_parts(c, step, form),
    }
    phases = {
        "step": sum(parts.values()),
        "optimizer": process + libraries + drawing + 4 * b.parameters + step_graph,
        "inference": process + libraries + b.parameters + _inference(c, b),
        "evaluation": process + libraries + max(drawing + 3 * b.parameters + evaluation_graph + _validation(c, b), _test(c)),
    }
    return MemoryPlan(probe.type, probe.limit_bytes, phases, parts, form, max(phases.values()))


def _step_parts(c: _Counts, b: _Bytes, form: StepForm) -> dict[str, int]:
    """The worst moment of a step, beyond weights, Adam and graph."""
    kept_per_layer = b.kept + (0 if form.recompute_layers else b.node + b.edge_weights + b.per_head)
    kept_per_layer += 3 * b.node_compute if form.keeps_projections else 0
    saved = c.layers * kept_per_layer + (c.layers - 1) * b.node
    moments = [
        _forward(b, form, saved - kept_per_layer),
        _decoder(c, b, form, saved),
        _backward(c, b, form, saved),
    ]
    return max(moments, key=lambda parts: sum(parts.values()))


def _attend_transients(b: _Bytes) -> int:
    """Scores from queries and keys, or messages from values, with a group's tables."""
    scores = 2 * b.node_compute + b.edge_weights + b.per_head + 3 * b.table
    messages = b.node_compute + b.by_heads + b.node + b.edge_weights + 2 * b.per_head + 3 * b.table
    return max(scores, messages) + b.group + b.chunk


def _forward(b: _Bytes, form: StepForm, saved: int) -> dict[str, int]:
    own = b.kept + (2 * b.node_compute if form.keeps_projections else 0)
    return {"kept for the backward pass": saved + own, "forward, last layer": _attend_transients(b)}


def _decoder(c: _Counts, b: _Bytes, form: StepForm, saved: int) -> dict[str, int]:
    rows, facts, width = c.batch.rows(form.accumulation_steps), c.batch.facts(form.accumulation_steps), c.batch.pool_width
    first = c.batch.projects_first(c.nodes)
    states = c.nodes * (c.dim if first else c.hidden) * _FLOAT
    per_fact = (10 if c.complex else 4) * c.dim * _FLOAT + width * (5 * _FLOAT + 2)  # queries and products; scores of both sides, filters
    loss = rows * (_LONG + 2 * c.dim * _FLOAT + (0 if first else 2 * c.hidden * _FLOAT)) + facts * per_fact
    return {
        "kept for the backward pass": saved + (b.node if first else 0),
        "embeddings and their gradient" if first else "hidden states and their gradient": 2 * states,
        "loss of one micro-batch": loss,
    }


def _backward(c: _Counts, b: _Bytes, form: StepForm, saved: int) -> dict[str, int]:
    """The last layer, whose way back begins with everything still kept. The incoming gradient becomes that of the layer's input."""
    own = b.node + b.edge_weights + 2 * b.per_head  # messages, weights and totals
    saved = saved + own if form.recompute_layers else saved
    working = 5 * b.table + b.group + b.chunk
    values = b.node_compute + 2 * b.node + 2 * b.by_heads - b.node + working  # value, its gradient and that of the sums; no messages
    queries_and_keys = 2 * b.node_compute + 2 * b.node + 2 * b.by_heads - b.node + working
    if form.keeps_projections:
        values, queries_and_keys = values - b.node_compute, queries_and_keys - 3 * b.node_compute
    again = _attend_transients(b) - own if form.recompute_layers else 0
    gradients = b.node + 2 * b.layer
    return {"kept for the backward pass": saved, "gradients": gradients, "backward, last layer": max(values, queries_and_keys, again)}


def _inference(c: _Counts, b: _Bytes) -> int:
    """Inputs, keys, values and outputs of a layer, and one chunk's edges; or the last layer's outputs and the embeddings."""
    share = min(1.0, 4 * c.node_chunk / c.nodes)  # hubs lie together: a chunk may have several times its share of the edges
    chunk = int(share * (b.edge_weights + b.node) + 1.5 * b.table)
    return b.graph + max(4 * b.node + chunk + b.chunk, 2 * b.node + c.nodes * c.dim * _FLOAT)


def _validation(c: _Counts, b: _Bytes) -> int:
    """After an epoch: a forward pass, then ranks."""
    forward = b.node + b.edge_weights + _attend_transients(b)
    embeddings = c.nodes * c.dim * _FLOAT
    return max(forward, b.node + 2 * embeddings, embeddings + _ranking(c, *c.ranked))


def _test(c: _Counts) -> int:
    """In a program of its own, which knows nothing but embeddings; reading them takes host memory."""
    embeddings = (c.nodes + c.relations) * c.dim * _FLOAT
    return max(embeddings + _ranking(c, *c.tested), _READING_FACTOR * embeddings if c.device == "cpu" else 0)


def _ranking(c: _Counts, num_facts: int, num_queries: int) -> int:
    """Scores, the signs that they are compared to, and the places of known facts in them."""
    scores, signs = min(SCORES_PER_CHUNK, num_queries * c.nodes), min(COMPARED_PER_CHUNK, num_facts * c.nodes)
    return (scores + signs) * _FLOAT + c.num_known * _LONG


_LIBRARY_BYTES = {"cuda": 72 << 20}  # cuBLAS's work space on Hopper, for the forward and the backward pass's thread (76 MB measured)
# Measured in a training process: interpreter, torch and the library; per node its strings; per fact its edge index, split and filters.
_PROCESS_BYTES = 430 << 20
_BYTES_PER_NODE = 400
_BYTES_PER_FACT = 150
_READING_FACTOR = 5  # of a Parquet table, while it is read (66,903 x 512: 700 MB for 137 MB)


def _host_bytes(c: _Counts) -> dict[str, int]:
    """On the CPU the device's memory is the process's."""
    return {"process": _PROCESS_BYTES, "graph, split and filters": c.nodes * _BYTES_PER_NODE + c.facts * _BYTES_PER_FACT}


def _drawing_bytes(c: _Counts, step: _Bytes) -> int:
    """Sources and facts of all edges by target, places in a draw, and the draw of the next step."""
    return c.edges * 2 * _INT + c.step_edges * (_LONG + 2 * _INT) + step.graph
