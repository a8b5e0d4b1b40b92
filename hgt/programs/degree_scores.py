"""The degree baseline: a node's number of training facts in a relation is its score.

In: a graph and its split. Out: degrees, and a decoder that picks one of them. It learns nothing.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import TRAIN, EdgeSplit
from hgt.model.decoders import Decoder


def training_degrees(graph: KnowledgeGraph, split: EdgeSplit) -> Float[Tensor, "num_nodes _"]:
    """[num_nodes, 2 num_relations] degrees. Columns 2r and 2r + 1 count the training facts of
    relation r in which the node is the tail, and the head.

    The facts of a symmetric relation have no direction: both ends count as both.
    """
    head, relation, tail = split.of(TRAIN)
    symmetric = torch.tensor([e in graph.symmetric for e in graph.edge_types])[relation]
    degrees = torch.zeros(graph.total_nodes, 2 * len(graph.edge_types))
    one = torch.ones(len(head))
    for tails, heads, r in (
        (tail, head, relation),
        (head[symmetric], tail[symmetric], relation[symmetric]),
    ):
        degrees.index_put_((tails, 2 * r), one[: len(r)], accumulate=True)
        degrees.index_put_((heads, 2 * r + 1), one[: len(r)], accumulate=True)
    return degrees


class DegreeScores(Decoder):
    """Scores of candidates from `training_degrees`. A candidate's score is its degree in the
    relation, on the side to predict. The other end does not matter.

    It is a `Decoder`, because facts are ranked with one. It learns nothing.
    """

    def __init__(self) -> None:
        super().__init__(0, 0)

    def tail_query(
        self, head: Float[Tensor, "n dim"], relation: int | Int[Tensor, " n"]
    ) -> Float[Tensor, "n dim"]:
        return _picking(2 * relation, head)

    def head_query(
        self, tail: Float[Tensor, "n dim"], relation: int | Int[Tensor, " n"]
    ) -> Float[Tensor, "n dim"]:
        return _picking(2 * relation + 1, tail)


def _picking(column: int | Tensor, given: Tensor) -> Tensor:
    """Queries whose product with a node's degrees is the degree in that column."""
    query = torch.zeros_like(given)
    query[torch.arange(len(given), device=given.device), column] = 1
    return query
