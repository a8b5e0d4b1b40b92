"""`hgt up`, `hgt status`, `hgt down` with real servers and workers. The tests share what is up, in
their order.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request

import psutil
import pytest

from flows.services.containers import engine_problem
from flows.services.server_requests import ask
from tests.conftest import CHECKOUT, HGT, LAX, QUIET, SMALL, free_port, living_processes, wait_for
from tests.here import run_command

ENGINE = engine_problem() is None
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
TITLES = [
    "Prefect server",
    "MLflow server",
    "worker native",
    *(["worker docker-cpu"] if ENGINE else []),
]


class Home:
    """An HGT_HOME of its own, and what runs for it."""

    def __init__(self, path):
        self.path = path
        self.prefect_port, self.mlflow_port = free_port(), free_port()
        self.prefect, self.mlflow = (
            f"http://127.0.0.1:{self.prefect_port}",
            f"http://127.0.0.1:{self.mlflow_port}",
        )
        self.ports = ("--prefect-port", self.prefect_port, "--mlflow-port", self.mlflow_port)
        self.environment = os.environ | QUIET | {"HGT_HOME": str(path), "OMP_NUM_THREADS": "1"}
        for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
            self.environment.pop(name, None)

    def hgt(self, *arguments, code=0):
        """`hgt <arguments>` in this process."""
        done = run_command(arguments, self.environment)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def pids(self):
        """{title: pid} of what `hgt status` shows as running."""
        done = run_command(["status"], self.environment)
        return {
            m[1]: int(m[2])
            for m in re.finditer(r"^(\S+ \S+) +running +(\d+)", done.stdout, re.MULTILINE)
        }

    def processes(self):
        """Whatever carries this home's mark, in whatever process group."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                mark = process.environ().get("HGT_SERVICE", "")
                if mark.startswith(str(self.path)) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def start_run(self, deployment="hgt-embeddings/native", **parameters):
        """The flow run's id."""
        found = ask(f"{self.prefect}/api/deployments/name/{deployment}")["id"]
        scheduled = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return ask(f"{self.prefect}/api/deployments/{found}/create_flow_run", scheduled)["id"]

    def ends(self, flow_run):
        wait_for(
            lambda: ask(f"{self.prefect}/api/flow_runs/{flow_run}")["state_type"] in FINAL,
            200,
            f"flow run {flow_run}",
        )

    def runs_in(self, state):
        return ask(
            f"{self.prefect}/api/flow_runs/filter",
            {"flow_runs": {"state": {"type": {"any_": [state]}}}},
        )

    def is_gone(self):
        assert not self.processes()
        for port in (self.prefect_port, self.mlflow_port):
            with socket.socket() as s:
                assert s.connect_ex(("127.0.0.1", port)) != 0
        return not list((self.path / "services").glob("*.json"))


@pytest.fixture(scope="module")
def home(tmp_path_factory, one_prefect_server, empty_store):
    home = Home(tmp_path_factory.mktemp("services") / "home of mine")
    one_prefect_server.save_migrations(home.path)
    shutil.copy(empty_store, home.path / "mlflow.db")
    try:
        command = [*HGT, "up", *map(str, home.ports)]
        done = subprocess.run(
            command, env=home.environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=220
        )
        assert done.returncode == 0, done.stdout + done.stderr
        said = done.stdout
        assert all(f"{title} started" in said for title in TITLES)
        assert f"export PREFECT_API_URL={home.prefect}/api" in said
        assert home.prefect in said
        assert home.mlflow in said
        yield home
    finally:
        subprocess.run([*HGT, "down"], env=home.environment, cwd=CHECKOUT, timeout=200)


@pytest.fixture(scope="module")
def finished_run(home, small_kg):
    """The folder of a run that the native worker has trained for one epoch."""
    home.ends(
        home.start_run(kg=str(small_kg), **SMALL | LAX | {"num_epochs": 1, "baselines": ["none"]})
    )
    (folder,) = (home.path / "runs").iterdir()
    return folder


@pytest.fixture
def empty_home(tmp_path):
    return Home(tmp_path / "home")


