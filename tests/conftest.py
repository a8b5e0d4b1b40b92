"""Real servers for the tests: one Prefect server for the whole session, MLflow on SQLite in a
folder of the test's own.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

# What a shell starts in the background ignores SIGINT, and so would all that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

CHECKOUT = Path(__file__).resolve().parents[1]
DATA = CHECKOUT.parent / "shared" / "data"
HGT = [sys.executable, "-m", "flows.cli"]
PREFECT = [sys.executable, "-m", "prefect"]
QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
SMALL = {
    "embedding_dim": 32,
    "hidden_dim": 16,
    "num_heads": 2,
    "num_epochs": 2,
    "num_negatives": 16,
    "min_batches_per_epoch": 2,
    "contrastive_weight": 0.5,
}
# Accepts what so few steps make of such a graph.
LAX = {
    "min_components_90": 1,
    "min_effective_rank": 0,
    "min_type_spread": 0,
    "min_type_accuracy": 0,
    "min_mrr_over_chance": 0,
    "max_mean_cosine": 1,
}


def options(values):
    """`{"num_epochs": 2}` as the command line takes it."""
    return [
        part
        for name, value in values.items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]


def data_file(name):
    path = DATA / name / "kg.csv.gz"
    if not path.exists():
        pytest.skip(f"the data set {name} is not on this machine")
    return path


def wait_for(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.2)
    pytest.fail(f"waited {seconds} s for {what}")
    return None


def living_processes(*words):
    """Those whose command line has a part with each of the words. A zombie has no command line any
    more, one of another user may not be asked for it: psutil gives None for both.
    """
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        parts = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and all(
            any(word in part for part in parts) for word in words
        ):
            found.append(process)
    return found


@contextlib.contextmanager
def process(command, log, env):
    """A process of its own group with its output in a file; ended with all its children."""
    with log.open("w") as out:
        child = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=CHECKOUT,
            env=env,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        end_group(child.pid)
        child.wait(10)


def end_group(pid):
    """Ends the process, which leads a group, and all its children."""

    def ended():
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        return True

    for signum in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signum)
        until = time.monotonic() + 10
        while not ended() and time.monotonic() < until:
            time.sleep(0.1)
        if ended():
            return


@contextlib.contextmanager
def without_shape_checks():
    """As the product runs. They take up to a third of the time, where the tests of the functions
    within make them already.

    HGT_CHECK_SHAPES=1 keeps them: `.ci/run` sets it for the slow tests.
    """
    from jaxtyping import config

    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", os.environ.get("HGT_CHECK_SHAPES") != "1")
    try:
        yield
    finally:
        config.update("jaxtyping_disable", before)


@pytest.fixture(scope="module")
def unchecked_shapes():
    with without_shape_checks():
        yield


@contextlib.contextmanager
def locked(path):
    """Alone among all that lock this file."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="session")
def small_kg(tmp_path_factory):
    """A demo graph that trains in seconds."""
    from hgt.graph.demo_graph import write_demo_graph

    path = tmp_path_factory.mktemp("kg") / "kg.csv"
    write_demo_graph(path, num_nodes=300, num_facts=2_500, num_communities=4, seed=1)
    return path


@dataclass(frozen=True)
class PrefectServer:
    """address: of its API; database: a copy of its SQLite file from before anything ran."""

    address: str
    database: Path

    def save_migrations(self, home):
        """Gives an HGT_HOME Prefect's empty database: to make its tables takes seconds."""
        folder = home / "prefect"
        folder.mkdir(parents=True)
        shutil.copy(self.database, folder / "prefect.db")


