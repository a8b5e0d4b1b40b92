"""What a run will take, computed from counts before anything is allocated.

In: a graph's counts, the configuration, the device's limit. Out: a `MemoryPlan`. The figures are sums of the tensors that live
at the same time in each phase; the peak that was reached is logged beside them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hgt.config import RunConfig
from hgt.device import DeviceProbe
from hgt.errors import InputError
from hgt.graph import KnowledgeGraph
from hgt.message_graph import message_edge_types

_FLOAT = 4
_PROCESS_BYTES = 450 << 20  # interpreter, torch, pyarrow and the graph's strings in the training process, on the CPU
_EVALUATION_SCORES = 16_000_000  # ranking's chunk of scores
_NODE_COPIES_PER_LAYER = 12  # node-sized tensors of a layer that live from forward to backward, plus backward's own


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes per phase and the largest sum; limit_bytes: what the device may give."""

    device: str
    limit_bytes: int
    phases: dict[str, int]
    required_bytes: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        lines = [f"memory plan for {self.device}"]
        lines += [f"  {n / 2**20:>10,.0f} MiB  {phase}" for phase, n in self.phases.items()]
        lines.append(f"  {self.required_bytes / 2**20:>10,.0f} MiB  at the peak, of {self.limit_bytes / 2**20:,.0f} MiB available")
        return "\n".join(lines)


def plan_memory(graph: KnowledgeGraph, config: RunConfig, probe: DeviceProbe) -> MemoryPlan:
    """The plan for this graph, configuration and device."""
    m, t = config.model, config.train
    nodes, types, relations = graph.total_nodes, len(graph.node_types), len(message_edge_types(graph))
    edges = 2 * graph.total_facts
    head_dim = m.hidden_dim // m.num_heads
    layer = types * (4 * m.hidden_dim**2) + relations * 2 * m.num_heads * head_dim**2
    parameters = nodes * m.hidden_dim + m.num_layers * layer + m.hidden_dim * m.embedding_dim + len(graph.edge_types) * m.embedding_dim

    encoder = m.num_layers * (_NODE_COPIES_PER_LAYER * nodes * m.hidden_dim + edges * m.num_heads) * _FLOAT
    embeddings = 2 * nodes * m.embedding_dim * _FLOAT
    num_batches = max(-(-max(graph.num_facts.values()) // t.edge_sample_size), t.min_batches_per_epoch)
    facts = sum(-(-n // num_batches) for n in graph.num_facts.values())
    rows = 2 * facts // t.accumulation_steps + types * t.num_negatives
    decoder = (6 * rows * m.embedding_dim + 8 * facts // t.accumulation_steps * t.num_negatives) * _FLOAT
    phases = {
        "process": _PROCESS_BYTES if probe.type == "cpu" else 0,
        "weights, gradients and Adam": 4 * parameters * _FLOAT,
        "message graph": edges * 36,
        "encoder, forward to backward": encoder,
        "embeddings and their gradient": embeddings,
        "decoder, one micro-batch": decoder,
        "evaluation": 5 * _EVALUATION_SCORES * _FLOAT + nodes * m.embedding_dim * _FLOAT,
        "layer-wise inference": 8 * nodes * m.hidden_dim * _FLOAT + nodes * m.embedding_dim * _FLOAT,
    }
    names = list(phases)
    standing = sum(phases[n] for n in names[:3])
    step = sum(phases[n] for n in names[3:6])
    required = standing + max(step, phases["evaluation"], phases["layer-wise inference"])
    return MemoryPlan(probe.type, probe.limit_bytes, phases, required)


def refuse_what_cannot_fit(plan: MemoryPlan) -> None:
    """Raises InputError with required and available bytes and what to change. Never touches `embedding_dim`."""
    if plan.required_bytes <= plan.limit_bytes:
        return
    raise InputError(
        f"This run needs about {plan.required_bytes:,} bytes on {plan.device}, which has {plan.limit_bytes:,} available. Raise "
        "accumulation_steps, lower edge_sample_size or hidden_dim, take part of the graph with limit_nodes or include_node_types, or "
        "choose another device."
    )
