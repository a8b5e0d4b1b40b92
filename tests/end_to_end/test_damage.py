"""Damaged checkpoints and full disks, through the real flow: what was whole is used, what is wrong
is said, and the run becomes whole.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from hgt.run.checkpoint import load_newest
from tasks.execution.segments import read_segments
from tests.conftest import QUIET, options
from tests.end_to_end.failures import (
    FOUR,
    NO_DOCKER,
    assert_one_whole_mlflow_run,
    embeddings,
    events,
    run_of,
    seconds_to_first_step,
    steps_repeated,
)
from tests.here import run_command


@pytest.fixture(scope="module")
def failed(tmp_path_factory, small_kg, prefect_server, empty_store):
    """HGT_HOME of a run whose trainer failed in its third epoch, with checkpoints of the first
    two.
    """
    home = tmp_path_factory.mktemp("failed") / "home"
    env = (
        os.environ
        | QUIET
        | NO_DOCKER
        | {
            "HGT_HOME": str(home),
            "PREFECT_HOME": str(home / "prefect"),
            "PREFECT_API_URL": prefect_server,
        }
    )
    env |= {"HGT_INJECT": "error 6 1", "HGT_INJECT_COUNT": str(home / "count")}
    done = run_command(("train", "--kg", small_kg, *options(FOUR)), env, empty_store)
    assert done.returncode == 1, done.stdout + done.stderr
    assert_one_whole_mlflow_run({"HGT_HOME": str(home)}, 2, "FAILED")
    return home


def flip(newest):
    content = bytearray(newest.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(byte ^ 0xFF for byte in content[middle : middle + 8])
    newest.write_bytes(content)
    # what a kill in the middle of writing leaves
    newest.with_name("checkpoint-00002-00001.tmp").write_bytes(content[:1000])


def empty(newest):
    newest.write_bytes(b"")


@pytest.mark.timeout(700)
@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (flip, "its content does not match its checksum. It is not used."),
        pytest.param(empty, "is damaged or only half written", marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_from_the_newest_whole_checkpoint(
    failed, environment, hgt_here, uninterrupted, damage, why
):
    shutil.copytree(failed, environment["HGT_HOME"])
    folder = run_of(environment)
    newest = max(folder.checkpoints.glob("*.safetensors"))
    damage(newest)
    done = hgt_here("train", "--resume", folder.path.name, **NO_DOCKER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    copied, warning = [line for line in done.stdout.splitlines() if "WARNING" in line]
    assert "HGT_HOME was copied or moved" in copied
    assert f"{newest}: {why}" in warning
    assert "continuing after epoch 1, batch 0" in done.stdout
    assert_one_whole_mlflow_run(environment, 4)
    np.testing.assert_allclose(embeddings(folder), uninterrupted, atol=1e-5)
    assert_checkpoint(folder, epoch=4)
    assert not list(folder.checkpoints.glob("*.tmp"))


def assert_checkpoint(folder, epoch):
    checkpoint, skipped = load_newest(
        folder.checkpoints, folder.load_graph().hash, folder.load_config().fingerprint()
    )
    assert checkpoint.progress.epoch == epoch
    assert not skipped


@pytest.mark.docker
@pytest.mark.timeout(400)
def test_the_cpu_worker_goes_on_from_the_checkpoint_before_a_damaged_one(
    worker_image, hgt_here, environment, injected, small_kg, uninterrupted
):
    del worker_image
    extra = {name: value for name, value in injected("damage 6 1").items() if name != "DOCKER_HOST"}
    done = hgt_here("train", "--kg", small_kg, *options(FOUR | {"max_shrinks": 0}), **extra)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = run_of(environment)
    assert [s.place for s in read_segments(folder)] == ["native", "docker"]
    assert (
        f"WARNING: {folder.checkpoints / 'checkpoint-00002-00000.safetensors'}: is damaged"
        in done.stdout
    )
    assert "continuing after epoch 1, batch 0" in done.stdout
    assert_one_whole_mlflow_run(environment, 4)
    np.testing.assert_allclose(embeddings(folder), uninterrupted, atol=1e-5)
    assert steps_repeated(folder) == [
        0,
        4,
    ], "the epoch of the damaged checkpoint, and the one that memory ran out in"
    assert seconds_to_first_step(folder) < 60


def fill(ballast, room_bytes):
    """Fill the disk up to so many bytes."""
    left = shutil.disk_usage(ballast.parent).free
    ballast.write_bytes(bytes(left - room_bytes))


def assert_told_of_a_full_disk(done):
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (said,) = done.stderr.strip().splitlines()
    assert "No space left on device" in said or "database or disk is full" in said
    assert "Make room, then resume" in said
    assert "Continue with: hgt train --resume" in said
    assert "OUT OF MEMORY" not in done.stdout


@pytest.mark.timeout(700)
def test_a_full_disk_is_told_and_costs_nothing(
    hgt_here, environment, injected, small_kg, uninterrupted, small_disk
):
    """MLflow's store lies on another disk. While a checkpoint is written, then while the embeddings
    are.
    """
    runs = Path(environment["HGT_HOME"]) / "runs"
    small_disk(runs)
    # for events, not for a checkpoint
    ballast = {"HGT_INJECT_BALLAST": str(runs / "ballast"), "HGT_INJECT_ROOM": str(16 << 10)}
    done = hgt_here("train", "--kg", small_kg, *options(FOUR), **injected("full 3 1"), **ballast)
    assert_told_of_a_full_disk(done)
    assert "a checkpoint could not be written" in done.stderr
    folder = run_of(environment)
    assert len(read_segments(folder)) == len(events(folder, "start")) == 1, (
        "neither made smaller nor moved to the CPU"
    )
    assert_checkpoint(folder, epoch=1)
    assert_one_whole_mlflow_run(environment, 1, "FAILED")

    (runs / "ballast").unlink()
    done = hgt_here("train", "--resume", folder.path.name, **NO_DOCKER)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_one_whole_mlflow_run(environment, 4)
    np.testing.assert_allclose(embeddings(folder), uninterrupted, atol=1e-5)

    shutil.rmtree(folder.embeddings)
    fill(runs / "ballast", 24 << 10)
    done = hgt_here("train", "--resume", folder.path.name, **NO_DOCKER)
    assert_told_of_a_full_disk(done)
    assert "The embed process failed" in done.stderr
    assert_checkpoint(folder, epoch=4)


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_a_disk_without_any_room_is_told_of_all_the_same(
    hgt_here, environment, injected, small_kg, uninterrupted, small_disk
):
    """Not even an event can be written, nor anything into MLflow's store."""
    home = Path(environment["HGT_HOME"])
    small_disk(home)
    ballast = {"HGT_INJECT_BALLAST": str(home / "ballast"), "HGT_INJECT_ROOM": "0"}
    done = hgt_here("train", "--kg", small_kg, *options(FOUR), **injected("full 3 1"), **ballast)
    assert_told_of_a_full_disk(done)
    folder = run_of(environment)
    assert len(read_segments(folder)) == len(events(folder, "start")) == 1
    assert_checkpoint(folder, epoch=1)
    again = hgt_here("train", "--resume", folder.path.name, **NO_DOCKER)
    assert_told_of_a_full_disk(again)

    (home / "ballast").unlink()
    done = hgt_here("train", "--resume", folder.path.name, **NO_DOCKER)
    assert done.returncode == 0, done.stdout + done.stderr
    _, run = assert_one_whole_mlflow_run(environment, 4)
    assert "error" not in run.data.tags
    np.testing.assert_allclose(embeddings(folder), uninterrupted, atol=1e-5)
