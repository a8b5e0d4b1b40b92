"""The trainer program: resumed equals uninterrupted, kills at any moment, damaged and foreign
checkpoints.
"""

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import safetensors
import torch

from hgt.config import RunConfig
from hgt.errors import CheckpointError, HgtError
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import split_facts
from hgt.programs.training import Training, train_run
from hgt.reading.edge_table import read_edge_table
from hgt.run.checkpoint import best_checkpoint, load_checkpoint, load_newest
from hgt.run.events import EventReader, EventWriter, epochs_by_number
from hgt.run.folder import RunFolder
from hgt.run.program import run_program
from hgt.training.step_form import StepForm
from tests.conftest import CHECKOUT, SMALL, wait_for
from tests.planned import made_up_plan


def make_run(path, kg, **values):
    config = RunConfig.from_flat(SMALL | {"num_epochs": 3, "contrastive_weight": 0.5} | values)
    graph = KnowledgeGraph.from_edge_table(read_edge_table(kg), config.graph)
    folder = RunFolder(path)
    graph.save(folder.graph)
    split_facts(graph, config.split).save(folder.split, graph)
    config.save(folder.config)
    return folder


def train_here(folder):
    writer = EventWriter(folder.events)
    try:
        Training(folder, writer).run()
    finally:
        writer.close()


def start_trainer(folder, **extra):
    with folder.path.joinpath("log").open("a") as log:
        command = [sys.executable, "-m", "hgt.train", str(folder.path)]
        return subprocess.Popen(
            command, cwd=CHECKOUT, env=os.environ | extra, stdout=log, stderr=log
        )


def log_of(folder):
    return (folder.path / "log").read_text()


def losses(folder):
    return {
        n: (e["loss"], e["link_loss"], e["contrastive_loss"], e["val_mrr"])
        for n, e in epochs_by_number(folder.events).items()
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, small_kg):
    folder = make_run(tmp_path_factory.mktemp("run") / "whole", small_kg)
    train_here(folder)
    return folder


class Stop(Exception):
    """Stands for whatever ends a trainer."""


@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_resumed_equals_uninterrupted(tmp_path, small_kg, uninterrupted, stop_after):
    """Stopped after a number of steps (two make an epoch), with a checkpoint after each of them,
    then resumed.
    """
    folder = make_run(tmp_path / "run", small_kg, checkpoint_minutes=1e-9)
    stop_and_resume(folder, stop_after)
    assert_same_training(folder, uninterrupted)


def test_resumed_equals_uninterrupted_with_edges_drawn_for_each_step(
    tmp_path, small_kg, uninterrupted
):
    whole, folder = (
        make_run(tmp_path / name, small_kg, num_neighbors=3, checkpoint_minutes=1e-9)
        for name in ("whole", "run")
    )
    train_here(whole)
    stop_and_resume(folder, 3)
    assert_same_training(folder, whole)
    assert losses(whole)[1] != losses(uninterrupted)[1], "otherwise nothing was left out"


def stop_and_resume(folder, stop_after):
    steps = 0

    def stop(event, **values):
        nonlocal steps
        steps += event == "checkpoint" and values["epoch"] + values["batch"] > 0
        if steps == stop_after:
            raise Stop

    with pytest.raises(Stop):
        Training(folder, stop).run()
    train_here(folder)


def assert_same_training(folder, other):
    assert losses(folder) == losses(other)
    mine, whole = (best_checkpoint(f.checkpoints).tensors for f in (folder, other))
    assert mine.keys() == whole.keys()
    assert all(torch.equal(mine[name], whole[name]) for name in mine)


def has_told(folder, seen, trainer):
    """Whether the trainer has ended, or written more events than so many bytes of them."""
    told = folder.events.exists() and folder.events.stat().st_size > seen
    return told or trainer.poll() is not None


def kill_at_random_moments(folder, num_kills, rng):
    kills = 0
    while kills < num_kills:
        seen = folder.events.stat().st_size if folder.events.exists() else 0
        trainer = start_trainer(folder)
        wait_for(functools.partial(has_told, folder, seen, trainer), 60, "an event")
        time.sleep(rng.uniform(0, 0.8))  # two or three epochs
        if trainer.poll() is None:
            trainer.send_signal(signal.SIGKILL)
            kills += 1
        trainer.wait()
        if trainer.returncode == 0:
            return kills
    return kills


