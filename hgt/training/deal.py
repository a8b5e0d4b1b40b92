"""How one relation's training facts are dealt out over the batches of an epoch.

In: the training facts. Out: for (seed, epoch, batch) the batch's share of the relation, with the
filters of its negatives. Each epoch supervises every fact once. It does not know the other
relations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.known_facts import known_matrix
from hgt.seeds import Stream, generator
from hgt.training.negatives import Pool, known_in_pool


@dataclass(frozen=True)
class DealtFacts:
    """One relation's rows of a batch, padded to `RelationDeal.size`.

    fact: [size] numbers of the facts; -1 for padding.
    tail_known, head_known: [size, pool] pool nodes that make a true fact in place of that end.
    """

    fact: np.ndarray
    tail_known: np.ndarray
    head_known: np.ndarray


class RelationDeal:
    """One relation's training facts: shuffled each epoch, in even shares for its batches.

    part_size: rows of the relation in a micro-batch; size: in a batch.
    """

    def __init__(
        self,
        graph: KnowledgeGraph,
        facts: np.ndarray,
        number: int,
        num_batches: int,
        num_parts: int,
    ):
        """Finds the facts of one relation.

        facts: [3, num_train] all training facts.
        number: number of the relation.
        num_batches: batches of an epoch.
        num_parts: micro-batches of a batch.
        """
        self.number = number
        self.num_batches = num_batches
        edge_type = graph.edge_types[number]
        self.head_type, self.tail_type = edge_type[0], edge_type[2]
        self.fact = np.flatnonzero(facts[1] == number)
        self.part_size = math.ceil(math.ceil(len(self.fact) / num_batches) / num_parts)
        self.size = self.part_size * num_parts
        self.head = facts[0, self.fact] - graph.offsets[self.head_type]
        self.tail = facts[2, self.fact] - graph.offsets[self.tail_type]
        self.known = known_matrix(self.head, self.tail, graph, number)
        self.known_transposed = self.known.T.tocsr()
        # Shuffling millions of facts for each batch would take most of its time: the order is kept.
        self._order: tuple[tuple[int, int], np.ndarray] | None = None  # (seed, epoch) and its order

    def draw(self, seed: int, epoch: int, batch: int, pools: dict[str, Pool]) -> DealtFacts:
        """The facts of one batch with the filters of their negatives.

        pools: {node type: its pool}.
        """
        places = self._places(seed, epoch, batch)
        heads, tails = self.head[places], self.tail[places]
        return DealtFacts(
            self._pad(self.fact[places]),
            known_in_pool(self.known, heads, pools[self.tail_type], self.size),
            known_in_pool(self.known_transposed, tails, pools[self.head_type], self.size),
        )

    def _places(self, seed: int, epoch: int, batch: int) -> np.ndarray:
        if self._order is None or self._order[0] != (seed, epoch):
            rng = generator(seed, Stream.FACT_ORDER, epoch, self.number)
            self._order = (seed, epoch), rng.permutation(len(self.fact)).astype(np.int32)
        order = self._order[1]
        start, stop = (b * len(self.fact) // self.num_batches for b in (batch, batch + 1))
        return order[start:stop]

    def _pad(self, fact: np.ndarray) -> np.ndarray:
        padded = np.full(self.size, -1)
        padded[: len(fact)] = fact
        return padded
