"""The pages are short and true: commands, parameters, checks, tree and links are the checkout's."""

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from flows.cli import cli
from flows.commands import exit_code
from hgt.config import CHECKS, REQUIRED_CHECKS, parameters
from tests import parameters_page
from tests.conftest import CHECKOUT

LIST = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
TRACKED = subprocess.run(LIST, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
FILES = sorted(path for path in TRACKED.split() if (CHECKOUT / path).is_file())
PAGES = {path: (CHECKOUT / path).read_text() for path in FILES if path.endswith(".md")}
COMMANDS = "| command | what it does |"
EXIT_CODES = "| exit code of `hgt train` | meaning |"
# Options of Prefect, Docker and uv.
FOREIGN = {"--help", "--type", "--no-prompt", "--all", "--secret", "--upgrade"}


def lines(page, code):
    """The lines of a page's code blocks, or all others."""
    inside = False
    for line in PAGES[page].splitlines():
        if line.startswith("```"):
            inside = not inside
        elif inside == code:
            yield line


def code_of(page):
    """What a page shows as code, in blocks and in sentences."""
    inline = re.findall(r"`([^`\n]+)`", PAGES[page])
    return "\n".join([*inline, *lines(page, code=True)])


def links(page):
    """(file of the checkout, heading or "") of every link of a page that stays in the checkout."""
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if not target.startswith("https://"):
            name, _, heading = target.partition("#")
            path = (CHECKOUT / page).parent / name if name else CHECKOUT / page
            yield path.resolve(), heading


def first_cells(page, head):
    """The first cells of the table below this head."""
    rows = PAGES[page].split(head)[1].split("\n\n")[0].splitlines()[2:]
    return [row.split("|")[1].strip().strip("`") for row in rows]


def anchors(page):
    """The headings of a page as GitHub links to them."""
    headings = [s.lstrip("#").strip().lower() for s in lines(page, code=False) if s.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short_and_narrow(page):
    assert len(PAGES[page].splitlines()) <= (250 if page == "README.md" else 299)
    prose = [line for line in lines(page, code=False) if not line.startswith("|")]
    assert not [line for line in prose if len(line) > 100 and " " in line.strip()]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for path, heading in links(page):
        assert path.exists(), f"{page}: {path}"
        if heading:
            assert heading in anchors(path.relative_to(CHECKOUT).as_posix()), f"{page}: {heading}"


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_names_exist(page):
    for path in re.findall(r"`((?:hgt|tasks|flows|tests|docker|\.ci)/[\w./-]*)`", PAGES[page]):
        assert (CHECKOUT / path).exists(), f"{page}: {path}"


def test_every_page_can_be_reached_from_the_readme():
    seen, ahead = set(), ["README.md"]
    while ahead:
        page = ahead.pop()
        if page in PAGES and page not in seen:
            seen.add(page)
            ahead += [path.relative_to(CHECKOUT).as_posix() for path, _ in links(page)]
    assert seen == set(PAGES)


def test_no_figure_stands_in_two_places():
    """Rows of tables, lines of output, and means with their deviations."""
    found = Counter()
    for page, text in PAGES.items():
        rows = [s.strip() for code in (False, True) for s in lines(page, code)]
        with_figure = [s for s in rows if re.search(r"\d\.\d{2}", s)]
        found.update(s for s in with_figure if s.startswith("|") or "  " in s)
        found.update(set(re.findall(r"\d\.\d{3,} \+- \d\.\d{3,}", text)))
    assert found
    assert not [row for row, times in found.items() if times > 1]


def test_the_page_of_parameters_is_made_of_the_code():
    remedy = "run `.venv/bin/python -m tests.parameters_page`"
    assert parameters_page.PAGE.read_text() == parameters_page.page(), remedy


def test_the_page_of_parameters_has_each_once_and_twelve_first():
    named = re.findall(r"^\| `(\w+)` ", PAGES["hgt/PARAMETERS.md"], re.MULTILINE)
    assert sorted(named) == sorted(p.name for p in parameters())
    assert len(first_cells("hgt/PARAMETERS.md", "first\n\n")) == 12


def test_a_parameter_without_a_topic_is_refused(monkeypatch):
    names = " ".join(p.name for p in parameters() if p.name != "seed")
    monkeypatch.setattr(parameters_page, "TOPICS", {"All": names})
    with pytest.raises(ValueError, match="seed"):
        parameters_page.page()


def test_every_parameter_is_an_option_with_its_default():
    text = " ".join(CliRunner().invoke(cli, ["train", "--help"]).output.split())
    for p in parameters():
        assert f"--{p.name.replace('_', '-')} " in text
        if p.default not in (None, ()):
            default = f"{parameters_page.default_text(p)} {p.unit}".strip()
            assert f"[default: {default}]" in text


def test_the_table_of_commands_is_that_of_the_command_line():
    shown = first_cells("flows/README.md", COMMANDS)
    assert {row.split()[1] for row in shown} == set(cli.commands)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_and_options_that_a_page_names_exist(page):
    code = code_of(page)
    of_commands = [p for command in cli.commands.values() for p in command.params]
    options = {option for p in of_commands for option in p.opts + p.secondary_opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", code)) <= options | FOREIGN
    commands = re.findall(r"(?:^|[/\s])hgt ([a-z][a-z-]+)\b(?!:)", code, re.MULTILINE)
    assert set(commands) <= set(cli.commands)
    targets = re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:^|\s)make ([a-z-]+)", code, re.MULTILINE)) <= set(targets)


def test_the_exit_codes_are_those_of_the_command_line():
    names = ("ACCEPTED", "FAILED", "BAD_INPUT", "REJECTED", "INTERRUPTED", "OUTPUT_CLOSED")
    shown = first_cells("flows/README.md", EXIT_CODES)
    assert sorted(map(int, shown)) == sorted(getattr(exit_code, name) for name in names)


def test_the_table_of_checks_is_that_of_the_code_those_that_decide_first():
    shown = first_cells("hgt/evaluation/README.md", "| check | figure |")
    assert set(shown[: len(REQUIRED_CHECKS)]) == set(REQUIRED_CHECKS)
    assert sorted(shown) == sorted(CHECKS)


def test_the_printed_checks_have_the_names_that_the_code_gives_them():
    """Every check's line of output is in README.md or in the evaluation's page."""
    files = [f"hgt/evaluation/{name}_checks.py" for name in ("geometry", "graph")]
    code = "".join((CHECKOUT / file).read_text() for file in files)
    code = code.replace("{node_type}", "disease")
    shown = PAGES["README.md"] + PAGES["hgt/evaluation/README.md"]
    line = r"^(\S.{1,33}?)\s{2,}\S+  \S.*\b(?:pass|advice|FAIL)\s"
    printed = re.findall(line, shown, re.MULTILINE)
    assert len(printed) == len(CHECKS)
    assert not [name for name in printed if f'"{name}"' not in code]


def test_the_table_of_benchmarks_names_every_program():
    shown = first_cells("tests/bench/README.md", "| program | what it measures |")
    modules = (CHECKOUT / "tests/bench").glob("*.py")
    assert set(shown) == {p.stem for p in modules if "__main__" in p.read_text()}


def test_the_tree_is_that_of_the_checkout():
    """Every folder that holds modules, and no other; of the tests their rooms."""
    folders = {p.as_posix() for f in FILES if f.endswith((".py", "file")) for p in Path(f).parents}
    rooms = "unit|end_to_end|services|docker|mps|bench"
    shape = rf"(hgt|tasks|flows|docker)\b.*|tests(/({rooms}))?"
    tree, top = set(), ""
    for line in PAGES["README.md"].split("## The tree")[1].split("```")[1].strip().splitlines():
        indent, name = re.fullmatch(r"( *)(\S+)/\s+\w.*", line).groups()
        top = top if indent else name
        tree.add(f"{top}/{name}" if indent else name)
    assert tree == {f for f in folders if re.fullmatch(shape, f)}
