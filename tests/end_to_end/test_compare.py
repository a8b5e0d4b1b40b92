"""`hgt compare` as a person uses it: two trainings, one table, exit codes."""

import re
import sys
from pathlib import Path

import pytest

from flows.compare import compare
from tests.conftest import LAX, SMALL, options, runs_of


def test_two_trainings_on_one_device_are_the_same(hgt_here, environment, small_kg):
    done = hgt_here(
        "compare",
        "--kg",
        small_kg,
        "--devices",
        "cpu,cpu",
        *options(SMALL | LAX),
        OMP_NUM_THREADS="1",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *_, last = done.stdout.strip().splitlines()
    assert last == "SAME: every figure within 0.05"
    differences = re.findall(r"^(.{50}) .{11} .{11} +(\S+)  yes$", done.stdout, re.MULTILINE)
    assert len(differences) > 30
    assert {value for _, value in differences} <= {
        "0.0000",
        "-",
    }, "one seed, one device, one thread: the same to the last bit"
    assert re.search(r"^epochs +2 +2$", done.stdout, re.MULTILINE)
    _, runs = runs_of(environment)
    assert len(runs) == 2
    assert {run.data.params["patience"] for run in runs} == {"2"}


@pytest.mark.docker
@pytest.mark.timeout(900)
def test_this_cpu_and_the_one_in_docker(hgt_here, environment, small_kg, worker_image):
    done = hgt_here(
        "compare",
        "--kg",
        small_kg,
        "--devices",
        "cpu,docker-cpu",
        *options(SMALL | LAX),
        OMP_NUM_THREADS="1",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SAME" in done.stdout
    _, (second, first) = runs_of(environment)
    assert (first.data.tags["segment.1.place"], second.data.tags["segment.1.place"]) == (
        "native",
        "docker",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--devices", "cpu"], "must be two of mps, cuda, cpu, docker-cpu"),
        (["--devices", "cpu,tpu"], "must be two of"),
        (["--devices", "cpu,mps"], "mps is not available"),
        (
            ["--devices", "cpu,cpu", "--patience", "3"],
            "--patience: the comparison sets this option",
        ),
        (["--devices", "cpu,cpu", "--num-heads", "7"], "must be a multiple of num_heads 7"),
    ],
)
def test_bad_input(hgt_here, small_kg, arguments, words):
    done = hgt_here("compare", "--kg", small_kg, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_worker_that_cannot_be_had_is_told_before_anything_is_trained(
    hgt_here, environment, small_kg
):
    done = hgt_here(
        "compare",
        "--kg",
        small_kg,
        "--devices",
        "cpu,docker-cpu",
        *options(SMALL),
        DOCKER_HOST="unix:///nowhere/docker.sock",
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "The CPU worker in Docker cannot be started" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (Path(environment["HGT_HOME"]) / "runs").exists()


def test_a_training_that_fails_ends_the_comparison(hgt_here, environment, small_kg):
    done = hgt_here(
        "compare",
        "--kg",
        small_kg,
        "--devices",
        "cpu,cpu",
        *options(SMALL | LAX | {"memory": "1MB"}),
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "nothing to compare" in done.stderr
    assert len(runs_of(environment)[1]) == 1, "the second was not begun"


def test_ctrl_c_while_the_training_leaves_is_an_interruption(tmp_path, monkeypatch):
    """Its interpreter has put the signal's default back by then."""
    leaving = tmp_path / "python"
    leaving.write_text(
        f"#!{sys.executable}\nimport os, signal\nsignal.signal(2,"
        " signal.SIG_DFL)\nos.kill(os.getpid(), 2)\n"
    )
    leaving.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(leaving))
    with pytest.raises(KeyboardInterrupt):
        compare(tmp_path / "kg.csv", ("cpu", "cpu"), {}, print)
