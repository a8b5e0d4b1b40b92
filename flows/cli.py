"""The command line `hgt`. Options are derived from `hgt/config/`; heavy imports wait until a
command needs them.

Exit codes: 0 trained and accepted, 3 trained and rejected by validation, 2 bad input, 1 failure,
130 interrupted, 141 interrupted because whoever read the output is gone.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hgt.config import DOCKER_CPU, GraphConfig, RunConfig, parameters
from hgt.device.traits import DEVICES
from hgt.errors import HgtError, InputError, TrainingDiverged, counted, is_disk_full, printable
from hgt.parameter import Parameter

_IN_SESSION = "HGT_SESSION_PARENT"  # as `flows/session.py` has it, which `hgt --help` does without
ACCEPTED, FAILED, BAD_INPUT, REJECTED, INTERRUPTED, OUTPUT_CLOSED = 0, 1, 2, 3, 130, 141


class _UserPath(click.Path):
    """As the shell gives it: zsh leaves the ~ of `--kg=~/kg.csv` and of `make train KG=~/kg.csv` as
    it is.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from tasks.home import user_path

        return user_path(super().convert(value, param, ctx))


_PATH = _UserPath(path_type=Path)
_PORT = click.IntRange(1, 65535)
_OVERWRITE = click.option(
    "--overwrite",
    is_flag=True,
    help="Replace a file that is there. What is read is never replaced.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def cli() -> None:
    """HGT embeddings of a knowledge graph, on your own machine."""


def _with_parameters(command: Callable[..., Any]) -> Callable[..., Any]:
    """An option for every parameter of a run; what is not given keeps its default."""
    for p in reversed(list(parameters())):
        option = f"--{p.name.replace('_', '-')}"
        if p.type is bool:
            command = click.option(
                f"{option}/--no-{option[2:]}", p.name, default=None, help=_help(p)
            )(command)
            continue
        kind = click.Choice(p.choices) if p.choices else p.type
        command = click.option(option, p.name, type=kind, multiple=p.is_list, help=_help(p))(
            command
        )
    return command


def _help(p: Parameter) -> str:
    default = (
        "none"
        if p.default is None or p.default == ()
        else f"{p.default:g}"
        if isinstance(p.default, float)
        else p.default
    )
    default = ", ".join(default) if isinstance(default, tuple) else default
    default = {True: "yes", False: "no"}[default] if isinstance(default, bool) else default
    default = ", ".join(default) if isinstance(default, tuple) else default
    again = ". Repeat it for several" if p.is_list else ""
    return (
        f"{p.help[0].upper()}{p.help[1:]}{again}.  [default:"
        f" {default}{' ' + p.unit if p.unit and default != 'none' else ''}]"
    )


@cli.command()
@click.option(
    "--kg",
    type=_PATH,
    metavar="FILE",
    help="Knowledge graph in PrimeKG's columns: CSV, Parquet or a folder of parts.",
)
@click.option(
    "--resume",
    metavar="RUN",
    help="Go on with this run (its id or folder) from its last checkpoint, instead of --kg.",
)
@click.option(
    "--run-id", metavar="NAME", help="Name of the new run.  [default: made from the time]"
)
@click.option(
    "--output-csv",
    type=_PATH,
    metavar="FILE",
    help="Write the embeddings as CSV too; their relations go beside it.",
)
@_OVERWRITE
@_with_parameters
def train(
    kg: Path | None,
    resume: str | None,
    run_id: str | None,
    output_csv: Path | None,
    overwrite: bool,
    **given: Any,
) -> int:
    """Learn embeddings of FILE, track them in MLflow and validate them."""
    from tasks.home import check_home, check_new_run, check_store, find_run, new_run_id
    from tasks.outputs import claim_embeddings_csv, refuse_used_run_folder

    values = _given(given)
    config = RunConfig.from_flat(values)
    check_home()
    check_store()
    if (kg is None) == (resume is None):
        raise InputError("Give either --kg FILE or --resume RUN.")
    if run_id is not None:
        if resume:
            raise InputError(
                "Give either --run-id, the name of a new run, or --resume, a run to go on with."
            )
        check_new_run(run_id)
        refuse_used_run_folder(run_id)
    run = find_run(resume) if resume else run_id or new_run_id()
    if output_csv is not None:
        claim_embeddings_csv(output_csv, kg, resume and run, overwrite)
    _refuse_early(kg, _kept(run, values) if resume else config)
    names = {"resume": run} if resume else {"run_id": run, "kg": str(kg)}
    output = {"output_csv": output_csv and str(output_csv), "overwrite": overwrite or None}
    try:
        return _run_flow(run, {**names, **output, **values})
    except (*_interruptions(), BrokenPipeError) as error:
        from tasks.reporting import OutputClosed, silence

        is_closed = isinstance(error, OutputClosed | BrokenPipeError)
        if is_closed:
            silence(sys.stdout)
        why = " because nobody reads its output any more (a closed pipe)" if is_closed else ""
        try:
            click.echo(f"Interrupted{why}. {_how_to_go_on(run)}", err=True)
        except BrokenPipeError:  # 2>&1 | head
            silence(sys.stderr)
        return OUTPUT_CLOSED if is_closed else INTERRUPTED


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The parameters that were given on the command line."""
    return {
        name: list(v) if isinstance(v, tuple) else v
        for name, v in options.items()
        if v not in (None, ())
    }


def _kept(run: str, values: dict[str, Any]) -> RunConfig:
    """The configuration that a run goes on with. values: given anew"""
    from tasks.home import config_file

    return RunConfig.from_flat(RunConfig.load(config_file(run)).to_flat() | values)


def _how_to_go_on(run: str) -> str:
    from tasks.home import run_folder

    return (
        f"Go on with: hgt train --resume {run}"
        if run_folder(run).config.exists()
        else "Nothing had been trained yet."
    )


def _refuse_early(kg: Path | None, config: RunConfig) -> None:
    """What can be told at once is told before any server starts."""
    if kg is not None:
        from hgt.graph.extraction import refuse_early

        refuse_early(kg, config.graph)
    if config.execution.device == DOCKER_CPU:
        from tasks.execution.container import refuse_unavailable

        refuse_unavailable()
    from hgt.device.probe import probe_device
    from hgt.memory.plan import memory_limit

    probe_device(config.execution.compute_device, memory_limit(config))


def _interruptions() -> tuple[type[BaseException], ...]:
    from prefect.exceptions import TerminationSignal

    return (KeyboardInterrupt, TerminationSignal)


def _run_flow(run: str, arguments: dict[str, Any]) -> int:
    _prepare_environment()
    from flows.hgt_embeddings import REJECTED as REJECTED_NAME
    from flows.hgt_embeddings import hgt_embeddings
    from tasks.execution.pool import NO_ANSWER
    from tasks.home import run_folder

    click.echo(f"run {run} in {run_folder(run).path}")
    try:
        state = hgt_embeddings(**arguments, return_state=True)
    except NO_ANSWER as error:
        server = os.environ.get("PREFECT_API_URL", "of its own")
        raise HgtError(
            f"The Prefect server {server} does not answer ({type(error).__name__}). Run `hgt up`."
            f" {_how_to_go_on(run)}"
        ) from error
    if state.is_completed():
        return ACCEPTED
    if state.name == REJECTED_NAME:
        return REJECTED
    error = state.result(raise_on_failure=False)
    if isinstance(error, InputError):
        raise error
    said = str(error) if isinstance(error, HgtError) else f"the run failed: {state.message}"
    click.echo(
        (
            f"hgt: {said}"
            if isinstance(error, TrainingDiverged)
            else f"hgt: {said} {_how_to_go_on(run)}"
        ),
        err=True,
    )
    return FAILED


def _prepare_environment() -> None:
    """Settings that Prefect and MLflow read when they are imported; what the user has set stays."""
    from flows.services.local import running_server
    from tasks.home import check_home, hgt_home

    check_home()
    home = hgt_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"HGT_HOME {home}: is no folder, and none can be made there ({error.strerror}). Give"
            " another one."
        ) from error
    defaults = {
        "HGT_TERMINAL": "1",
        # the flow's own lines are printed; Prefect's log keeps everything
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        # an empty database takes 30 s on two cores; Prefect gives it 20
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        # a server that is gone is told in one sentence
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
        # 15 s: a server that is gone is asked several times before the flow gives up
        "PREFECT_CLIENT_MAX_RETRIES": "3",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
    }
    if "PREFECT_API_URL" not in os.environ:
        defaults["PREFECT_HOME"] = str(home / "prefect")
        if server := running_server():
            defaults["PREFECT_API_URL"] = server
        else:
            _check_database(Path(os.environ.get("PREFECT_HOME") or home / "prefect") / "prefect.db")
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    import logging

    logging.raiseExceptions = False  # or Prefect's log handler writes each failure to stderr


def _check_database(path: Path) -> None:
    """Prefect starts its temporary server anew for ever where this is none that it can use. Raises
    InputError.
    """
    if not path.exists():
        return
    import contextlib
    import sqlite3

    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            database.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise InputError(
                f"{path}: Prefect's database cannot be opened ({error}). Give the right to, or"
                " another HGT_HOME."
            ) from error
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"{path}: Prefect's database is damaged ({error}). Remove it: it holds the history that"
            " Prefect shows, no run and no figure."
        ) from error


@cli.command("demo-graph")
@click.argument("out", type=_PATH)
@click.option("--num-nodes", default=1_000, show_default=True, help="Nodes, of ten types.")
@click.option(
    "--num-facts",
    default=10_000,
    show_default=True,
    help="Facts, of fifteen relations; each is written in both directions.",
)
@click.option("--num-communities", default=10, show_default=True, help="Planted communities.")
@click.option("--seed", default=0, show_default=True, help="Seed.")
@_OVERWRITE
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


@cli.command()
@click.argument("embeddings", type=_PATH)
@click.option(
    "--kg", required=True, type=_PATH, metavar="FILE", help="The graph that they describe."
)
def validate(embeddings: Path, kg: Path) -> int:
    """Hold a table of EMBEDDINGS (Parquet or CSV) against the graph that it describes."""
    from hgt.input_file import check_table

    check_table(embeddings)
    from hgt.graph.extraction import refuse_early

    refuse_early(kg, GraphConfig())  # before what takes seconds to import
    from hgt.programs.table_evaluation import evaluate_table

    report = evaluate_table(embeddings, kg, click.echo)
    click.echo(report.table())
    return ACCEPTED if report.accepted else REJECTED


@cli.command()
@click.option(
    "--kg", required=True, type=_PATH, metavar="FILE", help="The graph that would be trained."
)
@_with_parameters
def plan(kg: Path, **given: Any) -> int:
    """Say what training FILE would take, without training it; also for a device that is elsewhere,
    if --memory is given.
    """
    config = RunConfig.from_flat(_given(given))
    from hgt.graph.extraction import refuse_early

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


@cli.command()
@click.option("--kg", required=True, type=_PATH, metavar="FILE", help="The graph to train on.")
@click.option(
    "--devices",
    required=True,
    metavar="A,B",
    help="Two of mps, cuda, cpu and docker-cpu, such as cpu,mps.",
)
@_with_parameters
def compare(kg: Path, devices: str, **given: Any) -> int:
    """Train FILE on two devices with one seed, and hold their time, memory, losses and validation
    figures against each other.

    Exit code 3: a figure differs by more than 0.05.
    """
    values = _given(given)
    from hgt.graph.extraction import refuse_early

    refuse_early(kg, RunConfig.from_flat(values).graph)  # before what takes seconds to import
    from flows.compare import compare as compare_devices
    from flows.compare import devices_of

    asked = devices_of(devices)
    for device in sorted(asked, key=DOCKER_CPU.__ne__):  # it is looked for without torch
        _refuse_early(kg, RunConfig.from_flat({"baselines": ["none"], **values, "device": device}))
    agreement = compare_devices(kg, asked, values, click.echo)
    click.echo(agreement.table())
    return REJECTED if agreement.outside else ACCEPTED


@cli.command()
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


@cli.command()
@click.argument("run")
def track(run: str) -> int:
    """Deliver to MLflow what it has not got of RUN. Exit code 1: it does not answer."""
    from tasks.home import check_store, find_run, run_folder

    check_store()
    name = find_run(run)  # before what takes seconds to import
    _prepare_environment()
    from tasks.tracking.tracker import catch_up

    told, left = catch_up(run_folder(name))
    for sentence in [*told, left or f"MLflow has everything of {run}."]:
        click.echo(sentence, err=bool(left))
    return FAILED if left else ACCEPTED


@cli.command()
@click.option(
    "--port",
    type=_PORT,
    default=5001,
    show_default=True,
    help="Port on 127.0.0.1; macOS itself listens on 5000.",
)
def ui(port: int) -> int:
    """Open MLflow's UI on the product's own store."""
    from tasks.home import check_store, store_uri

    check_store()
    uri = store_uri()
    if uri.lower().startswith(("http://", "https://")):
        raise InputError(
            f"MLFLOW_TRACKING_URI {uri}: is a server, with a UI of its own at that address. Open it"
            " in a browser."
        )
    _prepare_environment()
    click.echo(f"MLflow's UI on {uri}: http://127.0.0.1:{port}  (Ctrl-C ends it)")
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | os.environ
    arguments = [
        "server",
        "--backend-store-uri",
        uri,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    os.execve(sys.executable, [sys.executable, "-P", "-m", "mlflow", *arguments], environment)


@cli.command("up")
@click.option(
    "--prefect-port", type=_PORT, help="Port of the Prefect server on 127.0.0.1.  [default: 4200]"
)
@click.option(
    "--mlflow-port", type=_PORT, help="Port of the MLflow server on 127.0.0.1.  [default: 5001]"
)
def start_services(prefect_port: int | None, mlflow_port: int | None) -> int:
    """Start Prefect server, MLflow server and workers in the background; what runs already is left
    alone.
    """
    from flows.services.up import up

    up(prefect_port, mlflow_port, click.echo)
    return ACCEPTED


@cli.command("down")
def stop_services() -> int:
    """Stop what `hgt up` started."""
    from flows.services.down import down

    down(click.echo)
    return ACCEPTED


@cli.command("status")
def tell_services() -> int:
    """Say which services run, and where. Exit code 1: not all do."""
    from flows.services.status import status

    return ACCEPTED if status(click.echo) else FAILED


def main() -> None:
    """The entry point: every error that we explain ourselves is one sentence on stderr."""
    if sys.argv[1:2] == ["train"] or _IN_SESSION in os.environ:
        from flows import session

        if not session.inside():
            sys.exit(session.run(sys.argv[1:]))
        session.enter()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a terminal that cannot show a name ends nothing
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        sys.exit(cli.main(prog_name="hgt", standalone_mode=False) or 0)
    except HgtError as error:
        click.echo(f"hgt: {error}", err=True)
        sys.exit(error.exit_code if error.exit_code in (FAILED, BAD_INPUT) else FAILED)
    except click.ClickException as error:
        error.message = printable(error.message, "\n\t")
        error.show()
        sys.exit(BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except OSError as error:
        if not is_disk_full(error):
            raise
        from tasks.reporting import silence

        click.echo(
            f"hgt: there is no room for what it prints ({error.strerror or error}). Make room, or"
            " send it elsewhere.",
            err=True,
        )
        silence(sys.stdout)  # or Python would say so again when it ends
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
