"""The edge types that a holdout split holds out.

In: a `KnowledgeGraph` and a `SplitConfig`. Out: a `Holdout`. It does not know the part of any fact.
"""

from __future__ import annotations

from dataclasses import dataclass

from hgt.config import SplitConfig
from hgt.errors import InputError, listed
from hgt.graph.facts import EdgeType
from hgt.graph.knowledge_graph import KnowledgeGraph

_PARTNER, _PARTNER_OF_ITSELF = "drug", "disease"  # a drug's own partner is the disease


@dataclass(frozen=True)
class Holdout:
    """What a holdout split holds out: nodes of a type, with all their facts of some edge types.

    node_type: the type of the held-out nodes.
    edge_types: the edge types whose facts are held out with them.
    """

    node_type: str
    edge_types: tuple[EdgeType, ...]


def holdout_of(graph: KnowledgeGraph, config: SplitConfig) -> Holdout | None:
    """What the configured split holds out. None for a random split.

    By default its edge types are all between the node type and drug, or disease where the node
    type is drug itself. `holdout_relations` names others. Raises InputError when the graph has no
    such type, relation or facts.
    """
    held, named = config.holdout_type, config.holdout_relations
    if held is None:
        return None
    if held not in graph.node_types:
        raise InputError(
            f"--split {config.split}: the graph has no node type {held}; its types are"
            f" {listed(graph.node_types, most=50)}."
        )
    own = [e for e in graph.edge_types if held in (e[0], e[2])]
    relations = sorted({relation for _, relation, _ in own})
    unknown = [relation for relation in named if relation not in relations]
    if unknown:
        raise InputError(
            f"holdout_relations: {held} has no relation {', '.join(unknown)}; its relations are"
            f" {listed(relations, most=50)}."
        )
    partner = _PARTNER if held != _PARTNER else _PARTNER_OF_ITSELF
    chosen = tuple(e for e in own if (e[1] in named if named else partner in (e[0], e[2])))
    if not chosen:
        raise InputError(
            f"--split {config.split}: no edge type connects {held} with {partner}; the graph's"
            f" types are {listed(graph.node_types, most=50)}. Name the relations to hold out with"
            f" --holdout-relations; those of {held} are {listed(relations, most=50)}."
        )
    return Holdout(held, chosen)


def least_held_out(graph: KnowledgeGraph, config: SplitConfig) -> dict[EdgeType, float]:
    """{edge type: share of its facts that certainly do not train}.

    Raises InputError as `holdout_of` does.
    """
    holdout = holdout_of(graph, config)
    by_node = holdout.edge_types if holdout else ()
    others = config.val_fraction + (0.0 if by_node else config.test_fraction)
    return {e: 0.0 if e in by_node else others for e in graph.edge_types}
