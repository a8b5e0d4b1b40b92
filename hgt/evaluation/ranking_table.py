"""Ranks as a table for people.

In: a `RankingReport` and a `ClassificationReport`. Out: lines of text. All figures are in the JSON
report; a long table shows only some rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from hgt.evaluation.edge_classification import ClassificationMetrics, ClassificationReport
from hgt.evaluation.ranking import RankingMetrics, RankingReport
from hgt.graph.facts import edge_type_name

_MOST_ROWS, _WORST_ROWS = 40, 5  # of a table for people


def ranking_lines(ranking: RankingReport, classification: ClassificationReport | None) -> list[str]:
    """The lines of the table of ranks, with AUROC and AUPRC.

    Edge types come in the order of their number of ranks, largest first. Their figures are among
    nodes of the right type. The last column is their MRR among all nodes.
    """
    micro, macro, pairs = (
        (classification.micro, classification.macro, classification.by_edge_type)
        if classification
        else (None, None, {})
    )
    titles = ("MRR", "Hits@1", "Hits@3", "Hits@10", "chance", "AUROC", "AUPRC")
    lines = [
        f"{'held-out facts':<50}{'ranks':>8}"
        + "".join(f"{title:>8}" for title in titles)
        + f"{'MRR all':>9}",
        _ranking_line("among all nodes", ranking.all_nodes, None).rstrip(),
        _ranking_line("the same, mean over edge types", ranking.all_nodes_macro, None).rstrip(),
        _ranking_line("among nodes of the right type", ranking.typed, micro),
        _ranking_line("the same, mean over edge types", ranking.typed_macro, macro),
    ]
    by_size = sorted(ranking.by_edge_type.items(), key=lambda i: -i[1].num_ranks)
    everywhere = ranking.by_edge_type_all_nodes
    told = [
        _ranking_line("  " + edge_type_name(e), m, pairs.get(e)) + f"{everywhere[e].mrr:>9.4f}"
        for e, m in by_size
    ]
    worst = sorted(range(len(told)), key=lambda i: by_size[i][1].mrr / by_size[i][1].chance_mrr)
    return lines + shortened(told, "edge types", "with most ranks", [told[i] for i in worst])


def shortened(rows: list[str], what: str, first: str, worst: Sequence[str] = ()) -> list[str]:
    """The first rows of a long table, and the five worst of the others. A line in between says so.
    The JSON report has every row.

    rows: all rows, in order.
    what: the plural noun of a row, for example "edge types".
    first: how the first rows are chosen, for example "with most ranks".
    worst: all rows, worst first.
    """
    if len(rows) <= _MOST_ROWS:
        return rows
    head = rows[: _MOST_ROWS - _WORST_ROWS - 1] if worst else rows[: _MOST_ROWS - 1]
    last = [row for row in worst if row not in head][:_WORST_ROWS]
    also = f", and below the {len(last)} worst of the others" if last else ""
    return [
        *head,
        f"  the {len(head)} {first} of {len(rows):,} {what}{also}; report/validation.json has all",
        *last,
    ]


def _ranking_line(name: str, m: RankingMetrics, pairs: ClassificationMetrics | None) -> str:
    figures = [m.mrr, *(m.hits[k] for k in (1, 3, 10)), m.chance_mrr]
    against_false = f"{pairs.auroc:>8.4f}{pairs.auprc:>8.4f}" if pairs else " " * 16
    return (
        f"{name[:50]:<50}{m.num_ranks:>8,}" + "".join(f"{f:>8.4f}" for f in figures) + against_false
    )
