"""The model: a learned input embedding per node, HGT layers, a projection; and a relation-aware decoder on the result.

DESIGN.md 5. The encoder gives every node one embedding; the decoder scores (head, relation, tail) from those alone.
Shapes: N nodes in global numbering, R relations (the graph's edge types, without reverses).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from hgt.config import ModelConfig
from hgt.errors import InputError
from hgt.graph.facts import EdgeType
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.kernels.dropout import draw_seeds
from hgt.messages.message_graph import MessageGraph, build_message_graph, message_edge_types
from hgt.model.layer import HGTLayer, linear_by_rows
from hgt.model.length_bound import MOST_BETWEEN_LAYERS, bounded

# Standard deviation of a node's own part of its input. A smaller one learns more slowly but overfits later: on an excerpt of Hetionet, 0.3
# ended at a typed MRR of 0.074 and rising where 1 had turned at 0.069 (tests/bench/README.md).
_SPREAD = 0.3


class HGTEncoder(nn.Module):
    """Every node has an identity: inputs that are equal for all nodes of a type would collapse (FACTS.md 1)."""

    bounds_lengths = True  # whether a step is to shorten embeddings, as `encode` does

    def __init__(self, num_nodes: Mapping[str, int], edge_types: tuple[EdgeType, ...], config: ModelConfig):
        super().__init__()
        self.num_nodes = dict(num_nodes)
        self.edge_types = edge_types
        self.node_embedding = nn.Parameter(_initial_inputs(num_nodes, config.hidden_dim))
        self.layers = nn.ModuleList(
            HGTLayer(
                list(num_nodes), len(edge_types), config.hidden_dim, config.num_heads, config.dropout,
                torch.bfloat16 if config.mixed_precision else torch.float32,
                input_dropout=0.0 if number else config.input_dropout,
            )
            for number in range(config.num_layers)
        )  # fmt: skip
        self.projection = nn.Linear(config.hidden_dim, config.embedding_dim)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def encode(self, graph: MessageGraph, removed: Bool[Tensor, " num_edges"] | None = None) -> Float[Tensor, "num_nodes dim"]:
        """The embeddings of all nodes, from their learned inputs. removed: edges that take no part."""
        return bounded(self.project(self.hidden(graph, removed)))

    def hidden(
        self,
        graph: MessageGraph,
        removed: Bool[Tensor, " num_edges"] | None = None,
        spend_gradient: bool = False,
        seeds: Int[Tensor, "layers 2 2"] | None = None,
    ) -> Float[Tensor, "num_nodes hidden"]:
        """What the last HGT layer gives for all nodes; `project` makes embeddings of it, row by row. spend_gradient, seeds: see
        `HGTLayer`."""
        return self._apply_layers(self.node_embedding, graph, removed, spend_gradient, seeds)

    def draw_seeds(self) -> Int[Tensor, "layers 2 2"]:
        """The seeds of one pass's dropout, on the CPU."""
        return draw_seeds(len(self.layers), 2)

    def attention_maps(self) -> list[Tensor]:
        """Of all HGT layers, for weight decay."""
        return [matrices for layer in self.layers if isinstance(layer, HGTLayer) for matrices in layer.attention_maps()]

    def keep_for_backward(self, layers: bool, projections: bool) -> None:
        """What HGT layers keep: their messages and weights or nothing but inputs; keys, queries and values or not. Same result."""
        for layer in self.layers:
            assert isinstance(layer, HGTLayer)
            layer.recompute, layer.keep_projections = not layers, projections

    def project(self, hidden: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows dim"]:
        """Embeddings of rows of `hidden`, before any is shortened (`length_bound`), which takes all rows or a step's pools."""
        return linear_by_rows(hidden, self.projection)

    def forward(
        self, x_dict: dict[str, Tensor] | None, edge_index_dict: dict[EdgeType, Int[Tensor, "2 _"]]
    ) -> dict[str, Float[Tensor, "_ dim"]]:
        """PyG's calling form. `x_dict` holds [num_nodes, hidden_dim] inputs; None takes the learned ones.

        Raises InputError for a node or edge type that the encoder was not made for, nodes outside its types, or inputs that are equal
        for all nodes of a type.
        """
        unknown = [str(e) for e in edge_index_dict if e not in self.edge_types]
        if unknown:
            raise InputError(f"The encoder knows no edge type {', '.join(unknown)}; it was made for {len(self.edge_types)} others.")
        for edge_type, index in edge_index_dict.items():
            sizes = torch.tensor([[self.num_nodes[edge_type[0]]], [self.num_nodes[edge_type[2]]]], device=index.device)
            if bool(((index < 0) | (index >= sizes)).any()):
                raise InputError(
                    f"edge_index_dict[{edge_type!r}] names nodes outside 0..{int(sizes[0]) - 1} and 0..{int(sizes[1]) - 1}. Number nodes "
                    "within their types."
                )
        x = self.node_embedding if x_dict is None else self._joined_inputs(x_dict)
        edges = {e: (index[0], index[1]) for e, index in edge_index_dict.items()}
        graph = build_message_graph(self.num_nodes, self.edge_types, edges).to(x.device)
        out = bounded(self.project(self._apply_layers(x, graph, None)))
        return dict(zip(self.num_nodes, out.split(list(self.num_nodes.values())), strict=True))

    def _joined_inputs(self, x_dict: dict[str, Tensor]) -> Tensor:
        unknown = [t for t in x_dict if t not in self.num_nodes]
        if unknown:
            raise InputError(f"The encoder knows no node type {', '.join(unknown)}; it was made for {', '.join(self.num_nodes)}.")
        for node_type, n in self.num_nodes.items():
            if node_type not in x_dict or x_dict[node_type].shape != (n, self.node_embedding.shape[1]):
                got = tuple(x_dict[node_type].shape) if node_type in x_dict else "nothing"
                raise InputError(f"x_dict[{node_type!r}] must be [{n}, {self.node_embedding.shape[1]}], not {got}.")
            if n > 1 and bool((x_dict[node_type] == x_dict[node_type][0]).all()):
                raise InputError(
                    f"x_dict[{node_type!r}] is the same for all {n} nodes: the embeddings would collapse. Give each node an input "
                    "of its own."
                )
        return torch.cat([x_dict[t] for t in self.num_nodes])

    def _apply_layers(
        self, x: Tensor, graph: MessageGraph, removed: Tensor | None, spend_gradient: bool = False, seeds: Tensor | None = None
    ) -> Tensor:
        for number, layer in enumerate(self.layers):
            if number:
                x = bounded(x, MOST_BETWEEN_LAYERS, spend_gradient)
            x = layer(x, graph, removed, spend_gradient, None if seeds is None else seeds[number])
        return x


def _initial_inputs(num_nodes: Mapping[str, int], hidden_dim: int) -> Float[Tensor, "num_nodes hidden"]:
    """Each type's nodes spread around a point of its own, of unit variance.

    Measured on the demo graph: without the points, nearest neighbours in the PCA plane had the right type for 0.23 of the nodes instead of
    0.38, at the same MRR.
    """
    return torch.cat([torch.randn(hidden_dim) + _SPREAD * torch.randn(n, hidden_dim) for n in num_nodes.values()])


class Decoder(nn.Module):
    """Scores of facts: `score(head, relation, tail) = tail_query(head, relation) . tail = head_query(tail, relation) . head`.

    distmult: sum_d h_d r_d t_d (Yang et al. 2015). complex: Re(sum_d h_d r_d conj(t_d)) (Trouillon et al. 2016), which tells
    (a, r, b) from (b, r, a); the first half of the dimensions are real parts, the second half imaginary ones.
    symmetric: numbers of the relations whose facts have no direction. Their vectors are real, so that (a, r, b) scores as (b, r, a): such a
    fact is stored once, and would be learned, and ranked, in the direction that its nodes' numbers happen to give it.
    n3: weight of the nuclear 3-norm of the facts' vectors in the loss (Lacroix et al. 2018), for embeddings that nothing else holds back.
    """

    def __init__(self, num_relations: int, embedding_dim: int, kind: str, n3: float = 0.0, symmetric: Sequence[int] = ()):
        super().__init__()
        self.kind = kind
        self.n3 = n3
        free = torch.ones(num_relations, embedding_dim)
        if kind == "complex":
            free[list(symmetric), embedding_dim // 2 :] = 0
        self.relation = nn.Parameter((1 + 0.1 * torch.randn(num_relations, embedding_dim)) * free)
        self.free: Tensor | None
        self.register_buffer("free", free if (free == 0).any() else None, persistent=False)

    def relation_vectors(self) -> Float[Tensor, "num_relations dim"]:
        """Of all relations, as they score."""
        return self.relation if self.free is None else self.relation * self.free

    def tail_query(self, head: Float[Tensor, "n dim"], relation: int | Int[Tensor, " n"]) -> Float[Tensor, "n dim"]:
        """What a tail's embedding is multiplied with to score it; one relation for all or one for each."""
        r = self._vectors(relation)
        return head * r if self.kind == "distmult" else _complex_product(head, r)

    def head_query(self, tail: Float[Tensor, "n dim"], relation: int | Int[Tensor, " n"]) -> Float[Tensor, "n dim"]:
        """What a head's embedding is multiplied with to score it; one relation for all or one for each."""
        r = self._vectors(relation)
        return tail * r if self.kind == "distmult" else _complex_product(tail, _conjugate(r))

    def cubes(self, head: Float[Tensor, "n dim"], relation: Int[Tensor, " n"], tail: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
        """Sum of |x|^3 over a fact's three vectors, complex numbers by their modulus: what `n3` weighs."""
        return torch.stack([self._squares(x).pow(1.5).sum(-1) for x in (head, self._vectors(relation), tail)]).sum(0)

    def _squares(self, x: Tensor) -> Tensor:
        return x.square() if self.kind == "distmult" else torch.stack(x.chunk(2, -1)).square().sum(0)

    def _vectors(self, relation: int | Tensor) -> Tensor:
        r = self.relation_vectors()
        return r[relation] if isinstance(relation, int) else r.index_select(0, relation)


def _complex_product(a: Tensor, b: Tensor) -> Tensor:
    (ar, ai), (br, bi) = a.chunk(2, -1), b.chunk(2, -1)
    return torch.cat([ar * br - ai * bi, ar * bi + ai * br], -1)


def _conjugate(a: Tensor) -> Tensor:
    real, imaginary = a.chunk(2, -1)
    return torch.cat([real, -imaginary], -1)


class HGTModel(nn.Module):
    """Encoder and decoder of one run; what a checkpoint holds."""

    def __init__(self, graph: KnowledgeGraph, config: ModelConfig):
        super().__init__()
        self.encoder = HGTEncoder(graph.num_nodes, message_edge_types(graph), config)
        self.decoder = Decoder(len(graph.edge_types), config.embedding_dim, config.decoder, symmetric=graph.symmetric_numbers)


def normalized(x: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """Rows of length 1, for cosines."""
    return functional.normalize(x, dim=-1)
