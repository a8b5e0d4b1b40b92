"""MRR by scope: all nodes, nodes of the right type, each edge type.

In: a run and embeddings, or its report. Out: `Mrr`.
"""

from __future__ import annotations

from torch import Tensor

from hgt.evaluation.fact_index import FactIndex
from hgt.evaluation.ranking import rank_facts
from hgt.graph.facts import edge_type_name
from hgt.graph.split import TEST
from hgt.model.decoders import Decoder
from hgt.run.folder import RunFolder
from hgt.run.identity import Identity
from hgt.run.opened import OpenRun
from hgt.run.report import read_report

Mrr = dict[str, float]  # {"all nodes", "typed" or an edge type's name: MRR}


def mrr_of_test_facts(run: OpenRun, index: FactIndex, embeddings: Tensor, decoder: Decoder) -> Mrr:
    """MRR of the run's test facts, ranked as HGT's are.

    embeddings: [num_nodes, dim].
    """
    with run.memory.phase("evaluation"):
        facts = run.split.of(TEST)
        report = rank_facts(embeddings.to(run.device), decoder.to(run.device), facts, index)
    by_edge_type = {edge_type_name(e): m.mrr for e, m in report.by_edge_type.items()}
    return {"all nodes": report.all_nodes.mrr, "typed": report.typed.mrr, **by_edge_type}


def hgt_mrr(folder: RunFolder, identity: Identity) -> Mrr | None:
    """HGT's MRR from the run's report; None where nothing was ranked."""
    path = folder.report / "validation.json"
    report = read_report(path)
    identity.check(report, path)
    ranking = report["ranking"]
    if ranking is None:
        return None
    largest_first = sorted(ranking["by_edge_type"], key=lambda m: -int(m["num_ranks"]))
    by_edge_type = {edge_type_name(m["edge_type"]): m["mrr"] for m in largest_first}
    return {
        "all nodes": ranking["all_nodes"]["mrr"],
        "typed": ranking["typed"]["mrr"],
        **by_edge_type,
    }
