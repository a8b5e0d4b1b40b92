"""In a holdout split, which facts are masked, so that training meets the conditions of the test.

When the facts of a held-out node are ranked, it has no message along the held-out edge types. A
training node would have messages along all its other facts of these types, and what is learned from
those helps no held-out node. So a node whose facts of these types a step supervises has none
either.

In: the training facts. Out: for each batch the numbers of the facts to mask. It does not know which
messages they become.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from hgt.graph.holdout import Holdout
from hgt.graph.knowledge_graph import KnowledgeGraph


class Siblings:
    """Facts of the held-out edge types that share a node of the held-out type.

    A random split has none.
    """

    def __init__(
        self,
        graph: KnowledgeGraph,
        facts: Int[np.ndarray, "3 num_train"],
        holdout: Holdout | None,
    ):
        edge_types = holdout.edge_types if holdout else ()
        relations = [graph.edge_types.index(e) for e in edge_types]
        self.fact = np.flatnonzero(np.isin(facts[1], relations))
        self.ends = facts[::2, self.fact]
        held = graph.type_range(holdout.node_type) if holdout else slice(0, 0)
        self.is_held = (self.ends >= held.start) & (self.ends < held.stop)
        self.num_nodes, self.num_train = graph.total_nodes, facts.shape[1]

    def of(self, supervised: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
        """Numbers of the facts that share a node of the held-out type with a supervised one.

        The supervised facts of these edge types are among them.

        supervised: numbers of facts; num_train stands for padding.
        """
        if not len(self.fact):
            return self.fact
        given = np.zeros(self.num_train + 1, dtype=bool)
        given[supervised] = True
        asked = given[self.fact]
        nodes = np.zeros(self.num_nodes, dtype=bool)
        nodes[self.ends[:, asked][self.is_held[:, asked]]] = True
        return self.fact[(nodes[self.ends] & self.is_held).any(axis=0)]
