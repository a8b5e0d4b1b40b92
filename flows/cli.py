"""The command line `hgt`: its group of commands and its entry point.

Exit codes are in `flows/commands/exit_code.py`.
"""

from __future__ import annotations

import io
import os
import sys

import click

from flows.commands import analysis, services
from flows.commands.exit_code import BAD_INPUT, FAILED, INTERRUPTED
from flows.commands.train import train
from hgt.errors import HgtError, is_disk_full, printable

_IN_SESSION = "HGT_SESSION_PARENT"  # equals flows/session.py's, which `hgt --help` does not import
_COMMANDS = (
    train,
    analysis.demo_graph,
    analysis.validate,
    analysis.plan,
    analysis.compare,
    analysis.doctor,
    services.track,
    services.ui,
    services.start_services,
    services.stop_services,
    services.tell_services,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def cli() -> None:
    """HGT embeddings of a knowledge graph, on your own machine."""


for _command in _COMMANDS:
    cli.add_command(_command)


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
