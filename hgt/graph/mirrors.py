"""Mirrors: pairs of facts in both directions, (a, relation, b) and (b, relation, a).

In: facts by number. Out: each fact's mirror. Knows no training.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from hgt.graph.knowledge_graph import KnowledgeGraph


def mirror_facts(
    graph: KnowledgeGraph, facts: Int[np.ndarray, "3 num_facts"]
) -> Int[np.ndarray, " n"]:
    """[num_facts + 1] the number of each fact's mirror; num_facts for facts without one.

    Empty where no fact has a mirror. The split keeps the two in the same part, so a ranked fact
    never has its mirror among the messages. A fact of a symmetric relation is its own mirror: its
    messages pass in both directions.
    """
    there, num_facts = set(graph.edge_types), facts.shape[1]
    names = sorted(
        {e[1] for e in graph.edge_types if e not in graph.symmetric and e[::-1] in there}
    )
    number = [
        names.index(e[1]) if e[1] in names and e[::-1] in there else -1 for e in graph.edge_types
    ]
    name = np.array(number)[facts[1]]
    place = np.flatnonzero(name >= 0)
    low, high = np.sort(facts[::2, place].astype(np.int64), axis=0)
    pair = (name[place] * graph.total_nodes + low) * graph.total_nodes + high
    order = np.argsort(pair, kind="stable")
    twice = np.flatnonzero(pair[order[1:]] == pair[order[:-1]])
    if not len(twice):
        return np.empty(0, dtype=np.int64)
    one, other = place[order[twice]], place[order[twice + 1]]
    mirror = np.full(num_facts + 1, num_facts)
    mirror[one], mirror[other] = other, one
    return mirror
