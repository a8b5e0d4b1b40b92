"""The command `hgt train`: starts or resumes a run, and returns its exit code."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from flows.commands.environment import prepare_environment
from flows.commands.exit_code import ACCEPTED, FAILED, INTERRUPTED, OUTPUT_CLOSED, REJECTED
from flows.commands.options import OVERWRITE, PATH, given_parameters, with_parameters
from hgt.config import DOCKER_CPU, RunConfig
from hgt.errors import HgtError, InputError, TrainingDiverged


@click.command()
@click.option(
    "--kg",
    type=PATH,
    metavar="FILE",
    help="Knowledge graph with PrimeKG's columns: CSV, Parquet or a folder of part files.",
)
@click.option(
    "--resume",
    metavar="RUN",
    help="Continue this run (id or folder) from its last checkpoint, instead of --kg.",
)
@click.option(
    "--run-id", metavar="NAME", help="Name of the new run.  [default: made from date and time]"
)
@click.option(
    "--output-csv",
    type=PATH,
    metavar="FILE",
    help="Also write the embeddings as CSV, and the relations to a file beside it.",
)
@OVERWRITE
@with_parameters
def train(
    kg: Path | None,
    resume: str | None,
    run_id: str | None,
    output_csv: Path | None,
    overwrite: bool,
    **given: Any,
) -> int:
    """Train and validate embeddings of FILE.

    Logs the run to MLflow. Exit code 3: validation rejects the embeddings.
    """
    from tasks.home import check_home, check_new_run, check_store, find_run, new_run_id
    from tasks.outputs import claim_embeddings_csv, refuse_used_run_folder

    values = given_parameters(given)
    config = RunConfig.from_flat(values)
    check_home()
    check_store()
    if (kg is None) == (resume is None):
        raise InputError("Give either --kg FILE or --resume RUN.")
    if run_id is not None:
        if resume:
            raise InputError(
                "Give either --run-id, the name of a new run, or --resume, the run to continue."
            )
        check_new_run(run_id)
        refuse_used_run_folder(run_id)
    run = find_run(resume) if resume else run_id or new_run_id()
    if output_csv is not None:
        claim_embeddings_csv(output_csv, kg, resume and run, overwrite)
    refuse_before_training(kg, _kept(run, values) if resume else config)
    names = {"resume": run} if resume else {"run_id": run, "kg": str(kg)}
    output = {"output_csv": output_csv and str(output_csv), "overwrite": overwrite or None}
    try:
        return _run_flow(run, {**names, **output, **values})
    except (*_interruptions(), BrokenPipeError) as error:
        from tasks.reporting import OutputClosed, silence

        is_closed = isinstance(error, OutputClosed | BrokenPipeError)
        if is_closed:
            silence(sys.stdout)
        why = ", because the reader of the output closed the pipe" if is_closed else ""
        try:
            click.echo(f"Interrupted{why}. {_how_to_continue(run)}", err=True)
        except BrokenPipeError:  # 2>&1 | head
            silence(sys.stderr)
        return OUTPUT_CLOSED if is_closed else INTERRUPTED


def _kept(run: str, values: dict[str, Any]) -> RunConfig:
    """The configuration of a resumed run.

    run: id of the run
    values: parameters that the resume changes
    """
    from tasks.home import config_file

    return RunConfig.from_flat(RunConfig.load(config_file(run)).to_flat() | values)


def _how_to_continue(run: str) -> str:
    from tasks.home import run_folder

    return (
        f"Continue with: hgt train --resume {run}"
        if run_folder(run).config.exists()
        else "Nothing was trained yet."
    )


def refuse_before_training(kg: Path | None, config: RunConfig) -> None:
    """Check graph and device before any server starts. Raises InputError or HgtError."""
    if kg is not None:
        from hgt.graph.extraction import refuse_early

        refuse_early(kg, config.graph)
    if config.execution.device == DOCKER_CPU:
        from tasks.execution.readiness import refuse_unavailable

        refuse_unavailable()
    from hgt.device.probe import probe_device
    from hgt.memory.plan import memory_limit

    probe_device(config.execution.compute_device, memory_limit(config))


def _interruptions() -> tuple[type[BaseException], ...]:
    from prefect.exceptions import TerminationSignal

    return (KeyboardInterrupt, TerminationSignal)


def _run_flow(run: str, arguments: dict[str, Any]) -> int:
    prepare_environment()
    from flows.hgt_embeddings import REJECTED as REJECTED_NAME
    from flows.hgt_embeddings import hgt_embeddings
    from tasks.execution.pool import NO_ANSWER
    from tasks.home import run_folder

    click.echo(f"run {run} in {run_folder(run).path}")
    try:
        state = hgt_embeddings(**arguments, return_state=True)
    except NO_ANSWER as error:
        server = os.environ.get("PREFECT_API_URL", "(temporary)")
        raise HgtError(
            f"The Prefect server {server} does not answer ({type(error).__name__}). Run `hgt up`."
            f" {_how_to_continue(run)}"
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
            else f"hgt: {said} {_how_to_continue(run)}"
        ),
        err=True,
    )
    return FAILED
