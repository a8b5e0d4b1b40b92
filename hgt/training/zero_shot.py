"""In a holdout split, which facts stay silent beside the supervised ones: training asks as the test will ask.

A held-out node has no message of the held-out edge types when its facts are ranked. A training node would have those of all its other such
facts, and what is learned from them helps no held-out node. So a node that a step asks for in these edge types has none of them, either.
In: the training facts. Out: for each batch the numbers of the facts that share such a node with a supervised one.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from hgt.config import SplitConfig
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import holdout_edge_types


class Siblings:
    """The training facts of the held-out edge types, by their ends of the held-out node type; of a random split there are none."""

    def __init__(self, graph: KnowledgeGraph, facts: Int[np.ndarray, "3 num_train"], config: SplitConfig):
        relations = [graph.edge_types.index(e) for e in holdout_edge_types(graph, config)]
        self.fact = np.flatnonzero(np.isin(facts[1], relations))
        self.ends = facts[::2, self.fact]
        held = graph.type_range(config.holdout_type) if config.holdout_type else slice(0, 0)
        self.is_held = (self.ends >= held.start) & (self.ends < held.stop)
        self.num_nodes, self.num_train = graph.total_nodes, facts.shape[1]

    def of(self, supervised: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
        """Numbers of the facts that share a node of the held-out type with one of these, themselves among them. num_train: none"""
        if not len(self.fact):
            return self.fact
        given = np.zeros(self.num_train + 1, dtype=bool)
        given[supervised] = True
        asked = given[self.fact]
        nodes = np.zeros(self.num_nodes, dtype=bool)
        nodes[self.ends[:, asked][self.is_held[:, asked]]] = True
        return self.fact[(nodes[self.ends] & self.is_held).any(axis=0)]
