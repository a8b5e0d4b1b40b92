"""Task `load`: the file becomes the run folder's graph and split."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from hgt.config import RunConfig
from hgt.edge_table import read_edge_table
from hgt.graph import KnowledgeGraph
from hgt.split import split_facts
from tasks.home import run_folder
from tasks.reporting import say
from tasks.tracking import Tracker


@task(name="load", cache_policy=NO_CACHE)
def load(kg: str | None, run: str, config: RunConfig, tracker: Tracker) -> str:
    """Read the file into the run folder, or, when it resumes (no `kg`), check what is there. Returns the run id."""
    folder = run_folder(run)
    if kg is None:
        graph = folder.load_graph()
        folder.load_split(graph)
    else:
        graph = KnowledgeGraph.from_edge_table(read_edge_table(Path(kg)), config.graph)
        split = split_facts(graph, config.split)
        graph.save(folder.graph)
        split.save(folder.split, graph)
        tracker.remember()
        config.save(folder.config)  # last: from now on this is a run folder
        say(graph.table())
        for edge_type in split.unsplit:
            n = graph.num_facts[edge_type]
            say(f"WARNING: {' - '.join(edge_type)} has {n} fact(s), too few to hold any out: all of them train, none is ranked")
        tracker.text(graph.table(), "graph.txt")
        tracker.dataset(graph, Path(kg))
        tracker.artifacts(folder.config)
    tracker.configuration(config, Path(kg) if kg else None)
    tracker.tags({"run_folder": str(folder.path)})
    return run
