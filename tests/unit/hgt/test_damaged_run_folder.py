"""What lies in a run folder belongs together: whatever else lies there, the programs say so in one
sentence, and wait for nothing.
"""

import json
import os
import shutil

import pyarrow.parquet
import pytest
import torch

from hgt.diagnosis.agreement import compare_runs
from hgt.embeddings.table import Embeddings
from hgt.errors import InputError
from hgt.memory.plan import plan_memory, probe_for_plan
from hgt.programs.baselines import compare_run
from hgt.programs.embedding import embed_run
from hgt.programs.evaluation import evaluate_run
from hgt.programs.table_evaluation import evaluate_table
from hgt.programs.training import train_run
from hgt.run.events import EventWriter
from hgt.run.folder import RunFolder
from tasks.execution.segments import Segment, append_segment, read_segments
from tests.unit.hgt.programs.test_training import make_run

DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_kg):
    """A run of one epoch, evaluated and compared."""
    values = {"device": "cpu", "num_epochs": 1, "contrastive_weight": 0.0, "baselines": ["random"]}
    folder = make_run(tmp_path_factory.mktemp("run") / "whole", small_kg, **values)
    config = folder.load_config()
    plan = plan_memory(folder.load_graph(), config, probe_for_plan(config))
    plan.save(folder.plan)
    append_segment(folder, Segment("native", "cpu", 0, None, "asked for"))
    for work in (train_run, embed_run, evaluate_run, compare_run):
        worked(work, folder)
    return folder


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def worked(work, folder):
    with folder.locked():
        writer = EventWriter(folder.events)
        try:
            work(folder, writer)
        finally:
            writer.close()


def train(folder):
    worked(train_run, folder)


def embed(folder):
    worked(embed_run, folder)


def evaluate(folder):
    worked(evaluate_run, folder)


def compare(folder):
    worked(compare_run, folder)


def agree(folder):
    compare_runs(folder, folder, ("cpu", "cpu"))


def place(folder):
    read_segments(folder)
    folder.load_plan()


def refusal(work, folder, file):
    with pytest.raises(InputError) as refused:
        work(folder)
    said = str(refused.value)
    assert str(folder.path) in said, file
    assert said.isprintable()
    return said


def write(text):
    def damage(path):
        if path.suffix != ".parquet":
            path.write_text(text)
            return
        table = pyarrow.parquet.read_table(path)  # its own metadata
        table = table.replace_schema_metadata({b"kg-hgt-embeddings": text.encode()})
        pyarrow.parquet.write_table(table, path)

    return damage


def folder_there(path):
    path.unlink()
    path.mkdir()


def pipe_there(path):
    path.unlink()
    os.mkfifo(path)


def device_there(path):
    path.unlink()
    path.symlink_to("/dev/zero")


DAMAGES = {
    "folder": folder_there,
    "pipe": pipe_there,
    "device": device_there,
    "list": write("[1]"),
    "other values": write(
        '{"graph_hash": [], "decoder": {}, "parameters": "x", "form": 3, "checks": 3}'
    ),
    "nested": write(DEEP),
}
READERS = {
    "config.json": train,
    "plan.json": place,
    "segments.json": place,
    "split.json": embed,
    "split.safetensors": embed,
    "graph/graph.json": embed,
    "report/validation.json": compare,
    "embeddings/embeddings.parquet": evaluate,
    "embeddings/relations.parquet": evaluate,
}


@pytest.mark.parametrize("damage", ["pipe", "list", "other values", "nested"])
@pytest.mark.parametrize("file", READERS)
def test_a_damaged_file_is_named(run, file, damage):
    DAMAGES[damage](run.path / file)
    refusal(READERS[file], run, file)


@pytest.mark.parametrize("damage", ["folder", "pipe", "device"])
@pytest.mark.parametrize(
    ("file", "work"),
    [
        ("events.jsonl", train),
        ("graph/nodes.parquet", embed),
        ("graph/facts.safetensors", embed),
        ("checkpoints/checkpoint-00001-00000.safetensors", None),
    ],
)
def test_what_is_no_file_is_not_waited_for(run, file, work, damage):
    DAMAGES[damage](run.path / file)
    if work is not None:
        refusal(work, run, file)
    elif damage != "folder":
        train(run)  # from the checkpoint before
        embed(run)


