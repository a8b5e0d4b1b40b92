"""The matrix of a relation's facts holds each of them, in both directions where it has no
direction.
"""

import numpy as np

from hgt.graph.known_facts import known_matrix


def test_it_holds_the_facts_and_nothing_else(graph):
    for number, edge_type in enumerate(graph.edge_types):
        head, tail = (ends.numpy() for ends in graph.edge_index[edge_type])
        expected = np.zeros(
            (graph.num_nodes[edge_type[0]], graph.num_nodes[edge_type[2]]), dtype=bool
        )
        expected[head, tail] = True
        if edge_type in graph.symmetric:
            expected |= expected.T
        assert np.array_equal(known_matrix(head, tail, graph, number).toarray(), expected)
    assert 0 < len(graph.symmetric) < len(graph.edge_types)
