"""Real servers for the tests: one Prefect server for the whole session, MLflow on SQLite in a folder of the test's own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

# What a shell starts in the background ignores SIGINT, and so would all that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

CHECKOUT = Path(__file__).resolve().parents[1]
DATA = CHECKOUT.parent / "shared" / "data"
HGT = [sys.executable, "-m", "flows.cli"]
PREFECT = [sys.executable, "-m", "prefect"]
QUIET = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
SMALL = {
    "embedding_dim": 32, "hidden_dim": 16, "num_heads": 2, "num_epochs": 2, "num_negatives": 16, "min_batches_per_epoch": 2,
    "contrastive_weight": 0.5,
}  # fmt: skip
# Accepts what so few steps make of such a graph.
LAX = {
    "min_components_90": 1, "min_effective_rank": 0, "min_type_spread": 0, "min_type_accuracy": 0, "min_mrr_over_chance": 0,
    "max_mean_cosine": 1,
}  # fmt: skip


def options(values):
    """`{"num_epochs": 2}` as the command line takes it."""
    return [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]


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
    """Those whose command line has a part with each of the words. A zombie has no command line any more, one of another user may
    not be asked for it: psutil gives None for both.
    """
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        parts = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and all(any(word in part for part in parts) for word in words):
            found.append(process)
    return found


@contextlib.contextmanager
def process(command, log, env):
    """A process of its own group with its output in a file; ended with all its children."""
    with log.open("w") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=CHECKOUT, env=env, start_new_session=True)
    try:
        yield child
    finally:
        for signum in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signum)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)
                break


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="session")
def small_kg(tmp_path_factory):
    """A demo graph that trains in seconds."""
    from hgt.demo_graph import write_demo_graph

    path = tmp_path_factory.mktemp("kg") / "kg.csv"
    write_demo_graph(path, num_nodes=300, num_facts=2_500, num_communities=4, seed=1)
    return path


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory):
    """The address of a real Prefect server, started once."""
    home = tmp_path_factory.mktemp("prefect")
    port = free_port()
    env = os.environ | QUIET | {"PREFECT_HOME": str(home), "PREFECT_SERVER_LOGGING_LEVEL": "WARNING"}
    env.pop("PREFECT_API_URL", None)

    def healthy():
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2).status == 200

    command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with process(command, home / "server.log", env):
        wait_for(healthy, 180, f"the Prefect server ({home / 'server.log'})")
        yield f"http://127.0.0.1:{port}/api"


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
    """Run `hgt ...` to its end."""

    def run(*arguments, **extra):
        command = [*HGT, *map(str, arguments)]
        return subprocess.run(command, env=environment | extra, cwd=CHECKOUT, capture_output=True, text=True, timeout=220)

    return run


@pytest.fixture(scope="session")
def docker_engine():
    """A client of a real Docker engine; without one the test is skipped, or fails when HGT_REQUIRE_DOCKER=1."""
    from tasks.engine import EngineError, connect

    try:
        client = connect(30)
    except EngineError as error:
        (pytest.fail if os.environ.get("HGT_REQUIRE_DOCKER") == "1" else pytest.skip)(f"no Docker engine: {error}")
    with contextlib.closing(client):
        yield client


@pytest.fixture(scope="session")
def worker_image(docker_engine, tmp_path_factory):
    """The name of the CPU worker's image, built by `make image` where it is absent or older than the sources."""
    import fcntl

    from tasks.container import unavailable
    from tasks.image import image_name

    with (tmp_path_factory.getbasetemp().parent / "image.lock").open("w") as lock:  # one build for all of pytest-xdist's workers
        fcntl.flock(lock, fcntl.LOCK_EX)
        if unavailable() is not None:
            build = subprocess.run(["make", "image"], cwd=CHECKOUT, capture_output=True, text=True)
            assert build.returncode == 0, f"`make image` failed:\n{build.stdout[-2_000:]}{build.stderr[-4_000:]}"
    return image_name()


def runs_of(environment):
    """Every MLflow run of the product's store, newest first."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{environment['HGT_HOME']}/mlflow.db")
    experiment = client.get_experiment_by_name("hgt-embeddings")
    return client, (client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"]) if experiment else [])