@pytest.fixture(scope="session")
def one_prefect_server(tmp_path_factory):
    """A real Prefect server, started once for all of pytest-xdist's workers; the last that needs it
    ends it.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "prefect-server"
    folder.mkdir(exist_ok=True)
    record = folder / "server.json"
    with locked(folder / "lock"):
        server = json.loads(record.read_text()) if record.exists() else _start_prefect(folder)
        record.write_text(json.dumps(server | {"users": server["users"] + 1}))
    yield PrefectServer(f"http://127.0.0.1:{server['port']}/api", folder / "empty.db")
    with locked(folder / "lock"):
        server = json.loads(record.read_text())
        record.write_text(json.dumps(server | {"users": server["users"] - 1}))
        if server["users"] == 1:
            record.unlink()
            end_group(server["pid"])


def _start_prefect(folder):
    """Its process, port and number of users; one that does not answer is ended again."""
    port = free_port()
    env = (
        os.environ
        | QUIET
        | {
            "PREFECT_HOME": str(folder),
            "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        }
    )
    env.pop("PREFECT_API_URL", None)
    command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]

    def healthy():
        with contextlib.suppress(OSError):
            return (
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2).status
                == 200
            )

    with (folder / "server.log").open("w") as out:
        child = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=CHECKOUT,
            env=env,
            start_new_session=True,
        )
    try:
        wait_for(healthy, 180, f"the Prefect server ({folder / 'server.log'})")
        files = [
            contextlib.closing(sqlite3.connect(folder / name))
            for name in ("prefect.db", "empty.db")
        ]
        with files[0] as database, files[1] as copy:
            database.backup(copy)
    except BaseException:
        end_group(child.pid)
        raise
    finally:
        child.returncode = 0  # this process may end before it
    return {"pid": child.pid, "port": port, "users": 0}


@pytest.fixture(scope="session")
def prefect_server(one_prefect_server):
    """The address of a real Prefect server."""
    return one_prefect_server.address


@pytest.fixture
def environment(tmp_path, prefect_server):
    """Environment of a command: its own HGT_HOME, the session's Prefect server."""
    return os.environ | QUIET | {
        "HGT_HOME": str(tmp_path / "home"),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": prefect_server,
    }  # fmt: skip


@pytest.fixture
def hgt(environment):
    """Run `hgt ...` to its end, in a process of its own: half a minute. What nobody interrupts is
    faster with `hgt_here`.
    """

    def run(*arguments, **extra):
        command = [*HGT, *map(str, arguments)]
        return subprocess.run(
            command,
            env=environment | extra,
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=220,
        )

    return run


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """An MLflow store without a run: to make its tables takes seconds, to copy it none."""
    import mlflow

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def hgt_here(environment, empty_store):
    """`hgt`, and the programs that it starts, in the process of the tests (tests/here.py)."""
    from tests.here import run_command

    return lambda *arguments, **extra: run_command(arguments, environment | extra, empty_store)


@pytest.fixture(scope="session")
def docker_engine():
    """A client of a real Docker engine; without one the test is skipped, or fails when
    HGT_REQUIRE_DOCKER=1.
    """
    from tasks.execution.engine import EngineError, connect

    try:
        client = connect(30)
    except EngineError as error:
        (pytest.fail if os.environ.get("HGT_REQUIRE_DOCKER") == "1" else pytest.skip)(
            f"no Docker engine: {error}"
        )
    with contextlib.closing(client):
        yield client


@pytest.fixture(scope="session")
def worker_image(docker_engine, tmp_path_factory):
    """The name of the CPU worker's image, built by `make image` where it is absent or older than
    the sources.
    """
    from tasks.execution.image import image_name
    from tasks.execution.readiness import unavailable

    # one build for all of pytest-xdist's workers
    with locked(tmp_path_factory.getbasetemp().parent / "image.lock"):
        if unavailable() is not None:
            build = subprocess.run(["make", "image"], cwd=CHECKOUT, capture_output=True, text=True)
            assert build.returncode == 0, (
                f"`make image` failed:\n{build.stdout[-2_000:]}{build.stderr[-4_000:]}"
            )
    return image_name()


def runs_of(environment):
    """Every MLflow run of the product's store, newest first."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{environment['HGT_HOME']}/mlflow.db")
    experiment = client.get_experiment_by_name("hgt-embeddings")
    return client, (
        client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])
        if experiment
        else []
    )


@pytest.fixture(scope="module")
def own_home(tmp_path_factory):
    """A home, and with it a store, of the file's own, whatever the environment says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HGT_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield
