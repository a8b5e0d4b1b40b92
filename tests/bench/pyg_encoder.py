"""The same encoder in PyG: HGTConv layers over learned inputs and a projection; stock, and with
`HeteroLinear`'s loop replaced.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import HGTConv
from torch_geometric.nn.dense.linear import HeteroLinear

from hgt.messages.grouping import edge_list
from hgt.messages.message_graph import MessageGraph


class PygEncoder(nn.Module):
    """hidden_dim 256, two layers, eight heads, 512 dimensions: what `HGTEncoder` is by default.
    repaired: see `repair`.
    """

    def __init__(
        self,
        messages: MessageGraph,
        hidden_dim: int,
        embedding_dim: int,
        num_layers: int,
        num_heads: int,
        repaired: bool,
    ):
        super().__init__()
        metadata = (list(messages.node_ranges), list(messages.edge_types))
        sizes = {t: stop - start for t, (start, stop) in messages.node_ranges.items()}
        self.x = nn.ParameterDict(
            {t: nn.Parameter(torch.randn(n, hidden_dim)) for t, n in sizes.items()}
        )
        self.layers = nn.ModuleList(
            HGTConv(hidden_dim, hidden_dim, metadata, num_heads) for _ in range(num_layers)
        )
        self.projection = nn.Linear(hidden_dim, embedding_dim)
        if repaired:
            for layer in self.layers:
                repair(layer.k_rel)
                repair(layer.v_rel)

    def forward(self, edge_index_dict: dict) -> Tensor:
        x = dict(self.x.items())
        for layer in self.layers:
            out = layer(x, edge_index_dict)
            x = {t: out.get(t, x[t]) for t in x}
        return self.projection(torch.cat(list(x.values())))


def repair(linear: HeteroLinear) -> None:
    """Replace the loop that copies into slices of one tensor (PyG 2.8.1, `forward_naive`) by split
    and cat.
    """

    def forward_naive(x: Tensor, type_ptr: Tensor) -> Tensor:
        return torch.cat(
            [
                part @ w
                for part, w in zip(x.split(type_ptr.diff().tolist()), linear.weight, strict=True)
            ]
        )

    linear.forward_naive = forward_naive


def edge_index_dict(messages: MessageGraph) -> dict:
    """The message graph's edges in PyG's form."""
    edges, start = edge_list(messages), messages.node_ranges
    found = {}
    for number, e in enumerate(messages.edge_types):
        of_type = edges.relation == number
        if of_type.any():
            found[e] = torch.stack(
                [edges.source[of_type] - start[e[0]][0], edges.target[of_type] - start[e[2]][0]]
            )
    return found