def test_kill_9_in_the_middle_of_an_epoch_loses_nothing(
    tmp_path, small_kg, uninterrupted, monkeypatch
):
    """tests/injected: the first trainer kills itself before its fourth step, two make an epoch."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = make_run(tmp_path / "run", small_kg)
    injected = {
        "HGT_INJECT": "kill 4 1",
        "HGT_INJECT_COUNT": str(tmp_path / "count"),
        "PYTHONPATH": str(CHECKOUT / "tests" / "injected"),
    }
    assert start_trainer(folder, **injected).wait(120) == -signal.SIGKILL, log_of(folder)
    train_here(folder)
    assert losses(folder) == losses(uninterrupted)
    assert sorted(losses(folder)) == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kill_9_at_random_moments_loses_nothing(tmp_path, small_kg):
    num_kills = 8
    # twice as long as the longest waits together
    values = {"num_epochs": 6 * num_kills, "min_batches_per_epoch": 6, "patience": 1000}
    whole, folder = (make_run(tmp_path / name, small_kg, **values) for name in ("whole", "run"))
    assert start_trainer(whole).wait(120) == 0, log_of(whole)
    kills = kill_at_random_moments(folder, num_kills, random.Random(num_kills))
    assert kills == num_kills, (
        "the run is too short for this machine: every kill must find a trainer at work"
    )
    assert start_trainer(folder).wait(120) == 0, log_of(folder)
    assert losses(folder) == losses(whole)
    assert sorted(losses(folder)) == list(range(1, values["num_epochs"] + 1))


def test_steps_are_worked_off_as_planned(tmp_path, small_kg, uninterrupted):
    """The form that the plan chose is what the trainer takes, and changes nothing in what it
    learns.
    """
    folder = make_run(tmp_path / "run", small_kg)
    form = StepForm(
        accumulation_steps=7,
        table_rows=64,
        group_edges=200,
        recompute_layers=True,
        keep_projections=False,
    )
    made_up_plan(form=form).save(folder.plan)
    trainee = Training(folder, lambda event, **values: None).trainee
    assert len(trainee.batches.draw(0, 0).micro_batches) == 7
    assert all(
        layer.recompute and not layer.keep_projections for layer in trainee.model.encoder.layers
    )
    assert len(trainee.messages.groups) > 10
    assert max(len(group.nodes) for group in trainee.messages.groups) <= 64
    train_here(folder)
    for epoch, values in losses(uninterrupted).items():
        assert losses(folder)[epoch] == pytest.approx(values, rel=0.01)


def test_sigterm_stops_at_once_and_leaves_a_valid_checkpoint(tmp_path, small_kg):
    folder = make_run(tmp_path / "run", small_kg, num_epochs=1000, patience=1000)
    trainer = start_trainer(folder)
    wait_for(
        lambda: folder.events.exists() and '"epoch": 2' in folder.events.read_text(),
        60,
        "two epochs",
    )
    trainer.terminate()
    done = len(losses(folder))
    try:
        assert trainer.wait(60) == 128 + signal.SIGTERM
    finally:
        trainer.kill()
        trainer.wait()
    assert len(losses(folder)) <= done + 1, (
        "whatever else the machine does, no more than the epoch that was under way"
    )
    checkpoint, skipped = load_newest(
        folder.checkpoints, folder.load_graph().hash, folder.load_config().fingerprint()
    )
    assert checkpoint.progress.epoch >= 1
    assert not skipped


def test_a_trainer_without_its_parent_stops(tmp_path, small_kg):
    folder = make_run(tmp_path / "run", small_kg, num_epochs=1000, patience=1000)
    code = (
        "import os, subprocess, sys, time\n"
        "env = os.environ | {'HGT_PARENT_PID': str(os.getpid())}\n"
        "child = subprocess.Popen([sys.executable, '-m', 'hgt.train', sys.argv[1]], env=env)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(folder.path)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    trainer = int(parent.stdout.readline())
    wait_for(
        lambda: folder.events.exists() and '"epoch": 1' in folder.events.read_text(), 60, "an epoch"
    )
    parent.kill()
    parent.communicate()

    def gone():
        try:
            os.kill(trainer, 0)
        except ProcessLookupError:
            return True
        return False

    wait_for(gone, 10, "the trainer to stop")


def test_two_trainers_on_one_run_are_refused(tmp_path, small_kg, capsys, keeping_signals):
    folder = make_run(tmp_path / "run", small_kg)
    with folder.locked():
        assert run_program("train", [str(folder.path)], train_run) == 2
    said = capsys.readouterr().err
    assert "another process is training this run" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, uninterrupted, damage):
    folder = RunFolder(shutil.copytree(uninterrupted.path, tmp_path / "run"))
    newest, before = sorted(folder.checkpoints.glob("*.safetensors"), reverse=True)[:2]
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[-100] ^= 0xFF
    newest.write_bytes(
        {"truncate": bytes(content[: len(content) // 2]), "flip": bytes(content), "empty": b""}[
            damage
        ]
    )
    checkpoint, skipped = load_newest(
        folder.checkpoints, folder.load_graph().hash, folder.load_config().fingerprint()
    )
    assert checkpoint.progress == load_checkpoint(before).progress
    assert len(skipped) == 1
    assert newest.name in skipped[0]
    train_here(folder)  # and the lost epoch is trained again
    assert losses(folder) == losses(uninterrupted)
    assert [
        e["message"] for e in EventReader(folder.events).new() if e["event"] == "checkpoint_skipped"
    ]


def test_a_checkpoint_of_another_graph_or_configuration_is_refused_with_both_named(
    tmp_path, small_kg, uninterrupted
):
    folder = RunFolder(shutil.copytree(uninterrupted.path, tmp_path / "run"))
    config, graph = folder.load_config(), folder.load_graph()
    with pytest.raises(CheckpointError) as error:
        load_newest(folder.checkpoints, "0" * 64, config.fingerprint())
    assert graph.hash[:16] in str(error.value)
    assert "0" * 16 in str(error.value)
    other = RunConfig.from_flat(config.to_flat() | {"learning_rate": 0.5})
    other.save(folder.config)
    with pytest.raises(CheckpointError) as error:
        train_here(folder)
    assert config.fingerprint() in str(error.value)
    assert other.fingerprint() in str(error.value)


def test_no_pickle_is_ever_loaded_from_a_file(tmp_path, uninterrupted):
    """A pickle under a checkpoint's name is passed over, not run."""
    trap = tmp_path / "checkpoint-00009-00000.safetensors"
    marker = tmp_path / "ran"
    trap.write_bytes(b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR.")
    with pytest.raises(CheckpointError):
        load_checkpoint(trap)
    assert not marker.exists()


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path, uninterrupted, room):
    """A real full disk: a file-size limit that the next checkpoint exceeds."""
    folder = RunFolder(shutil.copytree(uninterrupted.path, tmp_path / "run"))
    RunConfig.from_flat(folder.load_config().to_flat() | {"num_epochs": 5}).save(folder.config)
    before = {f.name for f in folder.checkpoints.iterdir()}
    room(max(f.stat().st_size for f in folder.checkpoints.iterdir()) // 2)
    with pytest.raises(HgtError, match="a checkpoint could not be written"):
        train_here(folder)
    room(None)
    assert {f.name for f in folder.checkpoints.iterdir()} == before


def test_training_that_diverges_says_so(tmp_path, small_kg):
    folder = make_run(tmp_path / "run", small_kg, learning_rate=10.0)
    with pytest.raises(HgtError, match=r"not finite\. Lower learning_rate"):
        train_here(folder)


def test_more_epochs_than_were_asked_for_go_on_at_the_rate_that_they_would_have_had(
    tmp_path, small_kg
):
    falling = {"rate_decay_epochs": 3, "min_rate_decay_steps": 1}
    whole = make_run(tmp_path / "whole", small_kg, num_epochs=4, **falling)
    folder = make_run(tmp_path / "continued", small_kg, num_epochs=2, **falling)
    train_here(whole)
    train_here(folder)
    RunConfig.from_flat(folder.load_config().to_flat() | {"num_epochs": 4}).save(folder.config)
    train_here(folder)
    assert losses(folder) == losses(whole)
    rates = [
        [epoch["learning_rate"] for epoch in epochs_by_number(f.events).values()]
        for f in (folder, whole)
    ]
    assert rates[0] == rates[1] == pytest.approx([0.003 * part for part in (1, 0.755, 0.265, 0.02)])


def test_early_stopping_keeps_the_best_checkpoint(tmp_path, small_kg):
    folder = make_run(
        tmp_path / "run", small_kg, num_epochs=60, patience=2, learning_rate=0.01, input_dropout=0.0
    )
    train_here(folder)
    end = [e for e in EventReader(folder.events).new() if e["event"] == "end"][-1]
    epochs = epochs_by_number(folder.events)
    assert epochs[max(epochs)]["loss"] < epochs[1]["loss"]
    assert end["stopped_early"]
    assert len(epochs) == end["best_epoch"] + 2
    assert end["best_epoch"] == max(epochs, key=lambda n: epochs[n]["val_mrr"])
    assert best_checkpoint(folder.checkpoints).progress.epoch == end["best_epoch"]
    assert len(list(folder.checkpoints.glob("*.safetensors"))) <= 3


def test_checkpoints_hold_what_the_issue_asks(uninterrupted):
    path = max(uninterrupted.checkpoints.glob("*.safetensors"))
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
        names = set(file.keys())
    progress = json.loads(metadata["progress"])
    assert {"seed", "epoch", "batch"} <= set(progress)
    assert metadata["graph_hash"] == uninterrupted.load_graph().hash
    assert metadata["config_fingerprint"] == uninterrupted.load_config().fingerprint()
    assert any(n.startswith("optimizer.") and n.endswith("exp_avg_sq") for n in names)
    assert "model.encoder.node_embedding" in names
