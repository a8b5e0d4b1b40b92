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
    """Train HGT embeddings of a knowledge graph on your own machine."""


for _command in _COMMANDS:
    cli.add_command(_command)


def main() -> None:
    """The entry point. Prints each error of this product as one sentence on stderr."""
    if sys.argv[1:2] == ["train"] or _IN_SESSION in os.environ:
        from flows import session

        if not session.inside():
            sys.exit(session.run(sys.argv[1:]))
        session.enter()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a terminal that cannot show a character raises no error
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
            f"hgt: the output could not be written ({error.strerror or error}). Free disk space, or"
            " redirect the output.",
            err=True,
        )
        silence(sys.stdout)  # otherwise Python reports it again at exit
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
