"""The size of a graph as a table for people.

In: counts of nodes, facts and dropped rows. Out: text. Knows no single node and no single fact.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from hgt.errors import counted, printable
from hgt.graph.facts import DroppedRows, EdgeType, edge_type_name


def graph_table(
    num_nodes: Mapping[str, int],
    num_facts: Mapping[EdgeType, int],
    symmetric: Set[EdgeType],
    dropped: DroppedRows,
    most: int | None = None,
) -> str:
    """Nodes by type, facts by edge type, dropped rows by reason.

    num_nodes: {node type: number of its nodes}
    num_facts: {edge type: number of its facts}
    symmetric: edge types whose facts have no direction
    most: number of node types, and of edge types, that are listed; None: all. Largest first.
    """
    nodes, facts = sum(num_nodes.values()), sum(num_facts.values())
    lines = [f"{counted(nodes, 'node')} of {counted(len(num_nodes), 'type')}"]
    lines += _largest(num_nodes, most, "types", "nodes")
    lines += [f"{counted(facts, 'fact')} of {counted(len(num_facts), 'edge type')}"]
    read_as = {e: "symmetric" if e in symmetric else "directed" for e in num_facts}
    by_edge_type = {f"{edge_type_name(e)}  ({read_as[e]})": n for e, n in num_facts.items()}
    lines += _largest(by_edge_type, most, "edge types", "facts")
    lines.append("rows that are no fact of their own")
    reasons = dropped.as_dict().items()
    lines += [f"  {n:>11,}  {reason.replace('_', ' ')}" for reason, n in reasons]
    return "\n".join(lines)


def _largest(counts: Mapping[str, int], most: int | None, kind: str, unit: str) -> list[str]:
    """One line for each of the `most` largest counts, and one line for the sum of all others."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    lines = [f"  {n:>11,}  {printable(name)}" for name, n in ordered[:most]]
    others = [n for _, n in ordered[most:]] if most is not None else []
    if others:
        lines.append(f"  {sum(others):>11,}  {unit} of {len(others):,} more {kind}")
    return lines
