"""Commands for the MLflow store and the services: `track`, `ui`, `up`, `down` and `status`."""

from __future__ import annotations

import os
import sys

import click

from flows.commands.environment import prepare_environment
from flows.commands.exit_code import ACCEPTED, FAILED
from flows.commands.options import PORT
from hgt.errors import InputError


@click.command()
@click.argument("run")
def track(run: str) -> int:
    """Deliver missing entries of RUN to MLflow.

    Exit code 1: MLflow does not answer.
    """
    from tasks.home import check_store, find_run, run_folder

    check_store()
    name = find_run(run)  # before slow imports
    prepare_environment()
    from tasks.tracking.tracker import catch_up

    messages, left = catch_up(run_folder(name))
    for sentence in [*messages, left or f"MLflow has all entries of {run}."]:
        click.echo(sentence, err=bool(left))
    return FAILED if left else ACCEPTED


@click.command()
@click.option(
    "--port",
    type=PORT,
    default=5001,
    show_default=True,
    help="Port on 127.0.0.1. macOS itself uses 5000.",
)
def ui(port: int) -> int:
    """Start MLflow's web page for this store."""
    from tasks.home import check_store, store_uri

    check_store()
    uri = store_uri()
    if uri.lower().startswith(("http://", "https://")):
        raise InputError(
            f"MLFLOW_TRACKING_URI {uri}: is a server with its own web page. Open that address in a"
            " browser."
        )
    prepare_environment()
    click.echo(f"MLflow's UI on {uri}: http://127.0.0.1:{port}  (Ctrl-C stops it)")
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


@click.command("up")
@click.option(
    "--prefect-port", type=PORT, help="Port of the Prefect server on 127.0.0.1.  [default: 4200]"
)
@click.option(
    "--mlflow-port", type=PORT, help="Port of the MLflow server on 127.0.0.1.  [default: 5001]"
)
def start_services(prefect_port: int | None, mlflow_port: int | None) -> int:
    """Start Prefect, MLflow and the workers.

    They run in the background. Running services stay as they are.
    """
    from flows.services.up import up

    up(prefect_port, mlflow_port, click.echo)
    return ACCEPTED


@click.command("down")
def stop_services() -> int:
    """Stop the services that `hgt up` started."""
    from flows.services.down import down

    down(click.echo)
    return ACCEPTED


@click.command("status")
def tell_services() -> int:
    """Show which services run, and where.

    Exit code 1: some do not run.
    """
    from flows.services.status import status

    return ACCEPTED if status(click.echo) else FAILED
