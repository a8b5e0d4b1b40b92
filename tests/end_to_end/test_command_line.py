"""`hgt train` and its kin as a person uses them: real processes, a real Prefect server, MLflow on
SQLite.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import psutil
import pytest

from flows import session
from flows.cli import main
from flows.commands.environment import prepare_environment
from hgt.config import RunConfig
from hgt.errors import HgtError, InputError
from hgt.run.events import EventReader
from hgt.run.folder import RunFolder
from hgt.training.step_form import StepForm
from tasks.led_run import LedRun
from tests.conftest import (
    CHECKOUT,
    HGT,
    LAX,
    SMALL,
    data_file,
    living_processes,
    options,
    runs_of,
    wait_for,
)

SHORT = SMALL | {"num_epochs": 1, "baselines": "none"}


def run_folder_of(environment):
    (folder,) = (Path(environment["HGT_HOME"]) / "runs").iterdir()
    return folder


def events(folder, kind):
    return [e for e in EventReader(folder / "events.jsonl").new() if e["event"] == kind]


def test_train_tracks_everything_in_one_mlflow_run(hgt_here, environment, small_kg, tmp_path):
    csv = tmp_path / "embeddings.csv"
    done = hgt_here("train", "--kg", small_kg, "--output-csv", csv, *options(SMALL | LAX))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for words in (
        "nodes of 10 types",
        "mirror",
        "memory plan",
        "epoch    2/2",
        "typed MRR over chance",
        "ACCEPTED",
        "leakage audit: ",
        "against the best baseline: ",
        "ACCEPTED: registered as hgt-embeddings-",
    ):
        assert words in done.stdout

    folder = run_folder_of(environment)
    client, (run,) = runs_of(environment)
    assert run.info.status == "FINISHED"
    parameters = json.loads((folder / "config.json").read_text())
    assert set(parameters) | {"kg"} == set(run.data.params)
    assert run.data.params["embedding_dim"] == "32"
    (dataset,) = [d.dataset for d in run.inputs.dataset_inputs]
    graph_hash = json.loads((folder / "graph" / "graph.json").read_text())["hash"]
    assert graph_hash.startswith(dataset.digest)
    assert json.loads(dataset.profile)["sha256"] == graph_hash
    for metric in (
        "loss",
        "link_loss",
        "contrastive_loss",
        "val_mrr",
        "learning_rate",
        "peak_memory_bytes",
    ):
        assert [m.step for m in client.get_metric_history(run.info.run_id, metric)] == [1, 2]
    for name in ("random", "degree", "complex"):
        assert run.data.metrics[f"baseline/{name}/typed_mrr"] > 0
        assert run.data.metrics[f"baseline/{name}/hgt_over_typed_mrr"] == pytest.approx(
            run.data.metrics["test/typed/mrr"] / run.data.metrics[f"baseline/{name}/typed_mrr"]
        )
    logged = {
        f.path
        for top in ("embeddings", "report")
        for f in client.list_artifacts(run.info.run_id, top)
    }
    assert logged >= {
        *(
            f"embeddings/{f}"
            for f in (
                "embeddings.parquet",
                "embeddings.safetensors",
                "nodes.parquet",
                "relations.parquet",
            )
        ),
        *(
            f"report/{f}"
            for f in ("validation.json", "baselines.json", "baselines.txt", "losses.png", "pca.png")
        ),
    }
    again = hgt_here("track", folder.name)
    assert (again.returncode, again.stdout, again.stderr) == (
        0,
        f"MLflow has all entries of {folder.name}.\n",
        "",
    )

    (model,) = client.search_registered_models()
    assert model.aliases == {"champion": 1}
    assert client.get_model_version_by_alias(model.name, "champion").run_id == run.info.run_id
    assert run.data.tags["registered_alias"] == "champion"

    plan = RunFolder(folder).load_plan()
    form = plan.form
    assert form == StepForm.of(RunFolder(folder).load_config()), (
        "this machine has memory enough for the largest form"
    )
    assert str(form) in done.stdout
    assert run.data.tags["plan.form"] == str(form)
    assert run.data.metrics["planned_memory_bytes"] == max(plan.phases.values())

    parquet = folder / "embeddings" / "embeddings.parquet"
    num_nodes = len(pd.read_parquet(parquet))
    assert pl.read_parquet(parquet)["embedding"].dtype == pl.Array(pl.Float32, 32)
    assert duckdb.sql(f"select count(*), min(len(embedding)) from '{parquet}'").fetchall() == [
        (num_nodes, 32)
    ]
    assert len(pd.read_csv(csv)) == num_nodes

    checked = hgt_here("validate", parquet, "--kg", small_kg)
    assert checked.returncode == 0, checked.stderr
    report = json.loads((folder / "report" / "validation.json").read_text())
    assert f"{report['ranking']['typed']['mrr']:.4f}" in checked.stdout


@pytest.mark.slow
def test_a_refused_file_never_aborts_the_program(environment, tmp_path):
    """Read through a file of Python's, every fourth was ended by a thread that read ahead: exit
    code 134, after the right sentence.
    """
    (tmp_path / "kg.csv").write_bytes(b'x_type,x_id,relation,y_type,y_id\na,"1,r,b,2\na,1,r,b,3\n')
    command = [*HGT, "plan", "--kg", str(tmp_path / "kg.csv")]
    for _ in range(5):
        pair = [
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for process in pair:
            _, told = process.communicate(timeout=120)
            assert process.returncode == 2, told
            assert "line 2, column x_id opens a quote" in told


def test_rejected_embeddings_end_with_exit_code_3(hgt_here, environment, small_kg):
    done = hgt_here("train", "--kg", small_kg, *options(SHORT | {"min_mrr_over_chance": 1000}))
    assert done.returncode == 3, done.stdout + done.stderr
    assert "REJECTED" in done.stdout
    reason, remedy = done.stdout.strip().splitlines()[-2:]
    pattern = r"REJECTED: held-out facts rank \S+ times better than chance, \S+ times is required\."
    assert re.fullmatch(pattern, reason)
    trained = SHORT["num_epochs"]
    assert remedy.startswith(f"The run trained {trained} epoch")
    assert remedy.endswith("the default is 100: train longer (--num-epochs).")
    client, (run,) = runs_of(environment)
    assert not client.search_registered_models()
    assert (run.info.status, run.data.tags["accepted"]) == ("FINISHED", "false")
    assert "typed MRR over chance" in run.data.tags["failed_checks"].split("; ")
    assert {
        "test/typed/mrr",
        "test/typed/macro_mrr",
        "test/all_nodes/macro_hits_at_10",
        "test/pairs/macro_auprc",
    } <= set(run.data.metrics)


def test_checks_that_are_not_required_reject_nothing(hgt_here, environment, small_kg):
    lax = ("--required-checks", "finite", "--required-checks", "distinct_rows")
    done = hgt_here(
        "train", "--kg", small_kg, *lax, *options(SHORT | {"min_mrr_over_chance": 1000})
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ACCEPTED" in done.stdout
    _, (run,) = runs_of(environment)
    assert (run.data.tags["accepted"], run.data.tags["failed_checks"]) == ("true", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kg", "no/such/file.csv"], "no such file"),
        (["--kg", "README.md"], "not a table"),
        (["--kg", "{kg}", "--num-heads", "7"], "must be a multiple of num_heads 7"),
        (["--kg", "{kg}", "--dropout", "2"], "dropout must be"),
        (["--kg", "{kg}", "--split", "disease"], "split must be random or <node type>-holdout"),
        (["--kg", "{kg}", "--dropout", "much"], "'much' is not a valid float"),
        (
            ["--kg", "{kg}", "--required-checks", "mrr", "--required-checks", "mmr"],
            "'mmr' is not one of 'finite', 'mean_cosine',",
        ),
        (
            ["--kg", "{kg}", "--min-disease-cosine", "0.9"],
            "min_disease_cosine 0.9 exceeds max_disease_cosine 0.8",
        ),
        (
            ["--kg", "{kg}", "--include-node-types", "unicorn"],
            "Unknown node type(s) unicorn; the file has",
        ),
        (["--kg", "{kg}", "--device", "mps"], "mps is not available"),
        (["--kg", "{kg}", "--output-csv", "no/such/folder/e.csv"], "its folder does not exist"),
        (["--kg", "{kg}", "--output-csv", "hgt"], "is a folder"),
        (["--kg=~nobody-of-this-name/kg.csv"], "no such file"),
        (
            ["--kg", "{kg}", "--embedding-dim", "14"],
            "min_components_90 15 cannot be reached in 14 dimensions",
        ),
        (
            ["--kg", "{kg}", "--decoder", "distmult", "--embedding-dim", "33"],
            "complex baseline needs an even embedding_dim",
        ),
        (["--kg", "{kg}", "--resume", "x"], "either --kg FILE or --resume RUN"),
        (["--kg", "{kg}", "--run-id", "../mine"], "is no valid run name"),
        (["--kg", "{kg}", "--run-id", ""], "is no valid run name"),
        (
            ["--resume", "x", "--run-id", "mine"],
            "either --run-id, the name of a new run, or --resume",
        ),
        (["--resume", "no-such-run"], "no such run"),
        ([], "either --kg FILE or --resume RUN"),
    ],
)
def test_bad_input_is_refused_before_any_server_starts(
    monkeypatch, capfd, tmp_path, small_kg, arguments, words
):
    if "mps" in arguments and os.uname().sysname == "Darwin":
        pytest.skip("this machine has MPS")
    monkeypatch.setenv("HGT_HOME", str(tmp_path))
    monkeypatch.setattr(session, "inside", lambda: True)  # in this process, where it is fast
    monkeypatch.setattr(session, "enter", lambda: None)
    monkeypatch.setattr(sys, "argv", ["hgt", "train", *(a.format(kg=small_kg) for a in arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capfd.readouterr()
    assert ended.value.code == 2
    assert words in said.err
    assert "Traceback" not in said.out + said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--split", "unicorn-holdout"], "unicorn"),
        (["--hidden-dim", "65536"], "bytes on cpu"),
    ],
)
def test_bad_input_found_by_the_flow_gets_one_sentence_and_exit_code_2(
    hgt_here, environment, small_kg, arguments, words
):
    done = hgt_here("train", "--kg", small_kg, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert [run.info.status for run in runs_of(environment)[1]] == ["FAILED"]


@pytest.mark.parametrize(
    "options",
    [[], ["--device", "mps", "--memory", "16GB"]],
    ids=["this machine", "a Mac elsewhere"],
)
def test_plan_says_what_a_run_takes_without_starting_anything(
    hgt_here, environment, small_kg, options
):
    planned = hgt_here("plan", "--kg", small_kg, "--accumulation-steps", "3", *options)
    assert planned.returncode == 0, planned.stderr
    assert not planned.stderr
    assert "nodes, 2,500 facts, 15 edge types" in planned.stdout
    for words in (
        "step",
        "optimizer",
        "inference",
        "evaluation",
        "weights and Adam",
        "3 micro-batches, tables of",
        "MiB  at the peak, of",
    ):
        assert words in planned.stdout
    assert ("of 15,259 MiB available" in planned.stdout) == bool(options)
    assert ("plan for mps" in planned.stdout) == bool(options)
    assert not Path(environment["HGT_HOME"]).exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--kg", "{kg}", "--device", "mps", "--memory", "50MB"],
            "50,000,000 are available. What would fit: --hidden-dim",
        ),
        (
            ["--kg", "{kg}", "--device", "cpu", "--memory", "50MB"],
            "50,000,000 are available. Take another device",
        ),
        (["--kg", "{kg}", "--memory", "much"], "takes a size such as 16GB or 12.5GiB, not 'much'"),
        (["--kg", "no/such/file.csv"], "no such file"),
        (
            ["--kg", "{kg}", "--split", "disease-holdout", "--val-fraction", "0.001"],
            "of them out for validation and 0.05 for the test",
        ),
        (
            ["--kg", "{kg}", "--holdout-relations", "indication"],
            "means something for a holdout split alone",
        ),
    ],
)
def test_plan_refuses_in_one_sentence_with_exit_code_2(hgt_here, small_kg, arguments, words):
    refused = hgt_here("plan", *(a.format(kg=small_kg) for a in arguments))
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert words in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "Traceback" not in refused.stdout + refused.stderr


def test_a_home_that_prefect_cannot_use_is_refused(hgt_here, small_kg, tmp_path):
    """It would wait five minutes for a server whose database is elsewhere."""
    for home, words in (
        (tmp_path / "a%41", "a percent code"),
        (small_kg, "is no folder and cannot be created"),
    ):
        refused = hgt_here("train", "--kg", small_kg, HGT_HOME=str(home))
        assert refused.returncode == 2
        assert words in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1


def test_a_home_without_the_right_to_write_is_refused(monkeypatch, tmp_path):
    """Prefect would start its temporary server anew for ever."""
    monkeypatch.setenv("HGT_HOME", str(tmp_path))
    # these tests may run as root, who may everything
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="this user may not write there"):
        prepare_environment()


def test_a_damaged_database_of_prefect_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HGT_HOME", str(tmp_path))
    for name in ("PREFECT_API_URL", "PREFECT_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "prefect").mkdir()
    database = tmp_path / "prefect" / "prefect.db"
    database.write_bytes(b"no database " * 1_000)
    with pytest.raises(
        InputError, match=r"prefect\.db: Prefect's database is damaged .* Remove it"
    ):
        prepare_environment()


def test_other_packages_of_these_names_in_the_current_folder_are_not_ours(environment, tmp_path):
    for name in ("flows", "tasks", "hgt"):
        (tmp_path / name).mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "flows.cli", "train"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert "either --kg FILE or --resume RUN" in done.stderr


@pytest.mark.parametrize(("ignored", "ended_by"), [(True, 0), (False, 130)])
def test_nohup_outlives_its_terminal(monkeypatch, ignored, ended_by):
    """A real session, with a program that sleeps in the place of the flow."""
    popen = subprocess.Popen
    monkeypatch.setattr(
        session.subprocess,
        "Popen",
        lambda command, **how: popen([sys.executable, "-c", "import time; time.sleep(1)"], **how),
    )
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    hang_up = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGHUP))
    try:
        hang_up.start()
        assert session.run(["train"]) == ended_by
    finally:
        hang_up.join()
        signal.signal(signal.SIGHUP, before)


def test_a_refused_resume_leaves_configuration_place_and_plan(monkeypatch, tmp_path):
    monkeypatch.setenv("HGT_HOME", str(tmp_path))
    folder = RunFolder(tmp_path / "runs" / "mine")
    folder.path.mkdir(parents=True)
    run = LedRun(folder, RunConfig.from_flat({"num_epochs": 7}))
    folder.config.write_text("as it was")
    folder.plan.write_text("as planned")
    with pytest.raises(InputError, match="too little"), run.taken_back_when_refused():
        assert folder.load_config().stopping.num_epochs == 7
        for file in (folder.config, folder.plan, folder.segments):
            file.write_text("as asked for")
        raise InputError("too little memory")
    assert [p.read_text() for p in (folder.config, folder.plan)] == ["as it was", "as planned"]
    assert not folder.segments.exists()
    with pytest.raises(HgtError), run.taken_back_when_refused():
        folder.plan.write_text("as asked for")
        raise HgtError("it failed later")
    assert folder.plan.read_text() == "as asked for"


def test_ctrl_c_stops_at_once_and_resume_goes_on(
    hgt_here, environment, empty_store, small_kg, tmp_path
):
    home = Path(environment["HGT_HOME"])
    home.mkdir()
    shutil.copy(empty_store, home / "mlflow.db")
    log = tmp_path / "log"
    with log.open("w") as out:
        command = [
            *HGT,
            "train",
            "--kg",
            str(small_kg),
            *options(SHORT | {"num_epochs": 2, "min_batches_per_epoch": 20}),
        ]
        child = subprocess.Popen(
            command, env=environment, cwd=CHECKOUT, stdout=out, stderr=out, start_new_session=True
        )
    wait_for(
        lambda: "epoch    1/2" in log.read_text() or child.poll() is not None,
        100,
        f"the first epoch ({log})",
    )
    os.killpg(child.pid, signal.SIGINT)  # as the terminal does
    assert child.wait(15) == 130
    assert "hgt train --resume" in log.read_text()
    assert "Traceback" not in log.read_text()
    folder = run_folder_of(environment)
    _, (run,) = runs_of(environment)
    assert run.info.status == "KILLED"

    done = hgt_here("train", "--resume", folder.name)
    assert done.returncode in (0, 3), done.stdout + done.stderr
    client, (run,) = runs_of(environment)  # the same one
    assert run.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == [1, 2]


def test_a_refused_resume_changes_nothing(hgt_here, environment, small_kg):
    """Neither what it asked for is kept, nor is MLflow told of it: the run may be training just
    then, led by another flow.
    """
    assert hgt_here("train", "--kg", small_kg, *options(SHORT | LAX)).returncode == 0
    folder = run_folder_of(environment)
    before = (folder / "config.json").read_bytes()

    too_small = hgt_here("train", "--resume", folder.name, "--memory", "1MB", "--patience", "7")
    assert too_small.returncode == 2, too_small.stdout + too_small.stderr
    assert "1,000,000 are available" in too_small.stderr
    assert (folder / "config.json").read_bytes() == before

    assert hgt_here("train", "--resume", folder.name).returncode == 0, (
        "as if it had not been asked for"
    )
    with RunFolder(folder).led():
        second = hgt_here("train", "--resume", folder.name, "--num-epochs", "5")
    assert second.returncode == 2, second.stdout + second.stderr
    assert "another process is training this run" in second.stderr
    assert "epoch" not in second.stdout
    assert (folder / "config.json").read_bytes() == before
    _, (run,) = runs_of(environment)
    assert run.info.status == "FINISHED"
    assert "error" not in run.data.tags


@pytest.mark.slow
def test_a_run_whose_mlflow_store_is_lost_goes_on_in_a_new_one(hgt, environment, small_kg):
    assert hgt("train", "--kg", small_kg, *options(SMALL | LAX | {"num_epochs": 1})).returncode == 0
    folder, store = run_folder_of(environment), Path(environment["HGT_HOME"]) / "mlflow.db"
    _, (first,) = runs_of(environment)
    store.write_bytes(b"no database" * 500)
    broken = hgt("train", "--resume", folder.name)
    assert broken.returncode == 2
    assert "MLflow's store sqlite:///" in broken.stderr
    assert "Repair it, or move it away" in broken.stderr
    store.unlink()
    done = hgt("train", "--resume", folder.name, "--num-epochs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"has no run {first.info.run_id} (any more)" in done.stdout
    run = (folder / "mlflow_run_id").read_text().strip()
    # this process's client still has the first one open
    with contextlib.closing(sqlite3.connect(store)) as database:
        assert database.execute("select run_uuid, status from runs").fetchall() == [
            (run, "FINISHED")
        ]
        assert database.execute(
            "select step from metrics where key = 'loss' order by step"
        ).fetchall() == [(1,), (2,)]
        tag = database.execute("select value from tags where key = 'graph_hash'").fetchone()
    assert tag == (first.data.tags["graph_hash"],)


@pytest.mark.slow
def test_a_training_that_diverges_is_not_told_to_go_on(hgt_here, small_kg):
    done = hgt_here("train", "--kg", small_kg, *options(SMALL | {"learning_rate": 10}))
    assert done.returncode == 1
    assert "Lower learning_rate (now 10.0) in a new run" in done.stderr
    assert "--resume" not in done.stderr


@pytest.mark.slow
def test_a_killed_flow_leaves_no_server_behind(hgt, environment, small_kg, tmp_path):
    """Nor do the flow and its parent when both are killed: the next command ends what is left.
    SIGTERM is Ctrl-C, wherever it arrives.
    """
    del environment["PREFECT_API_URL"]  # a temporary server of its own

    def start(name):
        log = tmp_path / name
        with log.open("w") as out:
            command = [
                *HGT,
                "train",
                "--kg",
                str(small_kg),
                *options(SMALL | {"num_epochs": 100_000, "patience": 100_000}),
            ]
            parent = subprocess.Popen(
                command,
                env=environment,
                cwd=CHECKOUT,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        wait_for(
            lambda: "epoch    1/" in log.read_text() or parent.poll() is not None,
            150,
            f"the first epoch ({log})",
        )
        (flow,) = psutil.Process(parent.pid).children()
        children = flow.children()
        assert len(children) == 2, "the server and the trainer"
        return log, parent, flow, children

    def gone(processes):
        return not psutil.wait_procs(processes, timeout=15)[1]

    log, parent, flow, children = start("killed")
    flow.kill()
    assert parent.wait(30) == 1
    assert (
        "The flow was killed (SIGKILL). Continue with `hgt train --resume RUN`" in log.read_text()
    )
    assert gone(children)

    log, parent, flow, children = start("asked")
    flow.terminate()
    assert parent.wait(30) == 130
    assert "hgt train --resume" in log.read_text()
    assert gone(children)

    log, parent, flow, children = start("both")
    parent.kill()
    flow.kill()
    parent.wait()
    (server,) = [c for c in children if "hgt.train" not in c.cmdline()]
    assert gone([c for c in children if c != server])
    assert server.is_running()
    assert hgt("train", "--kg", tmp_path / "none.csv").returncode == 2
    assert gone([server])


@pytest.mark.slow
def test_a_killed_trainer_is_told_of_and_resumed(environment, hgt_here, small_kg, tmp_path):
    log = tmp_path / "log"
    with log.open("w") as out:
        # where the ladder may go on, it does: test_out_of_memory.py
        stays = {"max_shrinks": 0, "fallback": "none"}
        command = [
            *HGT,
            "train",
            "--kg",
            str(small_kg),
            *options(SMALL | stays | {"num_epochs": 4, "min_batches_per_epoch": 20}),
        ]
        child = subprocess.Popen(command, env=environment, cwd=CHECKOUT, stdout=out, stderr=out)
    wait_for(
        lambda: "epoch    1/4" in log.read_text() or child.poll() is not None,
        100,
        f"the first epoch ({log})",
    )
    folder = run_folder_of(environment)
    (trainer,) = living_processes("hgt.train", str(folder))
    trainer.kill()
    assert child.wait(30) == 1
    assert "was killed (exit code -9), most likely for memory" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert runs_of(environment)[1][0].info.status == "FAILED"
    done = hgt_here("train", "--resume", folder)
    assert done.returncode in (0, 3), done.stdout + done.stderr
    client, (run,) = runs_of(environment)
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3, 4]
    assert run.info.status == "FINISHED"


def test_resume_refuses_another_configuration_and_names_both(hgt_here, environment, small_kg):
    assert hgt_here("train", "--kg", small_kg, *options(SHORT)).returncode in (0, 3)
    run = run_folder_of(environment).name
    refused = hgt_here("train", "--resume", run, "--embedding-dim", "64")
    assert refused.returncode == 2
    assert "embedding_dim 32 -> 64" in refused.stderr
    longer = hgt_here("train", "--resume", run, "--num-epochs", "2")
    assert longer.returncode in (0, 3), longer.stderr
    assert [e["epoch"] for e in events(run_folder_of(environment), "epoch")] == [1, 2]


def test_a_real_graph_at_full_dimensions(hgt_here, environment):
    """The defaults, on a sample of hetionet_medium."""
    few = {"limit_nodes": 500, "num_epochs": 2, "min_batches_per_epoch": 2, "baselines": "none"}
    done = hgt_here("train", "--kg", data_file("hetionet_medium"), *options(few))
    assert done.returncode in (0, 3), done.stdout + done.stderr
    folder = run_folder_of(environment)
    first, second = events(folder, "epoch")
    assert second["loss"] < first["loss"]
    assert pl.read_parquet(folder / "embeddings" / "embeddings.parquet")[
        "embedding"
    ].dtype == pl.Array(pl.Float32, 512)


@pytest.mark.slow
def test_ui_serves_the_products_own_store(hgt, environment, small_kg, tmp_path):
    from tests.conftest import free_port, process

    port = free_port()
    with process([*HGT, "ui", "--port", str(port)], tmp_path / "ui.log", environment):
        import contextlib
        import urllib.request

        def answers():
            with contextlib.suppress(OSError):
                return (
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).read()
                    == b"OK"
                )

        wait_for(answers, 90, f"MLflow's UI ({tmp_path / 'ui.log'})")
