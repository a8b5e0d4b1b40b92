"""Required checks that a run cannot pass, whatever it learns. The graph and the split alone show
them.

In: graph, split, configuration. Out: an InputError before the training, or nothing. Knows the
bounds of the checks in `geometry_checks.py` and `graph_checks.py`. A run whose rejection is
only likely is trained and judged.
"""

from __future__ import annotations

import torch

from hgt.config import RunConfig, most_components_90
from hgt.errors import InputError
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import TEST, TRAIN, EdgeSplit


def refuse_certain_rejection(graph: KnowledgeGraph, split: EdgeSplit, config: RunConfig) -> None:
    """Raise InputError where a required check must fail. The message names each such check, its
    figures and the remedy.
    """
    if problems := certain_rejection(graph, split, config):
        raise InputError(
            f"Validation would reject this run, whatever it learns: {'; '.join(problems.values())}."
            f" Take a larger graph or other thresholds, or leave {' and '.join(problems)} out of"
            " --required-checks."
        )


def certain_rejection(graph: KnowledgeGraph, split: EdgeSplit, config: RunConfig) -> dict[str, str]:
    """{required check: reason why it must fail}"""
    limits, nodes, dim = config.validation, graph.total_nodes, config.model.embedding_dim
    found = {}
    if not (split.part == TEST).any():
        found["mrr"] = _nothing_to_rank(graph, config)
    # n points lie in n - 1 directions, and 90 % of the variance in at most 90 % of these, rounded
    # up
    most = most_components_90(min(nodes - 1, dim))
    if limits.min_components_90 > most:
        found["components_90"] = (
            f"{nodes:,} nodes in {dim} dimensions have at most {most} components for 90 % of the "
            f"variance (components_90), min_components_90 is {limits.min_components_90}"
        )
    if limits.min_effective_rank > min(nodes - 1, dim):
        found["effective_rank"] = (
            f"{nodes:,} nodes in {dim} dimensions have an effective rank of at most "
            f"{min(nodes - 1, dim)}, min_effective_rank is {limits.min_effective_rank:g}"
        )
    untrained = num_untrained(graph, split)
    if untrained > int(limits.max_untrained_nodes * nodes):
        found["untrained_nodes"] = (
            f"{untrained:,} of {nodes:,} nodes have no training fact (untrained_nodes), "
            f"max_untrained_nodes is {limits.max_untrained_nodes:g}"
        )
    return {check: why for check, why in found.items() if check in limits.required_checks}


def num_untrained(graph: KnowledgeGraph, split: EdgeSplit) -> int:
    """Number of nodes without a training fact."""
    trained = torch.zeros(graph.total_nodes, dtype=torch.bool)
    trained[split.of(TRAIN)[::2].flatten()] = True
    return int((~trained).sum())


def _nothing_to_rank(graph: KnowledgeGraph, config: RunConfig) -> str:
    largest = max(graph.num_facts.values())
    s = config.split
    return (
        "no fact is held out for the test, so nothing can be ranked (mrr): the largest edge type"
        f" has {largest:,} facts, test_fraction is {s.test_fraction:g} and val_fraction"
        f" {s.val_fraction:g}"
    )