def test_events_without_their_figures_are_named(run):
    whole = run.events.read_text()
    for line, work in (
        ('{"event": "epoch"}', train),
        ('{"event": "epoch", "epoch": "1"}', agree),
        ('{"event": "epoch", "epoch": 1, "loss": []}', evaluate),
        ('{"event": "start", "num_batches": null}', agree),
        ('{"event": ["epoch"]}', train),
    ):
        run.events.write_text(whole + line + "\n")
        assert "events.jsonl: the line of" in refusal(work, run, line)
    for broken in ("", DEEP, "[1]", "no json", '{"time": 3}'):  # as a killed writer leaves it
        run.events.write_text(whole + broken + "\n")
        agree(run)
    run.events.write_text("")
    assert "has no training" in refusal(agree, run, "events.jsonl")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory, small_kg, whole):
    """The same graph and parameters but another seed: another split."""
    values = {
        name: whole.load_config().to_flat()[name]
        for name in ("device", "num_epochs", "contrastive_weight")
    }
    folder = make_run(
        tmp_path_factory.mktemp("run") / "stranger",
        small_kg,
        baselines=["random"],
        seed=1,
        **values,
    )
    for work in (train_run, embed_run, evaluate_run):
        worked(work, folder)
    return folder


def test_another_split_in_place_of_the_runs_own_is_refused_by_every_program(run, stranger):
    shutil.copy(stranger.split, run.split)
    for work in (train, embed, evaluate, compare):
        assert "but the run began with another one" in refusal(work, run, "split.safetensors")
    with pytest.raises(InputError, match="but the run began with another one"):
        run.load_split(
            run.load_graph(), run.load_config().split
        )  # as a resume does, before there is a checkpoint
    shutil.copy(stranger.split.with_suffix(".json"), run.split.with_suffix(".json"))
    for work in (train, embed, evaluate, compare):
        said = refusal(work, run, "split.json")
        assert f"was made for split {whole_hash(run)[:16]}, but this run has split" in said
    run.split.with_suffix(".json").unlink()
    assert "Only runs of earlier versions have none" in refusal(train, run, "split.json")


def whole_hash(run):
    return json.loads((run.report / "validation.json").read_text())["split_hash"]


@pytest.mark.parametrize("part", ["checkpoints", "embeddings", "report"])
def test_another_runs_files_are_refused(run, stranger, part):
    shutil.rmtree(run.path / part)
    shutil.copytree(stranger.path / part, run.path / part)
    work = {"checkpoints": embed, "embeddings": evaluate, "report": compare}[part]
    assert "Start a new run, or give the" in refusal(work, run, part)
    if part == "checkpoints":
        refusal(train, run, part)


def test_a_table_is_judged_on_the_split_that_it_names(run, small_kg):
    path, told = run.embeddings / "embeddings.parquet", []
    evaluate_table(path, small_kg, told.append)
    assert told == []
    table = Embeddings.load(path)
    table.origin["split_hash"] = "0" * 64
    table.save(run.embeddings)
    with pytest.raises(InputError, match="was trained on split 0000000000000000, but this version"):
        evaluate_table(path, small_kg)
    del table.origin["split_hash"]
    table.save(run.embeddings)
    evaluate_table(path, small_kg, told.append)
    assert "earlier version, which did not save its split" in told[0]


def test_the_split_hash_tells_every_split_from_every_other(run):
    graph = run.load_graph()
    split = run.load_split(graph, run.load_config().split)
    before = split.hash
    split.part[3] = (split.part[3] + 1) % 3
    assert split.hash != before
    assert (
        type(split)(
            split.facts,
            split.part,
            split.unsplit,
            torch.zeros(graph.total_nodes, dtype=torch.uint8),
        ).hash
        != split.hash
    )


@pytest.mark.parametrize(
    ("folder", "work"), [("report", evaluate), ("embeddings", embed), ("checkpoints", embed)]
)
def test_a_file_where_a_folder_should_be(run, folder, work):
    shutil.rmtree(run.path / folder)
    (run.path / folder).touch()
    if folder == "report":
        embed(run)
    refusal(work, run, folder)
