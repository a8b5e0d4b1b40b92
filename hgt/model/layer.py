"""One layer of Hu et al., "Heterogeneous Graph Transformer", WWW 2020, equations 3 to 5.

In: an input for every node, and the message graph. Out: an output for every node, exactly as PyG's
`HGTConv` computes it with the same parameters. The forward and the backward pass are in
`layer_pass.py`, the attention over groups of edges in `attention.py`. It knows nothing of facts,
losses or devices.

Shapes: N nodes (global numbering), E edges, T node types, R message edge types, H heads, D
dimensions of a head (hidden_dim / H).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hgt.kernels.choice import node_kernels
from hgt.kernels.dropout import draw_seeds, kept_elements
from hgt.kernels.nodes import KEY, MAX_REDUCTION_ROWS, QUERY, VALUE, Nodes, Weights
from hgt.messages.message_graph import MessageGraph
from hgt.model.attention import Attention
from hgt.model.layer_pass import InputDropout, LayerPass, layer_pass

if TYPE_CHECKING:
    from torch_geometric.nn import HGTConv


class HGTLayer(nn.Module):
    """hidden_dim -> hidden_dim.

    A node without incoming edges gets `out(gelu(0))`, mixed with its input by the skip.

    projection: [T, 3, hidden, hidden] keys, queries, values (K-, Q-, V-Linear of equation 3).
    out: [T, hidden, hidden] (A-Linear).
    skip: [T].
    prior: [R, H] (mu).
    key_transform, value_transform: [R, H, D, D] (W_ATT, W_MSG).
    keep_projections: keep keys, queries and values for the backward pass instead of computing them
        again: more memory, less time. On the CPU, where the graph is small, it also keeps the
        tables that they are gathered and transformed in. False until somebody sets it.
    """

    def __init__(
        self,
        node_types: list[str],
        num_edge_types: int,
        hidden_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        compute_dtype: torch.dtype = torch.float32,
        recompute: bool = False,
        input_dropout: float = 0.0,
    ):
        """Draws the weights.

        compute_dtype: of the dense products and of what is gathered along edges. Scores, softmax
            and sums keep the input's.
        recompute: keep nothing but the input for the backward pass ("gradient checkpointing"): less
            memory, same result.
        dropout, input_dropout: of its output and of its input, while training.
        """
        super().__init__()
        num_types, head_dim = len(node_types), hidden_dim // num_heads
        self.num_heads = num_heads
        self.dropout = dropout
        self.compute_dtype = compute_dtype
        self.recompute = recompute
        self.input_dropout = input_dropout
        self.keep_projections = False
        self.node_types = list(node_types)
        # The gain is that of one map to 3 hidden_dim.
        self.projection = nn.Parameter(
            _xavier((num_types, 3, hidden_dim, hidden_dim), 1 / math.sqrt(2))
        )
        self.projection_bias = nn.Parameter(torch.zeros(num_types, 3, hidden_dim))
        # The gain makes up for messages being means, and for gelu.
        self.out = nn.Parameter(_xavier((num_types, hidden_dim, hidden_dim), 2.0))
        self.out_bias = nn.Parameter(torch.zeros(num_types, hidden_dim))
        self.skip = nn.Parameter(torch.ones(num_types))
        self.prior = nn.Parameter(torch.ones(num_edge_types, num_heads))
        blocks = (num_edge_types, num_heads, head_dim, head_dim)
        self.key_transform = nn.Parameter(_xavier(blocks, 1.0))
        self.value_transform = nn.Parameter(_xavier(blocks, 1.0))

    def forward(
        self,
        x: Float[Tensor, "num_nodes hidden"],
        graph: MessageGraph,
        removed: Bool[Tensor, " num_edges"] | None = None,
        spend_gradient: bool = False,
        seeds: Int[Tensor, "2 2"] | None = None,
    ) -> Float[Tensor, "num_nodes hidden"]:
        """The outputs of all nodes.

        removed: True for edges that are masked; None for no edge.
        spend_gradient: the backward pass may overwrite the gradient that it is given, which saves a
            node-sized tensor. Only if the caller does not use it afterwards.
        seeds: of dropout of the input and of the output, on x's device; drawn when not given.
        """
        if seeds is None and self.training:
            seeds = draw_seeds(2).to(x.device)
        of_input = self._kept(x, self.input_dropout, seeds, 0)
        dropped = None if of_input is None else InputDropout(of_input, 1 / (1 - self.input_dropout))
        kept = self._kept(x, self.dropout, seeds, 1)
        nodes = Nodes(graph.ranges, kept, 1 / (1 - self.dropout), self._dtype(x), spend_gradient)
        how = LayerPass(graph, nodes, removed, self.recompute, self.keep_projections, dropped)
        return layer_pass(x, how, *self._weights())

    def _kept(self, x: Tensor, share: float, seeds: Tensor | None, number: int) -> Tensor | None:
        """True for the elements that dropout keeps; None where it keeps all."""
        if seeds is None or not self.training or not share:
            return None
        return kept_elements(tuple(x.shape), share, seeds[number])

    def _dtype(self, x: Tensor) -> torch.dtype:
        return x.dtype if self.compute_dtype == torch.float32 else self.compute_dtype

    @torch.no_grad()
    def infer(
        self,
        x: Float[Tensor, "num_nodes hidden"],
        graph: MessageGraph,
        targets: tuple[int, int],
        key_value: tuple[Tensor, Tensor],
    ) -> Float[Tensor, "num_targets hidden"]:
        """Outputs of some nodes alone, without dropout.

        graph: the edges into these nodes, which are numbered from 0 as targets.
        targets: first node, and the one after the last.
        key_value: `keys_and_values` of all nodes.
        """
        w, x = Weights(*self._weights()), x[slice(*targets)]
        nodes = self._without_dropout(x, _clipped(graph, targets))
        kernels = node_kernels(x.device.type)
        attention = Attention(graph, w.key_transform, w.value_transform, w.prior, None)
        scores, highest, _ = attention.scores(kernels.project(x, w, QUERY, nodes), key_value[0])
        message, *_ = attention.messages(scores, highest, key_value[1])
        return kernels.update(x, message, w, nodes)

    @torch.no_grad()
    def keys_and_values(
        self, x: Float[Tensor, "num_nodes hidden"], graph: MessageGraph
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of all nodes, for `infer`."""
        w, kernels = Weights(*self._weights()), node_kernels(x.device.type)
        nodes = self._without_dropout(x, graph.ranges)
        return kernels.project(x, w, KEY, nodes), kernels.project(x, w, VALUE, nodes)

    def _without_dropout(self, x: Tensor, ranges: tuple[tuple[int, int], ...]) -> Nodes:
        return Nodes(ranges, None, 1.0, self._dtype(x), spend_gradient=False)

    def _weights(self) -> tuple[Tensor, ...]:
        return (
            *(self.projection, self.projection_bias, self.out, self.out_bias, self.skip),
            *(self.prior, self.key_transform, self.value_transform),
        )

    def attention_maps(self) -> tuple[Tensor, ...]:
        """The matrices that attention scores are computed with.

        They are those of keys and queries, and of relations, without prior and biases. They are
        views: changing them changes the layer.
        """
        assert (KEY, QUERY) == (0, 1)
        return *self.projection.detach()[:, :VALUE], self.key_transform.detach()

    @torch.no_grad()
    def load_pyg(self, conv: HGTConv) -> None:
        """Take the parameters of a PyG `HGTConv` of the same types, width and heads."""
        blocks = (self.num_heads, len(self.prior), -1, self.key_transform.shape[-1])
        self.key_transform.copy_(conv.k_rel.weight.view(*blocks).transpose(0, 1))
        self.value_transform.copy_(conv.v_rel.weight.view(*blocks).transpose(0, 1))
        for i, node_type in enumerate(self.node_types):
            linear = conv.kqv_lin.lins[node_type]
            self.projection[i] = linear.weight.view_as(self.projection[i])
            self.projection_bias[i] = linear.bias.view_as(self.projection_bias[i])
            out = conv.out_lin.lins[node_type]
            self.out[i], self.out_bias[i] = out.weight, out.bias
            self.skip[i] = conv.skip[node_type].item()
        for i, edge_type in enumerate(conv.edge_types):
            self.prior[i] = conv.p_rel["__".join(edge_type)][0]


def _clipped(graph: MessageGraph, targets: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Each type's share of the targets, numbered from targets[0]."""
    first, end = targets
    return tuple((max(a, first) - first, max(min(b, end), first) - first) for a, b in graph.ranges)


def _xavier(shape: tuple[int, ...], gain: float) -> Tensor:
    """Glorot and Bengio 2010, for stacked [..., out, in] matrices."""
    bound = gain * math.sqrt(6 / (shape[-1] + shape[-2]))
    return torch.empty(shape).uniform_(-bound, bound)


def linear_by_rows(
    x: Float[Tensor, "rows in_dim"], linear: nn.Module
) -> Float[Tensor, "rows out_dim"]:
    """`linear(x)` in parts: the weight's gradient reduces over at most MAX_REDUCTION_ROWS rows."""
    if len(x) <= MAX_REDUCTION_ROWS:
        return linear(x)
    return torch.cat([linear(part) for part in x.split(MAX_REDUCTION_ROWS)])
