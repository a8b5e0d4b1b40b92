"""Runs that things happen to: their configuration, and how what is left of them is looked at."""

from pathlib import Path

import numpy as np
import pandas as pd

from hgt.run.events import EventReader
from hgt.run.folder import RunFolder
from tests.conftest import LAX, SMALL, runs_of

RUN = SMALL | LAX | {"baselines": "none", "num_epochs": 3, "dropout": 0.1, "device": "cpu"}
FOUR = RUN | {"num_epochs": 4}  # of two steps each
NO_DOCKER = {"DOCKER_HOST": "unix:///nowhere/docker.sock", "OMP_NUM_THREADS": "1"}


def run_of(environment):
    (path,) = (p for p in (Path(environment["HGT_HOME"]) / "runs").iterdir() if p.is_dir())
    return RunFolder(path)


def events(folder, *kinds):
    return [e for e in EventReader(folder.events).new() if e["event"] in kinds]


def embeddings(folder):
    table = pd.read_parquet(folder.embeddings / "embeddings.parquet")
    return np.stack(table["embedding"].to_list())


def assert_one_whole_mlflow_run(environment, num_epochs, status="FINISHED"):
    client, (run,) = runs_of(environment)
    assert run.info.status == status
    for metric in ("loss", "val_mrr"):
        assert [m.step for m in client.get_metric_history(run.info.run_id, metric)] == list(
            range(1, num_epochs + 1)
        )
    return client, run


def steps_repeated(folder):
    """For every start of a trainer, how many steps that had been done it did again: those told, and
    the one that the last one died in.
    """
    repeated, reached = [], 0
    for event in events(folder, "start", "step", "epoch"):
        if event["event"] == "start":
            num_batches, begun = (
                event["num_batches"],
                event["epoch"] * event["num_batches"] + event["batch"],
            )
            repeated.append(reached + 1 - begun if repeated else 0)
            reached = begun
        else:
            reached = (
                event["epoch"] * num_batches
                if event["event"] == "epoch"
                else (event["epoch"] - 1) * num_batches + event["batch"]
            )
    return repeated


def seconds_to_first_step(folder):
    """From the last word before the last start to the first step after it."""
    told = events(
        folder, "start", "step", "epoch", "checkpoint", "error", "resume", "checkpoint_skipped"
    )
    start = max(i for i, e in enumerate(told) if e["event"] == "start")
    last_word = max(
        i for i, e in enumerate(told[:start]) if e["event"] not in ("resume", "checkpoint_skipped")
    )
    return (
        next(e["time"] for e in told[start:] if e["event"] in ("step", "epoch"))
        - told[last_word]["time"]
    )
