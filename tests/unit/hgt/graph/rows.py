"""Rows of a table, and the graph of them."""

import numpy as np

from hgt.config import GraphConfig
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.reading.edge_table import EdgeTable

TREATS = [("drug", i, "treats", "disease", i % 3) for i in range(5)]
PPI = [("gene", i, "ppi", "gene", i + 1) for i in range(20)]


def table_of(rows):
    """An EdgeTable of (head type, head id, relation, tail type, tail id) rows, without a file."""
    nodes = list(dict.fromkeys(n for x, a, _, y, b in rows for n in ((x, str(a)), (y, str(b)))))
    types = list(dict.fromkeys(t for t, _ in nodes))
    relations = list(dict.fromkeys(r for _, _, r, _, _ in rows))
    ids = np.array([i for _, i in nodes], dtype=object)
    head = np.array([nodes.index((x, str(a))) for x, a, _, _, _ in rows], dtype=np.int32)
    tail = np.array([nodes.index((y, str(b))) for _, _, _, y, b in rows], dtype=np.int32)
    relation = np.array([relations.index(r) for _, _, r, _, _ in rows], dtype=np.int32)
    return EdgeTable(
        types,
        relations,
        np.array([types.index(t) for t, _ in nodes], dtype=np.int32),
        ids,
        ids,
        head,
        relation,
        tail,
    )


def graph_of(rows, **config):
    return KnowledgeGraph.from_edge_table(table_of(rows), GraphConfig(**config))


def told(graph):
    """The facts as {(head type, head id, relation, tail type, tail id)}."""
    return {
        (h, graph.node_ids[h][a], r, t, graph.node_ids[t][b])
        for (h, r, t), pairs in graph.edge_index.items()
        for a, b in pairs.T.tolist()
    }


def mirror(row):
    x, a, r, y, b = row
    return (y, b, r, x, a)
