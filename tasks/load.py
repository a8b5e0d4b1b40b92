"""Task `load`: reads the graph file and writes graph and split into the run folder."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from hgt.config import RunConfig
from hgt.graph.facts import edge_type_name
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.leakage import Audit, audit_split
from hgt.graph.split import EdgeSplit, split_facts
from hgt.reading.edge_table import read_edge_table
from hgt.run.opened import LoadedRun
from tasks.home import check_new_run
from tasks.led_run import LedRun
from tasks.reporting import say
from tasks.tracking.tracker import Tracker

_MOST_EDGE_TYPES = 40  # shown on the screen; MLflow stores all
_MOST_FILES = 5  # part files whose row counts are shown one by one
_WORST = 5


@task(name="load", cache_policy=NO_CACHE)
def load(run: LedRun, tracker: Tracker) -> None:
    """Read a new run's file, or load the graph and split of a resumed run.

    Leaves both in `run.loaded` and checks the split for leakage.
    """
    if run.kg is None:
        graph = run.folder.load_graph()
        split = run.folder.load_split(graph, run.config.split)
        audit = audit_split(graph, split, run.folder.split)
        run.loaded = LoadedRun(run.folder, run.config, graph, split)
    else:
        audit = _read(run, run.kg, tracker)
    assert run.loaded is not None
    graph = run.loaded.graph
    with tracker.of_a_new_run():
        tracker.text(graph.table(), "graph.txt")
        tracker.dataset(graph, run.kg)
        tracker.artifacts(run.folder.config)
    say(str(audit))
    tracker.configuration(run.config, run.kg)
    tracker.tags({"run_folder": str(run.folder.path), "leakage_audit": str(audit)})


def _read(run: LedRun, kg: Path, tracker: Tracker) -> Audit:
    """Read the file and create the run folder. This flow locks the run from then on."""
    table = read_edge_table(kg)
    for counts in table.counts[:_MOST_FILES]:
        say(str(counts))
    graph = KnowledgeGraph.from_edge_table(table, run.config.graph)
    split = split_facts(graph, run.config.split)
    audit = audit_split(graph, split)
    _make_folder(run, graph, split, tracker)
    run.loaded = LoadedRun(run.folder, run.config, graph, split)
    say(graph.table(_MOST_EDGE_TYPES))
    for note in graph.notes:
        say(note)
    for warning in [*_not_held_out(graph, split, run.config), *audit.twins]:
        say(f"WARNING: {warning}")
    return audit


def _make_folder(run: LedRun, graph: KnowledgeGraph, split: EdgeSplit, tracker: Tracker) -> None:
    folder = run.folder
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.locked():
        check_new_run(run.name)  # of two runs with one name the first wins
        graph.save(folder.graph)
        split.save(folder.split, graph)
        tracker.remember()
        run.config.save(folder.config)  # last, because it marks a run folder
    run.lead()


def _not_held_out(graph: KnowledgeGraph, split: EdgeSplit, config: RunConfig) -> list[str]:
    """At most one sentence: the edge types with too few facts to hold any out."""
    due = (
        split.unsplit
        if split.holdout is None
        else [e for e in split.holdout.edge_types if e in split.unsplit]
    )
    if not due:
        return []
    shares = (
        f"{config.split.val_fraction:g} for validation and {config.split.test_fraction:g} for the"
        " test"
    )
    why = f"too few to hold out {shares}" if split.holdout is None else "none at a held-out node"
    largest = sorted(due, key=lambda e: -graph.num_facts[e])[:_WORST]
    named = ", ".join(f"{edge_type_name(e)} ({graph.num_facts[e]})" for e in largest)
    if len(due) == 1:
        return [
            f"{edge_type_name(due[0])} has {graph.num_facts[due[0]]} fact(s), {why}: training uses"
            " all, the test ranks none"
        ]
    facts = sum(graph.num_facts[e] for e in due)
    more = f"; the {_WORST} largest are" if len(due) > _WORST else ":"
    return [
        f"{len(due):,} edge types have {facts:,} fact(s), each {why}: training uses all, the test"
        f" ranks none{more} {named}"
    ]
