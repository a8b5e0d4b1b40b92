"""Every output of every command: refused in the first second where it would destroy something,
before any server starts.
"""

import os

import pytest

from flows import session
from hgt.config import RunConfig

KG = "x_type,x_id,relation,y_type,y_id\ndrug,1,treats,disease,2\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a graph under several names, somebody's file, and an HGT_HOME with a run."""
    monkeypatch.setenv("HGT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(session, "inside", lambda: True)  # in this process, where it is fast
    monkeypatch.setattr(session, "enter", lambda: None)
    (tmp_path / "home" / "runs" / "old" / "graph").mkdir(parents=True)
    RunConfig().save(tmp_path / "home" / "runs" / "old" / "config.json")
    (tmp_path / "home" / "runs" / "theirs").mkdir()
    (tmp_path / "home" / "runs" / "theirs" / "report").touch()
    (tmp_path / "home" / "mlflow.db").touch()
    (tmp_path / "notes.csv").write_text("somebody's")
    (tmp_path / "e.relations.parquet").write_text(KG)
    for name in ("kg.csv", "nodes.csv", "edges.csv"):
        (tmp_path / name).write_text(KG)
    (tmp_path / "link.csv").symlink_to("kg.csv")
    (tmp_path / "hard.csv").hardlink_to(tmp_path / "kg.csv")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "part-0.csv").symlink_to(tmp_path / "kg.csv")
    (tmp_path / "PAIR").mkdir()
    (tmp_path / "PAIR" / "EDGES.CSV").write_text("x_index,y_index,relation\n0,1,treats\n")
    (tmp_path / "PAIR" / "Nodes.TSV").write_text(
        "node_index\tnode_id\tnode_type\n0\ta\tdrug\n1\tb\tdisease\n"
    )
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sentence(refusal):
    """What a command line is refused with: one sentence."""

    def of(arguments):
        (said,) = refusal(arguments).strip().splitlines()
        return said

    return of


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train --kg kg.csv --output-csv kg.csv", "which this command reads"),
        ("train --kg kg.csv --output-csv ./no/../kg.csv", "which this command reads"),
        ("train --kg kg.csv --output-csv link.csv", "which this command reads"),
        ("train --kg link.csv --output-csv kg.csv", "which this command reads"),
        ("train --kg kg.csv --output-csv hard.csv", "which this command reads"),
        ("train --kg edges.csv --output-csv nodes.csv", "which this command reads"),
        ("train --kg PAIR/EDGES.CSV --output-csv PAIR/Nodes.TSV", "which this command reads"),
        ("train --kg parts --output-csv kg.csv", "which this command reads"),
        ("train --kg . --output-csv new.csv", "has files of its own"),
        ("train --kg e.relations.parquet --output-csv e.csv", "which this command reads"),
        ("train --kg kg.csv --output-csv /dev/null", "is a device"),
        ("train --kg kg.csv --output-csv /proc/none.csv", "belongs to the system"),
        ("train --kg kg.csv --output-csv fifo", "is a pipe"),
        ("train --kg kg.csv --output-csv e.parquet", "end in .csv"),
        ("train --kg kg.csv --output-csv home/mlflow.db", "or keeps itself"),
        ("train --kg kg.csv --output-csv home/runs/old/e.csv", "files of its own"),
        ("train --kg kg.csv --output-csv home/runs/e.csv", "files of its own"),
        ("train --resume old --output-csv home/runs/old/config.json", "files of its own"),
        ("demo-graph home/mlflow.db", "or keeps itself"),
        ("demo-graph home/runs/old/kg.csv", "files of its own"),
        ("demo-graph /dev/null", "is a device"),
        ("demo-graph fifo", "is a pipe"),
        ("demo-graph .", "is a folder"),
    ],
)
def test_never(here, sentence, arguments, words, overwrite):
    assert words in sentence(arguments.split() + overwrite)
    assert (here / "kg.csv").read_text() == (here / "nodes.csv").read_text() == KG


@pytest.mark.parametrize(
    "arguments",
    [
        "train --kg kg.csv --output-csv notes.csv",
        "train --kg kg.csv --output-csv e.csv",
        "train --resume old --output-csv notes.csv",
        "demo-graph kg.csv",
    ],
)
def test_not_without_being_asked_to(here, sentence, arguments):
    said = sentence(arguments.split())
    assert "is there already" in said
    assert "--overwrite" in said
    assert (here / "notes.csv").read_text() == "somebody's"
    assert (here / "kg.csv").read_text() == KG


def test_a_new_run_takes_nobodys_folder(here, sentence):
    said = sentence(["train", "--kg", "kg.csv", "--run-id", "theirs"])
    assert "contains files of no run (report)" in said
    (here / "home" / "runs" / "file").touch()
    said = sentence(["train", "--kg", "kg.csv", "--run-id", "file"])
    assert "is no folder" in said
