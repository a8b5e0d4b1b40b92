"""What one training step must compute and move, counted from sizes alone: the limit that `limit.py`
holds the measured time against.

Counted are, for one encoder pass over all nodes and all message edges of the step,
the passes that any exact implementation makes whose edges are gathered rather than stored as [edges
x hidden]: each pass reads every operand once and writes every result once. It is a lower bound:
nothing is counted twice that is computed again to save memory, and nothing for what can stay on the
chip. Not counted are elementwise work (softmax, GELU, dropout, inner products along edges), biases,
padding, masks, the scores of the loss, kernel launches, and nodes without any message edge where a
pass can skip them.

Symbols, all of one layer: N nodes; S nodes with a message edge out, T with one in, A = max(S, T) of
those that have any; E edges; F hidden dimensions, H heads, D = F / H; C relation rows: per message
edge type the nodes on the side that has fewer of them, summed. A row is F floats of 4 bytes. A
multiplication with an addition is two operations; the backward pass of a product is two products.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from hgt.config import ModelConfig
from hgt.messages.grouping import EdgeList, edge_list
from hgt.messages.message_graph import MessageGraph
from hgt.training.batch import Batch
from hgt.training.layout import Layout

_FLOAT = _INDEX = 4


@dataclass(frozen=True)
class Work:
    """operations: of matrix products; bytes: read and written, with every gathered row coming from
    memory cached_bytes: the same with each gathered row coming from memory once per pass, as if a
    cache then held it
    """

    operations: int = 0
    bytes: int = 0
    cached_bytes: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.operations + other.operations,
            self.bytes + other.bytes,
            self.cached_bytes + other.cached_bytes,
        )

    def times(self, n: int) -> Work:
        return Work(n * self.operations, n * self.bytes, n * self.cached_bytes)

    def limit_seconds(self, flops: float, bandwidth: float) -> float:
        """Products at the measured peak, then bytes at the measured bandwidth."""
        return self.operations / flops + self.bytes / bandwidth

    def hard_limit_seconds(self, flops: float, bandwidth: float) -> float:
        """As if products and bytes overlapped wholly and the cache held all rows: nothing made of
        these passes is faster.
        """
        return max(self.operations / flops, self.cached_bytes / bandwidth)


def total(parts: dict[str, Work]) -> Work:
    return reduce(Work.__add__, parts.values(), Work())


@dataclass(frozen=True)
class MessageSizes:
    """Of the edges that take part in a step.

    nodes, edges, sources, targets: N, E, S, T; node_types, edge_types: how many matrices there are
    source_rows, target_rows: C in two parts: rows of the edge types that have fewer sources, and of
        those that have fewer targets
    plain_targets, plain_sources: distinct nodes on the other side of the one, and of the other
    """

    nodes: int
    node_types: int
    edge_types: int
    edges: int
    sources: int
    targets: int
    source_rows: int
    target_rows: int
    plain_targets: int
    plain_sources: int

    @property
    def relation_rows(self) -> int:
        return self.source_rows + self.target_rows


def message_sizes(graph: MessageGraph, removed: Tensor | None = None) -> MessageSizes:
    """removed: [num_edges] bool, edges that take no part."""
    edges, relations = edge_list(graph), len(graph.edge_types)
    if removed is not None:
        edges = EdgeList(edges.relation[~removed], edges.source[~removed], edges.target[~removed])
    of_sources, of_targets = (
        _distinct_per_relation(edges.relation, n, graph.num_nodes, relations)
        for n in (edges.source, edges.target)
    )
    at_source = of_sources <= of_targets
    edge_at_source = at_source[edges.relation]
    return MessageSizes(
        nodes=graph.num_nodes,
        node_types=len(graph.node_ranges),
        edge_types=relations,
        edges=len(edges.relation),
        sources=_distinct(edges.source),
        targets=_distinct(edges.target),
        source_rows=int(of_sources[at_source].sum()),
        target_rows=int(of_targets[~at_source].sum()),
        plain_targets=_distinct(edges.target[edge_at_source]),
        plain_sources=_distinct(edges.source[~edge_at_source]),
    )


def _distinct(nodes: Tensor) -> int:
    return len(torch.unique(nodes))


def _distinct_per_relation(
    relation: Tensor, node: Tensor, num_nodes: int, num_relations: int
) -> Tensor:
    """[num_relations] how many different nodes each relation has."""
    keys = torch.unique(relation * num_nodes + node)
    return torch.bincount(keys // num_nodes, minlength=num_relations)


def projections(s: MessageSizes, m: ModelConfig) -> Work:
    """Queries of the targets, keys and values of the sources.

    operations: 3 x 2 F^2 (T + 2 S)
    rows: forward: x read, q, k, v written: A + (T + 2 S). Backward: x, the gradients of q, k, v and
        (for the skip) of the layer's output read, that of x written: A + (T + 2 S) + 2 N
    weights: 3 F^2 per node type, read forward and backward, their gradient written
    """
    projected, active = s.targets + 2 * s.sources, max(s.targets, s.sources)
    return _streamed(
        operations=3 * 2 * m.hidden_dim**2 * projected,
        floats=m.hidden_dim * (2 * active + 2 * projected + 2 * s.nodes)
        + 3 * 3 * m.hidden_dim**2 * s.node_types,
    )


def relation_transforms(s: MessageSizes, m: ModelConfig) -> Work:
    """Keys and values by each relation's matrices, on the side with fewer nodes: of the targets
    that is queries, and sums of values.

    operations: 3 x 2 x 2 F D C (keys and values)
    rows: 4 C: what edges gather must stand in memory, so it is read and written once for keys and
        once for values (forward those transformed at the sources, backward the queries and
        gradients transformed at the targets). What edges are sorted by can be transformed on the
        chip.
    weights: 2 H D^2 per message edge type, read twice, their gradient written
    """
    head_dim = m.hidden_dim // m.num_heads
    return _streamed(
        operations=3 * 2 * 2 * m.hidden_dim * head_dim * s.relation_rows,
        floats=m.hidden_dim * 4 * s.relation_rows + 3 * 2 * m.hidden_dim * head_dim * s.edge_types,
    )


def edge_passes(s: MessageSizes, m: ModelConfig) -> Work:
    """Three passes along the edges: forward by target (keys and values gathered), backward by
    target (the same, for the gradients of weights and queries), backward by source (gradients of
    messages and queries gathered, for those of values and keys).

    bytes per edge: 6 gathered rows; an index of 4 bytes in each pass; 5 x H floats (the weight
    written forward, read in both passes back; the gradient of the score written and read) rows of
    the sorted side: forward q read, message written: 2 T. By target q and the message's gradient
    read, q's gradient written: 3 T. By source k and v read (for the matrices' gradients), their
    gradients written: 4 S.
    cached: instead of 6 E the distinct gathered rows: twice 2 (source_rows + plain_sources), once 2
        (target_rows + plain_targets)
    """
    per_edge = s.edges * (3 * _INDEX + 5 * m.num_heads * _FLOAT)
    sorted_side = m.hidden_dim * _FLOAT * (5 * s.targets + 4 * s.sources)
    distinct = 4 * (s.source_rows + s.plain_sources) + 2 * (s.target_rows + s.plain_targets)
    gathered, gathered_once = (
        m.hidden_dim * _FLOAT * rows for rows in (6 * s.edges, min(distinct, 6 * s.edges))
    )
    return Work(0, per_edge + sorted_side + gathered, per_edge + sorted_side + gathered_once)


def output_maps(s: MessageSizes, m: ModelConfig) -> Work:
    """The output map of the targets' messages, and the skip of all nodes.

    operations: 3 x 2 F^2 T
    rows: forward: message and x read, the output written: T + 2 N. Backward: the output's gradient,
        message and x read, the message's gradient written: 2 T + 2 N
    weights: F^2 per node type, read twice, their gradient written
    """
    return _streamed(
        operations=3 * 2 * m.hidden_dim**2 * s.targets,
        floats=m.hidden_dim * (3 * s.targets + 4 * s.nodes) + 3 * m.hidden_dim**2 * s.node_types,
    )


def final_projection(rows: int, m: ModelConfig) -> Work:
    """hidden -> embedding (P dimensions) of `rows` nodes.

    operations: 3 x 2 F P rows
    floats: forward F + P per row, backward 2 F + P (hidden and the embedding's gradient read,
        hidden's gradient written); 3 F P of weights
    """
    f, p = m.hidden_dim, m.embedding_dim
    return _streamed(operations=3 * 2 * f * p * rows, floats=rows * (3 * f + 2 * p) + 3 * f * p)


@dataclass(frozen=True)
class SupervisedSizes:
    """rows: different nodes whose embeddings the batch needs; pairs: scores against sampled nodes
    that are not filtered out.
    """

    rows: int
    pairs: int


def supervised_sizes(batch: Batch, layout: Layout) -> SupervisedSizes:
    """Padding not counted."""
    nodes, pairs = [], 0
    for micro in batch.micro_batches:
        sections = micro.nodes.split(layout.sections)
        for r in layout.relations:
            real = micro.weight[r.facts] > 0
            ends = [sections[s][r.facts][real] for s in (layout.head, layout.tail)]
            nodes += [*ends, sections[r.tail_pool], sections[r.head_pool]]
            pairs += sum(
                int((~known[r.facts][real]).sum()) for known in (micro.tail_known, micro.head_known)
            )
        if layout.contrast is not None:
            real = micro.anchor_weight > 0
            nodes += [
                sections[layout.contrast.anchor][real],
                sections[layout.contrast.positive][real],
                sections[layout.contrast.pool],
            ]
            pairs += int((~micro.anchor_known)[real].sum())
    return SupervisedSizes(_distinct(torch.cat(nodes)), pairs)


def loss(s: SupervisedSizes, m: ModelConfig) -> Work:
    """operations: 3 x 2 P per pair; floats: each embedding read once, its gradient written once."""
    return _streamed(
        operations=3 * 2 * m.embedding_dim * s.pairs, floats=2 * m.embedding_dim * s.rows
    )


def update(num_parameters: int) -> Work:
    """floats per parameter: 1 read for the gradient's norm; parameter, gradient and Adam's two
    moments read, three of them written: 7.
    """
    return _streamed(operations=0, floats=8 * num_parameters)


def encoder_parts(s: MessageSizes, m: ModelConfig, projected_rows: int) -> dict[str, Work]:
    """Forward and backward of the layers over all nodes, and of the projection of `projected_rows`
    nodes.
    """
    layer = {
        "keys, queries, values": projections,
        "relation transforms": relation_transforms,
        "along edges": edge_passes,
    }
    layer["output maps"] = output_maps
    return {name: count(s, m).times(m.num_layers) for name, count in layer.items()} | {
        "projection": final_projection(projected_rows, m)
    }


def step_parts(
    s: MessageSizes, batch: SupervisedSizes, m: ModelConfig, num_parameters: int
) -> dict[str, Work]:
    """A whole training step; projected are only the nodes that the batch needs."""
    return encoder_parts(s, m, batch.rows) | {
        "loss": loss(batch, m),
        "clipping and Adam": update(num_parameters),
    }


def _streamed(operations: int, floats: int) -> Work:
    """Work whose bytes no cache saves."""
    return Work(operations, _FLOAT * floats, _FLOAT * floats)
