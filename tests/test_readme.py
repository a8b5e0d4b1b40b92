"""The README is true: its parameter table is the code's, and its tree is the checkout's."""

import re
import subprocess

from click.testing import CliRunner

from flows.cli import cli
from hgt.config import parameters
from tests.conftest import CHECKOUT

README = (CHECKOUT / "README.md").read_text()


def default_text(p):
    if isinstance(p.default, bool):
        return "yes" if p.default else "no"
    if p.is_list and p.default:
        return ", ".join(p.default)
    return "none" if p.default is None or p.default == () else f"{p.default:g}" if isinstance(p.default, float) else p.default


def table_row(p):
    default = default_text(p)
    return f"| `{p.name}` | {default} | {p.unit} | {p.help.replace('|', ',')} |"


def test_the_parameter_table_is_that_of_the_code():
    missing = [table_row(p) for p in parameters() if table_row(p) not in README]
    assert not missing, "put these rows into the README:\n" + "\n".join(missing)
    assert README.count("\n| `") == len(list(parameters()))


def test_every_parameter_is_an_option_with_its_default():
    text = " ".join(CliRunner().invoke(cli, ["train", "--help"]).output.split())
    for p in parameters():
        assert f"--{p.name.replace('_', '-')} " in text
        if p.default not in (None, ()):
            assert f"[default: {default_text(p)}{' ' + p.unit if p.unit else ''}]" in text


def test_the_tree_names_every_module():
    tracked = subprocess.run(["git", "ls-files", "hgt", "tasks", "flows"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    tree = README.split("## The tree")[1]
    for path in tracked.split():
        if not path.endswith("__init__.py"):
            assert re.search(rf"^\s+{re.escape(path.rsplit('/', 1)[1])}\s+\w", tree, re.MULTILINE), f"{path} is not in the README's tree"
