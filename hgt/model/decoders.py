"""Decoders: how a fact (head, relation, tail) is scored from the embeddings of its two ends.

In: embeddings. Out: queries, whose inner products with candidates' embeddings are scores. They know
neither the encoder nor the loss. A new decoder is one class and one entry in `DECODERS`; its name
is to be added to the choices of the parameter `decoder`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Decoder(nn.Module, ABC):
    """Interface. `score(h, r, t) = tail_query(h, r) . t = head_query(t, r) . h`.

    Ranking needs the two queries alone. Decoders that are trained have the other methods too, and
    `relation`: [num_relations, dim] what they learn.

    query_tensors: most tensors of [facts, dim] that live at once while the queries of both sides
        are computed in a training step, for the memory plan.
    """

    query_tensors: ClassVar[int]
    relation: nn.Parameter

    def __init__(self, num_relations: int, embedding_dim: int, symmetric: Sequence[int] = ()):
        """symmetric: numbers of the relations whose facts have no direction."""
        super().__init__()

    @abstractmethod
    def tail_query(
        self, head: Float[Tensor, "n dim"], relation: int | Int[Tensor, " n"]
    ) -> Float[Tensor, "n dim"]:
        """Its product with a tail's embedding is the score. relation: one for all or for each."""

    @abstractmethod
    def head_query(
        self, tail: Float[Tensor, "n dim"], relation: int | Int[Tensor, " n"]
    ) -> Float[Tensor, "n dim"]:
        """Its product with a head's embedding is the score. relation: one for all or for each."""

    def relation_vectors(self) -> Float[Tensor, "num_relations dim"]:
        """The vectors of all relations that facts are scored with."""
        raise NotImplementedError

    def squared_moduli(self, x: Float[Tensor, "n dim"]) -> Float[Tensor, "n numbers"]:
        """|number|^2 of the real or complex numbers that vectors consist of, for the N3 penalty."""
        raise NotImplementedError


class DistMult(Decoder):
    """score = sum_d h_d r_d t_d (Yang et al. 2015).

    It scores (a, r, b) as (b, r, a).
    """

    query_tensors = 4  # relations and queries of both sides

    def __init__(self, num_relations: int, embedding_dim: int, symmetric: Sequence[int] = ()):
        super().__init__(num_relations, embedding_dim, symmetric)
        self.relation = nn.Parameter(_initial_vectors(num_relations, embedding_dim))

    def relation_vectors(self) -> Float[Tensor, "num_relations dim"]:
        return self.relation

    def tail_query(
        self, head: Float[Tensor, "n dim"], relation: int | Int[Tensor, " n"]
    ) -> Float[Tensor, "n dim"]:
        return head * _rows(self.relation, relation)

    def head_query(
        self, tail: Float[Tensor, "n dim"], relation: int | Int[Tensor, " n"]
    ) -> Float[Tensor, "n dim"]:
        return tail * _rows(self.relation, relation)

    def squared_moduli(self, x: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
        return x.square()


class ComplEx(Decoder):
    """score = Re(sum_d h_d r_d conj(t_d)) (Trouillon et al. 2016).

    It tells (a, r, b) from (b, r, a).

    The first half of the dimensions are real parts, the second half imaginary ones. A symmetric
    relation's vector is real, so that (a, r, b) scores as (b, r, a). Such a fact is stored once,
    and would be learned and ranked in the direction that its nodes' numbers happen to give it.
    """

    query_tensors = 6  # relations and queries of both sides, and products of parts

    def __init__(self, num_relations: int, embedding_dim: int, symmetric: Sequence[int] = ()):
        super().__init__(num_relations, embedding_dim, symmetric)
        free = torch.ones(num_relations, embedding_dim)
        free[list(symmetric), embedding_dim // 2 :] = 0
        self.relation = nn.Parameter(_initial_vectors(num_relations, embedding_dim) * free)
        self.free: Tensor | None
        self.register_buffer("free", free if (free == 0).any() else None, persistent=False)

    def relation_vectors(self) -> Float[Tensor, "num_relations dim"]:
        return self.relation if self.free is None else self.relation * self.free

    def tail_query(
        self, head: Float[Tensor, "n dim"], relation: int | Int[Tensor, " n"]
    ) -> Float[Tensor, "n dim"]:
        return _product(head, _rows(self.relation_vectors(), relation))

    def head_query(
        self, tail: Float[Tensor, "n dim"], relation: int | Int[Tensor, " n"]
    ) -> Float[Tensor, "n dim"]:
        return _product(tail, _conjugate(_rows(self.relation_vectors(), relation)))

    def squared_moduli(self, x: Float[Tensor, "n dim"]) -> Float[Tensor, "n half"]:
        return torch.stack(x.chunk(2, -1)).square().sum(0)


DECODERS: dict[str, type[Decoder]] = {"distmult": DistMult, "complex": ComplEx}


def _initial_vectors(num_relations: int, embedding_dim: int) -> Tensor:
    return 1 + 0.1 * torch.randn(num_relations, embedding_dim)


def _rows(vectors: Tensor, relation: int | Tensor) -> Tensor:
    return vectors[relation] if isinstance(relation, int) else vectors.index_select(0, relation)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Of complex numbers, number by number."""
    (ar, ai), (br, bi) = a.chunk(2, -1), b.chunk(2, -1)
    return torch.cat([ar * br - ai * bi, ar * bi + ai * br], -1)


def _conjugate(a: Tensor) -> Tensor:
    real, imaginary = a.chunk(2, -1)
    return torch.cat([real, -imaginary], -1)
