"""Task `load`: the file becomes the run folder's graph and split."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from hgt.config import RunConfig
from hgt.graph.facts import edge_type_name
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.leakage import audit_split
from hgt.graph.split import EdgeSplit, holdout_edge_types, split_facts
from hgt.reading.edge_table import read_edge_table
from tasks.home import check_new_run, run_folder
from tasks.reporting import say
from tasks.tracking.tracker import Tracker

_MOST_EDGE_TYPES = 40  # listed on the screen; MLflow has them all
_MOST_FILES = 5  # the parts of a folder whose rows are told one by one
_WORST = 5


@task(name="load", cache_policy=NO_CACHE)
def load(kg: str | None, run: str, config: RunConfig, tracker: Tracker) -> str:
    """Read the file into the run folder, or, when it resumes (no `kg`), check what is there. Returns the run id."""
    folder = run_folder(run)
    if kg is None:
        graph = folder.load_graph()
        audit = audit_split(graph, folder.load_split(graph), config.split, folder.split)
    else:
        table = read_edge_table(Path(kg))
        for counts in table.counts[:_MOST_FILES]:
            say(str(counts))
        graph = KnowledgeGraph.from_edge_table(table, config.graph)
        split = split_facts(graph, config.split)
        audit = audit_split(graph, split, config.split)
        folder.path.mkdir(parents=True, exist_ok=True)
        with folder.locked():
            check_new_run(run)  # of two runs that were given one name at once, the first to get here has it
            graph.save(folder.graph)
            split.save(folder.split, graph)
            tracker.remember()
            config.save(folder.config)  # last: from now on this is a run folder
        say(graph.table(_MOST_EDGE_TYPES))
        for note in graph.notes:
            say(note)
        for warning in [*_not_held_out(graph, split, config), *audit.twins]:
            say(f"WARNING: {warning}")
    with tracker.of_a_new_run():
        tracker.text(graph.table(), "graph.txt")
        tracker.dataset(graph, Path(kg) if kg else None)
        tracker.artifacts(folder.config)
    say(str(audit))
    tracker.configuration(config, Path(kg) if kg else None)
    tracker.tags({"run_folder": str(folder.path), "leakage_audit": str(audit)})
    return run


def _not_held_out(graph: KnowledgeGraph, split: EdgeSplit, config: RunConfig) -> list[str]:
    """One sentence about the edge types of which facts should have been held out and were not, if there are any."""
    due = split.unsplit if split.node_part is None else [e for e in holdout_edge_types(graph, config.split) if e in split.unsplit]
    if not due:
        return []
    shares = f"{config.split.val_fraction:g} for validation and {config.split.test_fraction:g} for the test"
    why = f"too few to hold out {shares}" if split.node_part is None else "none of a held-out node"
    largest = sorted(due, key=lambda e: -graph.num_facts[e])[:_WORST]
    named = ", ".join(f"{edge_type_name(e)} ({graph.num_facts[e]})" for e in largest)
    if len(due) == 1:
        return [f"{edge_type_name(due[0])} has {graph.num_facts[due[0]]} fact(s), {why}: all of them train, none is ranked"]
    facts = sum(graph.num_facts[e] for e in due)
    more = f"; the {_WORST} largest are" if len(due) > _WORST else ":"
    return [f"{len(due):,} edge types have {facts:,} fact(s), each {why}: all of them train, none is ranked{more} {named}"]
