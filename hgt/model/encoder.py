"""The encoder: a learned input for every node, HGT layers (Hu et al. 2020), and a projection.

In: a message graph. Out: one embedding for every node. It knows no fact and no loss.
Shapes: N nodes in global numbering.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hgt.config import ModelConfig
from hgt.errors import InputError
from hgt.graph.facts import EdgeType
from hgt.kernels.dropout import draw_seeds
from hgt.messages.message_graph import MessageGraph
from hgt.messages.training_messages import build_message_graph
from hgt.model.layer import HGTLayer, linear_by_rows
from hgt.model.length_bound import MOST_BETWEEN_LAYERS, bounded

# Standard deviation of a node's own part of its input. A smaller one learns more slowly but
# overfits later: on an excerpt of Hetionet, 0.3 ended at a typed MRR of 0.074 and rising where 1
# had turned at 0.069 (tests/bench/README.md).
_SPREAD = 0.3


class HGTEncoder(nn.Module):
    """HGT layers and a projection over a learned input for every node.

    Every node has an input of its own: with inputs that are equal for all nodes of a type, the
    embeddings of the type collapse into one.
    """

    bounds_lengths = True  # a training step shortens embeddings as `encode` does

    def __init__(
        self, num_nodes: Mapping[str, int], edge_types: tuple[EdgeType, ...], config: ModelConfig
    ):
        super().__init__()
        self.num_nodes = dict(num_nodes)
        self.edge_types = edge_types
        self.node_embedding = nn.Parameter(_initial_inputs(num_nodes, config.hidden_dim))
        self.layers = nn.ModuleList(
            HGTLayer(
                list(num_nodes),
                len(edge_types),
                config.hidden_dim,
                config.num_heads,
                config.dropout,
                torch.bfloat16 if config.mixed_precision else torch.float32,
                input_dropout=0.0 if number else config.input_dropout,
            )
            for number in range(config.num_layers)
        )
        self.projection = nn.Linear(config.hidden_dim, config.embedding_dim)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def encode(
        self, graph: MessageGraph, removed: Bool[Tensor, " num_edges"] | None = None
    ) -> Float[Tensor, "num_nodes dim"]:
        """The embeddings of all nodes, from their learned inputs.

        removed: True for edges that are masked.
        """
        return bounded(self.project(self.hidden(graph, removed)))

    def hidden(
        self,
        graph: MessageGraph,
        removed: Bool[Tensor, " num_edges"] | None = None,
        spend_gradient: bool = False,
        seeds: Int[Tensor, "layers 2 2"] | None = None,
    ) -> Float[Tensor, "num_nodes hidden"]:
        """The last layer's output for all nodes. `project` turns it into embeddings, row by row.

        spend_gradient, seeds: see `HGTLayer`.
        """
        return self._apply_layers(self.node_embedding, graph, removed, spend_gradient, seeds)

    def draw_seeds(self) -> Int[Tensor, "layers 2 2"]:
        """The seeds of one pass's dropout, on the CPU."""
        return draw_seeds(len(self.layers), 2)

    def attention_maps(self) -> list[Tensor]:
        """The matrices of all HGT layers that weight decay applies to."""
        layers = [layer for layer in self.layers if isinstance(layer, HGTLayer)]
        return [matrices for layer in layers for matrices in layer.attention_maps()]

    def keep_for_backward(self, layers: bool, projections: bool) -> None:
        """Sets what HGT layers keep for the backward pass. The result is the same.

        layers: whether they keep messages and weights; otherwise nothing but their inputs.
        projections: whether they keep keys, queries and values as well.
        """
        for layer in self.layers:
            assert isinstance(layer, HGTLayer)
            layer.recompute, layer.keep_projections = not layers, projections

    def project(self, hidden: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows dim"]:
        """Embeddings of rows of `hidden`, not yet shortened: `length_bound` compares all rows."""
        return linear_by_rows(hidden, self.projection)

    def forward(
        self, x_dict: dict[str, Tensor] | None, edge_index_dict: dict[EdgeType, Int[Tensor, "2 _"]]
    ) -> dict[str, Float[Tensor, "_ dim"]]:
        """PyG's calling form: {node type: embeddings} from {edge type: edges}.

        x_dict: {node type: [num_nodes, hidden_dim] inputs}; None takes the learned ones.

        Raises InputError for a node or edge type that the encoder was not made for, nodes outside
        its types, or inputs that are equal for all nodes of a type.
        """
        self._check_edges(edge_index_dict)
        x = self.node_embedding if x_dict is None else self._joined_inputs(x_dict)
        edges = {e: (index[0], index[1]) for e, index in edge_index_dict.items()}
        graph = build_message_graph(self.num_nodes, self.edge_types, edges).to(x.device)
        out = bounded(self.project(self._apply_layers(x, graph, None)))
        return dict(zip(self.num_nodes, out.split(list(self.num_nodes.values())), strict=True))

    def _check_edges(self, edge_index_dict: dict[EdgeType, Tensor]) -> None:
        unknown = [str(e) for e in edge_index_dict if e not in self.edge_types]
        if unknown:
            names, others = ", ".join(unknown), len(self.edge_types)
            raise InputError(
                f"The encoder knows no edge type {names}; it was made for {others} others."
            )
        for edge_type, index in edge_index_dict.items():
            heads, tails = (self.num_nodes[node_type] for node_type in edge_type[::2])
            sizes = torch.tensor([[heads], [tails]], device=index.device)
            if bool(((index < 0) | (index >= sizes)).any()):
                raise InputError(
                    f"edge_index_dict[{edge_type!r}] names nodes outside 0..{heads - 1} and "
                    f"0..{tails - 1}. Number nodes within their types."
                )

    def _joined_inputs(self, x_dict: dict[str, Tensor]) -> Tensor:
        unknown = [t for t in x_dict if t not in self.num_nodes]
        if unknown:
            names, others = ", ".join(unknown), ", ".join(self.num_nodes)
            raise InputError(f"The encoder knows no node type {names}; it was made for {others}.")
        dim = self.node_embedding.shape[1]
        for node_type, n in self.num_nodes.items():
            if node_type not in x_dict or x_dict[node_type].shape != (n, dim):
                got = tuple(x_dict[node_type].shape) if node_type in x_dict else "nothing"
                raise InputError(f"x_dict[{node_type!r}] must be [{n}, {dim}], not {got}.")
            if n > 1 and bool((x_dict[node_type] == x_dict[node_type][0]).all()):
                raise InputError(
                    f"x_dict[{node_type!r}] is the same for all {n} nodes: the embeddings would "
                    "collapse. Give each node an input of its own."
                )
        return torch.cat([x_dict[t] for t in self.num_nodes])

    def _apply_layers(
        self,
        x: Tensor,
        graph: MessageGraph,
        removed: Tensor | None,
        spend_gradient: bool = False,
        seeds: Tensor | None = None,
    ) -> Tensor:
        for number, layer in enumerate(self.layers):
            if number:
                x = bounded(x, MOST_BETWEEN_LAYERS, spend_gradient)
            x = layer(x, graph, removed, spend_gradient, None if seeds is None else seeds[number])
        return x


def _initial_inputs(
    num_nodes: Mapping[str, int], hidden_dim: int
) -> Float[Tensor, "num_nodes hidden"]:
    """Each type's nodes spread around a point of its own, of unit variance.

    Measured on the demo graph: without the points, nearest neighbours in the PCA plane had the
    right type for 0.23 of the nodes instead of 0.38, at the same MRR.
    """
    return torch.cat(
        [torch.randn(hidden_dim) + _SPREAD * torch.randn(n, hidden_dim) for n in num_nodes.values()]
    )