def test_the_uis_answer_and_all_listen_on_loopback_alone(home):
    for url in (home.prefect, f"{home.prefect}/api/health", home.mlflow, f"{home.mlflow}/health"):
        assert urllib.request.urlopen(url, timeout=20).status == 200
    hosts = {
        c.laddr.ip
        for p in home.processes()
        for c in p.net_connections()
        if c.status == psutil.CONN_LISTEN
    }
    assert hosts == {"127.0.0.1"}
    for process in home.processes():
        environment = process.environ()
        assert {name: environment[name] for name in QUIET} == QUIET


def test_status_shows_services_pools_and_deployments(home):
    said = home.hgt("status")
    assert list(home.pids()) == TITLES
    for pool in ("native", "docker-cpu"):
        assert re.search(rf"^{pool} +ready +", said, re.MULTILINE)
    assert re.search(r"^native +ready +\d+ s ago$", said, re.MULTILINE)
    for deployment in ("hgt-embeddings/native", "train-on-cpu/docker"):
        assert re.search(rf"^{deployment} +ready$", said, re.MULTILINE)
    assert str(home.path / "services" / "worker-native.log") in said


def test_a_second_up_starts_nothing(home):
    before = home.pids()
    said = home.hgt("up")
    assert all(f"{title} runs already" in said for title in TITLES)
    assert not any(f"{title} started" in said for title in TITLES)
    assert home.pids() == before


def test_up_with_another_port_than_what_runs_is_refused(home):
    before = home.pids()
    assert f"runs on port {home.prefect_port} already" in home.hgt(
        "up", "--prefect-port", free_port(), code=2
    )
    assert home.pids() == before


