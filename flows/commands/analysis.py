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
    help="Facts, of fifteen relations. Each is written in both directions.",
)
@click.option("--num-communities", default=10, show_default=True, help="Planted communities.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random generator.")
@OVERWRITE
def demo_graph(
    out: Path, num_nodes: int, num_facts: int, num_communities: int, seed: int, overwrite: bool
) -> int:
    """Write a synthetic PrimeKG-like graph to OUT.

    The ending of OUT is .csv, .csv.gz or .parquet.
    """
    from tasks.outputs import claim_file

    claim_file(out, overwrite)
    from hgt.graph.demo_graph import write_demo_graph

    num_rows = write_demo_graph(out, num_nodes, num_facts, num_communities, seed, overwrite)
    click.echo(f"{out}: {num_rows:,} rows")
    return ACCEPTED


@click.command()
@click.argument("embeddings", type=PATH)
@click.option("--kg", required=True, type=PATH, metavar="FILE", help="The graph of the embeddings.")
def validate(embeddings: Path, kg: Path) -> int:
    """Validate a table of EMBEDDINGS.

    EMBEDDINGS is a Parquet or CSV file. Its graph gives the facts to rank.
    """
    from hgt.input_file import check_table

    check_table(embeddings)
    from hgt.graph.extraction import refuse_early

    refuse_early(kg, GraphConfig())  # before slow imports
    from hgt.programs.table_evaluation import evaluate_table
    from tasks.rejection import rejection, with_rejection

    report = evaluate_table(embeddings, kg, click.echo)
    sentences = rejection(report.as_dict()["checks"])
    click.echo(with_rejection(report.table(), sentences))
    return ACCEPTED if report.accepted else REJECTED


@click.command()
@click.option("--kg", required=True, type=PATH, metavar="FILE", help="The graph to plan for.")
@with_parameters
def plan(kg: Path, **given: Any) -> int:
    """Show the memory that training FILE needs.

    It trains nothing. With --memory also for a device that this machine lacks.
    """
    config = RunConfig.from_flat(given_parameters(given))
    from hgt.graph.extraction import refuse_early

    refuse_early(kg, config.graph)  # before slow imports
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
    click.echo(", ".join(counted(n, unit) for unit, n in size.items()))
    split = split_facts(graph, config.split)  # refuses a split that training would refuse
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
    """Train FILE on two devices and compare the runs.

    Both use one seed. Shows time, memory, losses and validation figures of both.

    Exit code 3: a figure differs by more than 0.05.
    """
    values = given_parameters(given)
    from hgt.graph.extraction import refuse_early

    refuse_early(kg, RunConfig.from_flat(values).graph)  # before slow imports
    from flows.compare import compare as compare_devices
    from flows.compare import devices_of

    chosen = devices_of(devices)
    for device in sorted(chosen, key=DOCKER_CPU.__ne__):  # the check of Docker needs no torch
        refuse_before_training(
            kg, RunConfig.from_flat({"baselines": ["none"], **values, "device": device})
        )
    agreement = compare_devices(kg, chosen, values, click.echo)
    click.echo(agreement.table())
    return REJECTED if agreement.outside else ACCEPTED


@click.command()
@click.option(
    "--device",
    type=click.Choice(list(DEVICES)),
    help="The device to check.  [default: the accelerator of this machine]",
)
def doctor(device: str | None) -> int:
    """Compare the accelerator with the CPU.

    Checks that both compute the same training step.

    Prints chip, memory, limits, versions and known issues of the combination. Exit code 1: the
    results differ, or the step does not run.
    """
    from hgt.diagnosis.doctor import examine

    examine(device, click.echo)
    return ACCEPTED
