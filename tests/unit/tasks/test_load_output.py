"""What the task `load` says: lines and rows, what is left out, one line for each kind of
warning.
"""

import contextlib

import pytest

from hgt.config import RunConfig
from tasks.home import run_folder
from tasks.led_run import LedRun
from tasks.load import load


class Untold:
    """A tracker that writes nothing."""

    def of_a_new_run(self):
        return contextlib.nullcontext()

    def __getattr__(self, name):
        return lambda *arguments: None


@pytest.fixture
def said(tmp_path, monkeypatch):
    def loading(rows):
        lines = []
        monkeypatch.setenv("HGT_HOME", str(tmp_path))
        monkeypatch.setattr("tasks.load.say", lines.append)
        (tmp_path / "kg.csv").write_text(
            "x_type,x_id,relation,y_type,y_id\n"
            + "".join(",".join(map(str, row)) + "\n" for row in rows)
        )
        load.fn(LedRun(run_folder("run"), RunConfig(), tmp_path / "kg.csv"), Untold())
        return lines

    return loading


def test_lines_rows_and_nodes_left_out_are_said(said):
    lines = said(
        [
            *(("drug", i, "treats", "disease", i % 7) for i in range(40)),
            ("drug", "x", "like", "drug", "x"),
        ]
    )
    assert lines[0].endswith("kg.csv: 42 lines = 1 header + 41 rows")
    assert (
        "1 node(s) are left out, because their rows connect them with nothing but themselves:"
        " (drug, x)" in lines
    )
    assert not any("WARNING" in line for line in lines)


def test_warnings_of_one_kind_are_one_line(said):
    rows = [("drug", i, f"r{j}", "disease", i % 5) for j in range(300) for i in range(1 + j % 9)]
    lines = said([*rows, *(("drug", i, "treats", "disease", i) for i in range(40))])
    (warning,) = [line for line in lines if "WARNING" in line]
    assert warning.startswith(
        "WARNING: 300 edge types have 1,491 fact(s), each too few to hold out 0.05 for validation"
        " and 0.05 for the test"
    )
    assert warning.count(" - disease (9)") == 5
    assert "the 5 largest are" in warning
    assert sum(line.count("\n") + 1 for line in lines) < 60