def test_hgt_train_finds_the_server_unless_told_otherwise(home):
    code = (
        "import os; from flows.commands.environment import prepare_environment as p; p();"
        " print(os.environ.get('PREFECT_API_URL'))"
    )

    def server(**extra):
        command, environment = [sys.executable, "-c", code], home.environment | extra
        return subprocess.run(
            command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert server() == f"{home.prefect}/api"
    assert server(PREFECT_API_URL="http://127.0.0.1:1/api") == "http://127.0.0.1:1/api"


def test_a_deployment_run_completes_and_shows_in_mlflow(home, finished_run):
    (flow_run,) = home.runs_in("COMPLETED")
    assert flow_run["state_name"] == "Completed"
    artifacts = ask(
        f"{home.prefect}/api/artifacts/filter",
        {"artifacts": {"flow_run_id": {"any_": [flow_run["id"]]}}},
    )
    shown = {a["key"]: a["data"] for a in artifacts}
    assert shown["training-progress"] == 100.0
    assert "ACCEPTED" in shown["validation-report"]
    (experiment,) = [
        e
        for e in ask(f"{home.mlflow}/api/2.0/mlflow/experiments/search", {"max_results": 9})[
            "experiments"
        ]
        if e["name"] != "Default"
    ]
    (run,) = ask(
        f"{home.mlflow}/api/2.0/mlflow/runs/search",
        {"experiment_ids": [experiment["experiment_id"]]},
    )["runs"]
    assert run["info"]["status"] == "FINISHED"
    assert {m["key"]: m["step"] for m in run["data"]["metrics"]}["loss"] == 1
    url = f"{home.mlflow}/get-artifact?path=report/validation.txt&run_uuid={run['info']['run_id']}"
    assert "ACCEPTED" in urllib.request.urlopen(url, timeout=20).read().decode()
    (model,) = ask(f"{home.mlflow}/api/2.0/mlflow/registered-models/search")["registered_models"]
    assert model["aliases"] == [{"alias": "champion", "version": "1"}]
    assert [version["run_id"] for version in model["latest_versions"]] == [run["info"]["run_id"]]
    assert (home.path / "mlartifacts").is_dir()
    assert (finished_run / "mlflow_run_id").read_text().strip() == run["info"]["run_id"]


@pytest.mark.docker
def test_a_run_goes_on_in_a_container_of_the_work_pool(
    home, finished_run, docker_engine, worker_image
):
    folder = finished_run
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_epochs": 2}))
    home.ends(home.start_run("train-on-cpu/docker", run=str(folder)))
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [e["epoch"] for e in events if e["event"] == "epoch"] == [1, 2]
    assert all(path.stat().st_uid == os.getuid() for path in folder.rglob("*"))
    (container,) = docker_engine.containers.list(
        all=True, filters={"label": f"hgt.services={home.path}"}, ignore_removed=True
    )
    host = container.attrs["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert not host["Privileged"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Memory"] == host["MemorySwap"] > 0
    assert host["PidsLimit"] == 1024
    assert host["Binds"] == [f"{home.path}/runs:/hgt/runs"]
    assert container.attrs["Config"]["User"] == f"{os.getuid()}:{os.getgid()}"


def test_only_what_was_killed_is_started_again(home):
    before = home.pids()
    os.kill(before["MLflow server"], signal.SIGKILL)
    assert re.search(r"^MLflow server +stopped", home.hgt("status", code=1), re.MULTILINE)
    said = home.hgt("up")
    assert "MLflow server started" in said
    assert said.count("runs already") == len(TITLES) - 1
    after = home.pids()
    assert {title: pid for title, pid in after.items() if before[title] != pid} == {
        "MLflow server": after["MLflow server"]
    }
    assert urllib.request.urlopen(f"{home.mlflow}/health", timeout=20).status == 200


def test_down_stops_all(home):
    said = home.hgt("down")
    assert [line.rsplit(" (pid", 1)[0] for line in said.splitlines()] == [
        f"{t} stopped" for t in (*TITLES[2:], *TITLES[1::-1])
    ]
    assert home.is_gone()


@pytest.mark.slow
def test_after_a_crash_of_all_down_leaves_nothing_and_up_ends_lost_runs(home, small_kg):
    home.hgt("up", *home.ports)
    home.start_run(kg=str(small_kg), **SMALL | {"num_epochs": 10_000, "patience": 10_000})
    wait_for(lambda: living_processes("hgt.train", str(home.path)), 60, "the training")
    for process in home.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    wait_for(lambda: not home.processes(), 20, "the end of all")
    assert home.hgt("status", code=1).count(" stopped ") == len(TITLES)
    said = home.hgt("down")
    assert said.count("had ended before; its process file is removed") == len(TITLES)
    assert home.is_gone()
    assert home.hgt("down") == "Nothing was running.\n"

    said = home.hgt("up", *home.ports)
    assert "had ended with its worker; it is Crashed now" in said
    assert not home.runs_in("RUNNING")
    (lost,) = home.runs_in("CRASHED")
    assert "--resume" in lost["state"]["message"]
    assert len(home.processes()) >= len(TITLES)
    home.hgt("down")
    assert home.is_gone()


@pytest.mark.parametrize("option", ["--prefect-port", "--mlflow-port"])
def test_a_taken_port_is_named_and_nothing_is_left(empty_home, option):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = empty_home.hgt("up", *empty_home.ports, option, port, code=2)
    assert f"Port {port} of 127.0.0.1 is taken" in said
    assert option in said
    assert len(said.splitlines()) == 1
    assert empty_home.is_gone()


def test_what_does_not_start_stops_the_rest_again(empty_home, one_prefect_server):
    one_prefect_server.save_migrations(empty_home.path)
    (empty_home.path / "mlflow.db").write_text("this is no database, and MLflow says so")
    said = empty_home.hgt("up", *empty_home.ports, code=1)
    assert "The MLflow server ended while it started. Its log ends:" in said
    assert "Prefect server stopped again" in said
    assert empty_home.is_gone()


def test_a_pid_that_is_somebody_elses_now_is_left_alone(empty_home):
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        folder = empty_home.path / "services"
        folder.mkdir(parents=True)
        started = psutil.Process(stranger.pid).create_time()
        (folder / "prefect-server.json").write_text(
            json.dumps({"pid": stranger.pid, "started": started, "settings": {"port": "4200"}})
        )
        assert re.search(
            r"^Prefect server +stopped", empty_home.hgt("status", code=1), re.MULTILINE
        )
        assert "Prefect server had ended before" in empty_home.hgt("down")
        assert stranger.poll() is None
        assert empty_home.is_gone()
    finally:
        stranger.kill()
        stranger.wait()
