"""Commands without a run of their own: `demo-graph`, `validate`, `plan`, `compare`, `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flows.commands.exit_code import ACCEPTED, REJECTED
from flows.commands.options import OVERWRITE, PATH, given_parameters, with_parameters
from flows.commands.train import refuse_before_training
from hgt.config import DOCKER_CPU, GraphConfig, RunConfig
from hgt.device.traits import DEVICES
from hgt.errors import counted


@click.command("demo-graph")
@click.argument("out", type=PATH)
@click.option("--num-nodes", default=1_000, show_default=True, help="Nodes, of ten types.")
@click.option(
    "--num-facts",
    default=10_000,
    show_default=True,
    help="Facts, of fifteen relations; each is written in both directions.",
)
@click.option("--num-communities", default=10, show_default=True, help="Planted communities.")
@click.option("--seed", default=0, show_default=True, help="Seed.")
@OVERWRITE
def demo_graph(
    out: Path, num_nodes: int, num_facts: int, num_communities: int, seed: int, overwrite: bool
) -> int:
    """Write a synthetic PrimeKG-like graph to OUT (.csv, .csv.gz or .parquet)."""
    from tasks.outputs import claim_file

    claim_file(out, overwrite)
    from hgt.graph.demo_graph import write_demo_graph

    num_rows = write_demo_graph(out, num_nodes, num_facts, num_communities, seed, overwrite)
    click.echo(f"{out}: {num_rows:,} rows")
    return ACCEPTED


@click.command()
@click.argument("embeddings", type=PATH)
@click.option(
    "--kg", required=True, type=PATH, metavar="FILE", help="The graph that they describe."
)
def validate(embeddings: Path, kg: Path) -> int:
    """Hold a table of EMBEDDINGS (Parquet or CSV) against the graph that it describes."""
    from hgt.input_file import check_table

    check_table(embeddings)
    from hgt.graph.facts import refuse_early

    refuse_early(kg, GraphConfig())  # before what takes seconds to import
    from hgt.evaluate import evaluate_table

    report = evaluate_table(embeddings, kg, click.echo)
    click.echo(report.table())
    return ACCEPTED if report.accepted else REJECTED


@click.command()
@click.option(
    "--kg", required=True, type=PATH, metavar="FILE", help="The graph that would be trained."
)
@with_parameters
def plan(kg: Path, **given: Any) -> int:
    """Say what training FILE would take, without training it; also for a device that is elsewhere,
    if --memory is given.
    """
    config = RunConfig.from_flat(given_parameters(given))
    from hgt.graph.facts import refuse_early

    refuse_early(kg, config.graph)  # before what takes seconds to import
    from hgt.evaluation.certain_rejection import refuse_certain_rejection
    from hgt.graph.knowledge_graph import KnowledgeGraph
    from hgt.graph.split import split_facts
    from hgt.memory.plan import plan_memory, probe_for_plan, refuse_what_cannot_fit
    from hgt.reading.edge_table import read_edge_table

    probe = probe_for_plan(config)
    table = read_edge_table(kg)
    graph = KnowledgeGraph.from_edge_table(table, config.graph)
    click.echo("\n".join([*map(str, table.counts), *graph.notes]))
    size = {
        "node": graph.total_nodes,
        "fact": graph.total_facts,
        "edge type": len(graph.edge_types),
    }
    click.echo(", ".join(counted(n, what) for what, n in size.items()))
    split = split_facts(graph, config.split)  # a split that training would refuse is refused here
    memory = plan_memory(graph, config, probe)
    click.echo(memory.table())
    refuse_what_cannot_fit(memory, graph, config, probe)
    refuse_certain_rejection(graph, split, config)
    return ACCEPTED


@click.command()
@click.option("--kg", required=True, type=PATH, metavar="FILE", help="The graph to train on.")
@click.option(
    "--devices",
    required=True,
    metavar="A,B",
    help="Two of mps, cuda, cpu and docker-cpu, such as cpu,mps.",
)
@with_parameters
def compare(kg: Path, devices: str, **given: Any) -> int:
    """Train FILE on two devices with one seed, and hold their time, memory, losses and validation
    figures against each other.

    Exit code 3: a figure differs by more than 0.05.
    """
    values = given_parameters(given)
    from hgt.graph.facts import refuse_early

    refuse_early(kg, RunConfig.from_flat(values).graph)  # before what takes seconds to import
    from flows.compare import compare as compare_devices
    from flows.compare import devices_of

    asked = devices_of(devices)
    for device in sorted(asked, key=DOCKER_CPU.__ne__):  # it is looked for without torch
        refuse_before_training(
            kg, RunConfig.from_flat({"baselines": ["none"], **values, "device": device})
        )
    agreement = compare_devices(kg, asked, values, click.echo)
    click.echo(agreement.table())
    return REJECTED if agreement.outside else ACCEPTED


@click.command()
@click.option(
    "--device",
    type=click.Choice(list(DEVICES)),
    help="Which one.  [default: the accelerator of this machine]",
)
def doctor(device: str | None) -> int:
    """Compare the accelerator with the CPU on the real training step, and refuse it if it computes
    something else.

    Prints chip, memory, caps, versions and what is known to be bad about the combination. Exit code
    1: refused.
    """
    from hgt.diagnosis.doctor import examine

    examine(device, click.echo)
    return ACCEPTED
