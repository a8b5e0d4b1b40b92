"""Checks of the vectors against the graph: neighbourhoods and ranks.

In: `Neighbourhoods`, a `RankingReport` and the thresholds. Out: `Check`s.
"""

from __future__ import annotations

from dataclasses import replace

from hgt.config import ValidationConfig
from hgt.evaluation.check import Check, at_least, check
from hgt.evaluation.neighbourhoods import Neighbourhoods
from hgt.evaluation.ranking import RankingReport

_FEW_RANKS = 100


def graph_checks(
    n: Neighbourhoods, ranking: RankingReport | None, config: ValidationConfig
) -> list[Check]:
    """Checks whether the vectors know the graph.

    n: neighbourhoods of the sampled nodes.
    ranking: ranks of the test facts; None where no fact was held out.
    """
    most = int(config.max_untrained_nodes * n.num_nodes)
    agree = (
        f"rank correlation of {n.node_type} pairs: nodes with the same neighbours have similar"
        " vectors"
    )
    ratio, least = None, config.min_mrr_over_chance
    meaning = (
        "no fact was held out, so nothing could be ranked: hold out more, or do not require it"
    )
    if ranking is not None:
        typed, meaning = (
            ranking.typed,
            "held-out facts rank above others: the vectors know the graph",
        )
        ratio = typed.mrr / typed.chance_mrr
        # With few candidates, chance is high and `least` times chance may exceed 1. The threshold
        # is at most half way from chance to 1.
        least = min(least, round((1 + typed.chance_mrr) / 2 / typed.chance_mrr, 2))
        if typed.num_ranks < _FEW_RANKS:
            meaning += f"; of {typed.num_ranks} ranks alone, so chance has a say"
    return [
        at_least(
            config,
            "similarity_correlation",
            "shared neighbours and cosines",
            n.correlation,
            config.min_similarity_correlation,
            (
                agree
                if n.correlation is not None
                else f"too few pairs of {n.node_type} nodes that differ"
            ),
        ),
        check(
            config,
            "untrained_nodes",
            "nodes without training facts",
            n.num_untrained,
            f"<= {most:,}",
            n.num_untrained <= most,
            "nothing is known of these nodes but their type",
        ),
        replace(
            at_least(config, "mrr", "typed MRR over chance", ratio, least, meaning, unit=" x"),
            required="mrr" in config.required_checks,
        ),
    ]
