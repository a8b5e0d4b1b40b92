"""What the tests of failures share: a trainer that fails on order, a run that nothing happened to,
a memory limit and a small disk; the work pool that `hgt up` starts, for the tests of a file.
"""

import os
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from hgt.device.cgroup import _VERSION_2, _Files, _memory_groups
from tests.conftest import CHECKOUT, QUIET, options, wait_for
from tests.end_to_end.failures import FOUR, NO_DOCKER, embeddings, run_of
from tests.here import run_command


@pytest.fixture
def injected(tmp_path):
    """`injected("mps 3 2")`: the environment of a trainer that runs out of memory so
    (tests/injected/sitecustomize.py).
    """

    def environment(spec):
        return NO_DOCKER | {
            "HGT_INJECT": spec,
            "HGT_INJECT_COUNT": str(tmp_path / "count"),
            "PYTHONPATH": os.pathsep.join(
                [str(CHECKOUT / "tests" / "injected"), os.environ.get("PYTHONPATH", "")]
            ),
        }

    return environment


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory, small_kg, prefect_server, empty_store):
    """Embeddings of the run FOUR that nothing happened to."""
    home = tmp_path_factory.mktemp("uninterrupted") / "home"
    return train_alone(home, small_kg, FOUR, prefect_server, os.environ | NO_DOCKER, empty_store)


def train_alone(home, kg, values, prefect_server, environment, empty_store):
    """Embeddings of a run in an HGT_HOME of its own."""
    env = (
        environment
        | QUIET
        | {
            "HGT_HOME": str(home),
            "PREFECT_HOME": str(home / "prefect"),
            "PREFECT_API_URL": prefect_server,
        }
    )
    done = run_command(("train", "--kg", kg, *options(values)), env, empty_store)
    assert done.returncode == 0, done.stdout + done.stderr
    return embeddings(run_of({"HGT_HOME": str(home)}))


@dataclass(frozen=True)
class MemoryGroup:
    """A control group, of version 1 or 2, that limits memory."""

    path: Path
    files: _Files

    def limit(self, num_bytes):
        (self.path / self.files.limit).write_text(str(num_bytes))
        # no swap, where the kernel counts it
        for file, value in (("memory.memsw.limit_in_bytes", num_bytes), ("memory.swap.max", 0)):
            if (self.path / file).exists():
                (self.path / file).write_text(str(value))

    def num_killed(self):
        """How often the kernel killed in it."""
        lines = (
            (self.path / ("memory.events" if self.files is _VERSION_2 else "memory.oom_control"))
            .read_text()
            .splitlines()
        )
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))

    def is_empty(self):
        return not (self.path / "cgroup.procs").read_text()


@pytest.fixture
def memory_group():
    """A memory group of the test's own, 64 MB; skipped where none can be made, as for a user
    without rights, in a container or on a Mac.
    """
    why = "no memory controller is mounted"
    for around, files in _memory_groups(Path("/")):
        group = MemoryGroup(around / f"hgt-test-{secrets.token_hex(4)}", files)
        try:
            group.path.mkdir()
            group.limit(64 << 20)
        except OSError as error:
            why = f"{error.filename}: {error.strerror}"
            if group.path.is_dir():
                group.path.rmdir()
            continue
        yield group
        wait_for(group.is_empty, 30, f"the processes of {group.path} to end")
        group.path.rmdir()
        return
    pytest.skip(f"no memory control group can be made here ({why})")


@pytest.fixture
def small_disk():
    """`small_disk(folder)`: a disk of 32 MB mounted there; skipped where nothing can be mounted."""
    mounted = []

    def mount(folder):
        folder.mkdir(parents=True)
        try:
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=32m", "hgt-test", str(folder)],
                capture_output=True,
                text=True,
            )
        except FileNotFoundError as error:
            pytest.skip(f"no disk can be mounted here ({error})")
        if done.returncode:
            pytest.skip(f"no disk can be mounted here ({done.stderr.strip()})")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        # also where a failed test left a process at work
        subprocess.run(["umount", "-l", str(folder)], check=True)
