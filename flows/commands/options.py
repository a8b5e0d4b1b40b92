"""The options of the commands. One option for every parameter in `hgt/config/`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hgt.config import parameters
from hgt.parameter import Parameter


class UserPath(click.Path):
    """A path with ~ replaced: zsh keeps the ~ of `--kg=~/kg.csv` and `make train KG=~/kg.csv`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from tasks.home import user_path

        return user_path(super().convert(value, param, ctx))


PATH = UserPath(path_type=Path)
PORT = click.IntRange(1, 65535)
OVERWRITE = click.option(
    "--overwrite",
    is_flag=True,
    help="Replace an existing output file. Input files are never replaced.",
)


def with_parameters(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with an option for every parameter. Omitted options keep their defaults."""
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
    again = "; repeat the option for several" if p.is_list else ""
    return (
        f"{p.help[0].upper()}{p.help[1:]}{again}.  [default:"
        f" {default}{' ' + p.unit if p.unit and default != 'none' else ''}]"
    )


def given_parameters(options: dict[str, Any]) -> dict[str, Any]:
    """The parameters that the command line sets."""
    return {
        name: list(v) if isinstance(v, tuple) else v
        for name, v in options.items()
        if v not in (None, ())
    }
