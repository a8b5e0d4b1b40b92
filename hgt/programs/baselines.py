"""The comparison of a run with simpler methods on the same facts.

In: an evaluated run. Out: `report/baselines.json` and its table as text. The baselines rank the
same test facts among the same candidates. They know less than HGT: nothing (random), the number of
training facts of each node in the relation (degree), or no neighbours (distmult, complex). HGT's
figures come from `report/validation.json`.
"""

from __future__ import annotations

import json

import torch

from hgt.evaluation.fact_index import FactIndex
from hgt.graph.split import TRAIN
from hgt.model.decoders import DistMult
from hgt.programs.baseline_table import Baseline, Comparison
from hgt.programs.degree_scores import DegreeScores, training_degrees
from hgt.programs.mrr_by_scope import hgt_mrr, mrr_of_test_facts
from hgt.programs.shallow_training import train_shallow
from hgt.run.events import epochs_by_number
from hgt.run.folder import RunFolder
from hgt.run.opened import OpenRun, open_run
from hgt.run.program import OnEvent
from hgt.seeds import Stream, torch_seed
from hgt.training.batch_sizes import num_batches_per_epoch
from hgt.whole_file import written_whole


def compare_run(folder: RunFolder, on_event: OnEvent) -> None:
    """Write the comparison of an evaluated run. Write none where there was nothing to rank."""
    run = open_run(folder)
    hgt = hgt_mrr(folder, run.identity)
    if hgt is None:
        on_event("compared", message="no baselines: nothing was held out that could be ranked")
        return
    index, seconds = FactIndex(run.graph), _training_seconds(run)
    baselines = tuple(
        _baseline(name, run, index, seconds) for name in run.config.baseline.baselines
    )
    comparison = Comparison(hgt, seconds, baselines)
    for name, text in (
        ("baselines.json", json.dumps(comparison.as_dict(), indent=2)),
        ("baselines.txt", comparison.table()),
    ):
        with written_whole(folder.report / name) as new:
            new.write_text(text + "\n")
    on_event("compared", message=comparison.verdict(), **run.memory.as_dict())


def _training_seconds(run: OpenRun) -> float:
    """Seconds of all of HGT's steps, on all devices together."""
    largest_edge_type = int(torch.bincount(run.split.of(TRAIN)[1]).max())
    sum_of_means = sum(
        epoch["step_seconds"]
        for epoch in epochs_by_number(run.folder.events, "step_seconds").values()
    )
    return float(sum_of_means * num_batches_per_epoch(largest_edge_type, run.config))


def _baseline(name: str, run: OpenRun, index: FactIndex, hgt_seconds: float) -> Baseline:
    num_relations, dim = len(run.graph.edge_types), run.config.model.embedding_dim
    if name == "random":
        torch.manual_seed(torch_seed(run.config.split.seed, Stream.RANDOM_VECTORS))
        vectors = torch.randn(run.graph.total_nodes, dim)
        return Baseline(name, mrr_of_test_facts(run, index, vectors, DistMult(num_relations, dim)))
    if name == "degree":
        degrees = training_degrees(run.graph, run.split)
        return Baseline(name, mrr_of_test_facts(run, index, degrees, DegreeScores()))
    return train_shallow(name, run, index, run.config.baseline.baseline_time * hgt_seconds)
