"""An HGT_HOME in which `hgt up` has run, and runs in its work pool."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time

from flows.services.server_requests import ask
from hgt.run.events import EventReader
from hgt.run.folder import RunFolder
from tests.conftest import (
    CHECKOUT,
    HGT,
    LAX,
    QUIET,
    SMALL,
    free_port,
    living_processes,
    options,
    runs_of,
    wait_for,
)

RUN = SMALL | LAX | {"baselines": "none", "num_epochs": 1, "dropout": 0.1, "patience": 100_000}
ENDLESS = RUN | {"num_epochs": 100_000, "checkpoint_minutes": 0.001}
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class Training:
    """An `hgt train` that goes on beside the test."""

    def __init__(self, child, log):
        self.child, self.log = child, log

    @property
    def said(self):
        return self.log.read_text()

    @property
    def run(self):
        return re.search(r"^run (\S+) in ", self.said, re.MULTILINE)[1]

    def says(self, words, seconds=240):
        wait_for(
            lambda: words in self.said or self.child.poll() is not None,
            seconds,
            f"{words!r} in\n{self.said}",
        )
        assert words in self.said, self.said

    def ends(self, code, words, seconds=300):
        """With this exit code, its last line a sentence with these words. Returns the time that it
        took.
        """
        began = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(seconds)
        assert self.child.poll() == code, self.said
        assert "Traceback" not in self.said
        *_, last = self.said.strip().splitlines()
        assert re.search(words, last), self.said
        return time.monotonic() - began


class Pool:
    """An HGT_HOME in which `hgt up` has run, asked through its Prefect server."""

    def __init__(self, home, small_kg, docker_engine, relay):
        self.home, self.kg, self.engine, self.relay = home, small_kg, docker_engine, relay
        self.environment = os.environ | QUIET | {"HGT_HOME": str(home), "OMP_NUM_THREADS": "1"}
        for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
            self.environment.pop(name, None)
        port = free_port()
        self.ports = ["--prefect-port", str(port), "--mlflow-port", str(free_port())]
        self.api = f"http://127.0.0.1:{port}/api"
        self.number = 0

    def hgt(self, *arguments):
        environment = self.environment | {"DOCKER_HOST": self.relay.address}
        done = subprocess.run(
            [*HGT, *arguments],
            env=environment,
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, path, body=None, method=None):
        return ask(f"{self.api}/{path}", body, method)

    def pid(self, service):
        return json.loads((self.home / "services" / f"{service}.json").read_text())["pid"]

    @contextlib.contextmanager
    def train(self, values=RUN, resume=None, **extra):
        """Environment variables in `extra`."""
        self.number += 1
        log = self.home / f"train-{self.number}.log"
        what = ["--resume", resume] if resume else ["--kg", str(self.kg)]
        with log.open("w") as out:
            command = [*HGT, "train", *what, *options(values)]
            child = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=CHECKOUT,
                env=self.environment | extra,
            )
        try:
            yield Training(child, log)
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(60)
                child.kill()
                child.wait()

    def folder(self, run):
        return RunFolder(self.home / "runs" / run)

    def epochs(self, run):
        return [
            e["epoch"] for e in EventReader(self.folder(run).events).new() if e["event"] == "epoch"
        ]

    def flow_runs(self, run):
        """{"parent" or "cpu": flow run}, the last of each."""
        every = self.ask("flow_runs/filter", {"sort": "START_TIME_ASC"})
        return {
            "cpu" if flow["name"] == f"{run}-cpu" else "parent": flow
            for flow in every
            if run
            in (
                flow["name"].removesuffix("-cpu"),
                flow["parameters"].get("run_id"),
                flow["parameters"].get("resume"),
            )
        }

    def states(self, run):
        return {key: flow["state_type"] for key, flow in self.flow_runs(run).items()}

    def container(self, run):
        """The running one of the run, through the pool."""
        (found,) = self.engine.containers.list(
            filters={"label": f"io.prefect.flow-run-id={self.flow_runs(run)['cpu']['id']}"},
            ignore_removed=True,
        )
        return found

    def mlflow(self, run):
        client, every = runs_of(self.environment)
        (found,) = [r for r in every if r.data.tags["hgt.run"] == run]
        assert len([m.step for m in client.get_metric_history(found.info.run_id, "loss")]) == len(
            {m.step for m in client.get_metric_history(found.info.run_id, "loss")}
        )
        return client, found

    def left_behind(self, run):
        """Containers, processes and heartbeats of the run."""
        flows = self.ask("flow_runs/filter", {})
        labels = [
            f"io.prefect.flow-run-id={flow['id']}" for flow in flows if flow["name"] == f"{run}-cpu"
        ]
        containers = [
            c.name
            for label in [*labels, f"kg-hgt-embeddings.run={run}"]
            for c in self.engine.containers.list(
                all=True, filters={"label": label}, ignore_removed=True
            )
        ]
        return containers + living_processes(run) + list(self.folder(run).path.glob(".heartbeat*"))

    def ended(self, run, mlflow, **states):
        """The run ended so everywhere, and nothing of it is left."""
        wait_for(lambda: self.states(run) == states, 120, f"{states} of {run}")
        assert self.mlflow(run)[1].info.status == mlflow
        wait_for(lambda: not self.left_behind(run), 20, f"the end of all of {run}")

    def is_whole(self, run, num_epochs):
        client, found = self.mlflow(run)
        assert found.info.status == "FINISHED"
        assert [m.step for m in client.get_metric_history(found.info.run_id, "loss")] == list(
            range(1, num_epochs + 1)
        )
