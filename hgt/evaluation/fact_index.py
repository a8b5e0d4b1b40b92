"""The known facts of a graph, by relation and by either end.

In: a `KnowledgeGraph`. Out: a `FactIndex`. Knows no split: every fact of the file is known.
"""

from __future__ import annotations

from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.known_facts import known_matrix


class FactIndex:
    """The known facts of a graph, to leave them out of the candidates. Build it once per graph."""

    def __init__(self, graph: KnowledgeGraph):
        self.graph = graph
        self.known = {}
        for number, index in enumerate(graph.edge_index.values()):
            by_head = known_matrix(index[0].numpy(), index[1].numpy(), graph, number)
            symmetric = graph.edge_types[number] in graph.symmetric
            self.known[number] = (by_head, by_head if symmetric else by_head.T.tocsr())
