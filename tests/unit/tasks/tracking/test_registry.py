"""The model registry on a real SQLite store: one registered model per graph, the champion, and
predictions of a version loaded by alias.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.utils.file_utils import local_file_uri_to_path

from hgt.config import RunConfig
from hgt.embeddings.predictor import COLUMNS, Predictor
from hgt.embeddings.table import Embeddings
from hgt.errors import InputError
from hgt.graph.demo_graph import write_demo_graph
from hgt.graph.knowledge_graph import KnowledgeGraph
from hgt.graph.split import split_facts
from hgt.model.hgt_model import HGTModel
from hgt.programs.embedding import embed_run
from hgt.reading.edge_table import read_edge_table
from hgt.run.checkpoint import Checkpoint, Progress, save_checkpoint, state_tensors
from hgt.run.folder import RunFolder
from hgt.run.identity import Identity
from tasks.home import own_store
from tasks.tracking import registry
from tasks.tracking.mlflow_run import MlflowRun
from tasks.tracking.registry import CANDIDATE, CHAMPION, model_name, register_run, withdraw_run
from tasks.tracking.score import Score
from tasks.tracking.served_model import QUERY, TailPredictor

pytestmark = pytest.mark.usefixtures("own_home")
VALUES = {"embedding_dim": 16, "hidden_dim": 16, "num_heads": 2, "device": "cpu"}
RANDOM = '["random", 0.05, 0.05]'
METRICS = {"hits": {"1": 0.1, "3": 0.2, "10": 0.3}, "chance_mrr": 0.01, "num_ranks": 4}


@pytest.fixture(scope="module")
def make_graph(tmp_path_factory):
    def make(seed):
        kg = tmp_path_factory.mktemp("graph") / "kg.csv"
        write_demo_graph(kg, 200, 1_000, 4, seed)
        return KnowledgeGraph.from_edge_table(read_edge_table(kg), RunConfig().graph)

    return make


@pytest.fixture
def embedded(tmp_path):
    """`embedded(graph, seed, mrr)`: a run with a model of that seed, said to reach that MRR."""

    def make(graph, seed, mrr, **values):
        folder = RunFolder(tmp_path / f"run-{len(list(tmp_path.iterdir()))}")
        folder.report.mkdir(parents=True)
        config = RunConfig.from_flat(VALUES | values | {"seed": seed})
        config.save(folder.config)
        graph.save(folder.graph)
        split = split_facts(graph, config.split)
        split.save(folder.split, graph)
        torch.manual_seed(seed)
        tensors = state_tensors("model", HGTModel(graph, config.model).state_dict())
        save_checkpoint(
            folder.checkpoints,
            Checkpoint(tensors, Progress(seed=seed), graph.hash, config.fingerprint(), split.hash),
        )
        embed_run(folder, lambda *event, **values: None)
        report_mrr(folder, mrr)
        tracker = MlflowRun(folder)
        tracker.remember()
        return folder, tracker

    return make


def report_mrr(folder, mrr):
    of_edge_type = [{"edge_type": ["drug", "treats", "disease"], "mrr": mrr, **METRICS}]
    ranking = {
        name: METRICS | {"mrr": mrr}
        for name in ("typed", "typed_macro", "all_nodes", "all_nodes_macro")
    }
    graph = folder.load_graph()
    made_of = Identity.of(
        graph, folder.load_split(graph, folder.load_config().split), folder.load_config()
    ).as_dict()
    report = {
        "ranking": ranking | {"by_edge_type": of_edge_type},
        "classification": None,
        "checks": [],
        **made_of,
    }
    (folder.report / "validation.json").write_text(
        json.dumps(report if mrr is not None else report | {"ranking": None})
    )


def aliases(tracker, graph):
    return {
        alias: str(number)
        for alias, number in tracker.call(
            "get_registered_model", model_name(graph.hash)
        ).aliases.items()
    }


def test_the_champion_is_the_best_of_its_graph(make_graph, embedded):
    graph = make_graph(1)
    first = register_run(*(run := embedded(graph, 0, 0.30)))
    assert (first.version, first.alias) == ("1", CHAMPION)
    worse = register_run(*embedded(graph, 1, 0.29))
    assert (worse.name, worse.version, worse.alias) == (first.name, "2", CANDIDATE)
    assert worse.reason == "typed MRR 0.2900 < 0.3000 of version 1, the champion until now"
    equal = register_run(*embedded(graph, 2, 0.30))
    assert equal.alias == CANDIDATE, "only a better one moves it"
    better_run = embedded(graph, 3, 0.31)
    better = register_run(*better_run)
    assert (better.version, better.alias) == ("4", CHAMPION)
    tracker = better_run[1]
    assert aliases(tracker, graph) == {CHAMPION: "4", CANDIDATE: "3"}
    tags = tracker.call("get_run", tracker.run_id).data.tags
    assert (tags["registered_model"], tags["registered_version"], tags["registered_alias"]) == (
        first.name,
        "4",
        CHAMPION,
    )
    version = tracker.call("get_model_version", first.name, "4")
    assert version.run_id == tracker.run_id
    assert (version.tags["graph_hash"], float(version.tags["typed_mrr"])) == (graph.hash, 0.31)
    assert version.description.startswith("# Embeddings of a knowledge graph")
    assert not list(run[0].path.glob(".model*"))


def test_a_version_that_is_rejected_later_has_no_alias(make_graph, embedded):
    """By thresholds that a resume gave anew; the next accepted run is the champion then."""
    graph = make_graph(7)
    folder, tracker = embedded(graph, 0, 0.30)
    assert withdraw_run(folder, tracker) == [], "never registered"
    register_run(folder, tracker)
    other = embedded(graph, 1, 0.20)
    assert withdraw_run(*other) == []
    assert aliases(tracker, graph) == {CHAMPION: "1"}
    assert withdraw_run(folder, tracker) == [CHAMPION]
    assert aliases(tracker, graph) == {}
    assert tracker.call("get_run", tracker.run_id).data.tags["registered_alias"] == "none"
    assert register_run(*other).alias == CHAMPION
    assert register_run(folder, tracker).alias == CHAMPION, (
        "accepted once more, it is the same version and the better one"
    )
    assert aliases(tracker, graph) == {CHAMPION: "1"}


def test_other_graphs_and_other_splits_are_not_compared(make_graph, embedded):
    graph = make_graph(2)
    register_run(*embedded(graph, 0, 0.30))
    other_split = embedded(graph, 1, 0.90, test_fraction=0.2)
    held_out = register_run(*other_split)
    assert held_out.alias == CANDIDATE
    assert "was measured on another kind of split" in held_out.reason
    assert aliases(other_split[1], graph) == {CHAMPION: "1", CANDIDATE: "2"}
    elsewhere = register_run(*embedded(make_graph(3), 0, 0.10))
    assert (elsewhere.version, elsewhere.alias) == ("1", CHAMPION), "of its own graph"


@pytest.mark.parametrize(
    ("mine", "champion", "better", "words"),
    [
        (Score(0.2, RANDOM), Score(0.1, RANDOM), True, "0.2000 > 0.1000 of version 3"),
        (Score(0.1, RANDOM), Score(0.1, RANDOM), False, "0.1000 = 0.1000"),
        (Score(None, RANDOM), Score(0.1, RANDOM), False, "ranked no facts"),
        (Score(0.2, RANDOM), Score(None, RANDOM), False, "ranked no facts"),
        (Score(0.2, "other"), Score(0.1, RANDOM), False, "another kind of split"),
    ],
)
def test_what_beats_a_champion(mine, champion, better, words):
    found, reason = mine.against(Score.from_tags(champion.as_tags()), "3")
    assert found is better
    assert words in reason


def test_a_resumed_run_registers_new_embeddings_alone(make_graph, embedded):
    graph = make_graph(4)
    register_run(*embedded(graph, 0, 0.30))
    folder, tracker = embedded(graph, 1, 0.20)
    assert register_run(folder, tracker).alias == CANDIDATE
    again = register_run(folder, tracker)
    assert (again.version, again.alias) == ("2", CANDIDATE)
    patient = RunConfig.from_flat(folder.load_config().to_flat() | {"patience": 77})
    patient.save(folder.config)
    embed_run(folder, lambda *event, **values: None)  # the same vectors, beside another parameter
    assert register_run(folder, tracker).version == "2"
    tracker.call("set_registered_model_alias", again.name, CHAMPION, "2")
    assert (register_run(folder, tracker).version, aliases(tracker, graph)) == (
        "2",
        {CHAMPION: "2"},
    ), "no longer a candidate"
    train_on(folder, graph, 0.40)
    trained_on = register_run(folder, tracker)
    assert (trained_on.version, trained_on.alias) == ("3", CHAMPION)


def train_on(folder, graph, mrr):
    """As a resumed run does: a later checkpoint, its embeddings, its report."""
    torch.manual_seed(9)
    config = folder.load_config()
    tensors = state_tensors("model", HGTModel(graph, config.model).state_dict())
    made_of = Identity.of(graph, folder.load_split(graph, config.split), config).as_dict()
    save_checkpoint(
        folder.checkpoints, Checkpoint(tensors, Progress(seed=1, epoch=1, best_epoch=1), **made_of)
    )
    embed_run(folder, lambda *event, **values: None)
    report_mrr(folder, mrr)


def test_a_champion_keeps_its_files_when_its_run_is_trained_on(make_graph, embedded):
    graph = make_graph(6)
    folder, tracker = embedded(graph, 0, 0.30)
    champion = register_run(folder, tracker)
    before = (folder.embeddings / "embeddings.parquet").read_bytes()
    train_on(folder, graph, 0.20)
    assert register_run(folder, tracker).alias == CANDIDATE
    source = tracker.call("get_model_version", champion.name, champion.version).source
    kept = Path(local_file_uri_to_path(source)) / "artifacts" / "embeddings.parquet"
    assert kept.read_bytes() == before


def test_of_runs_that_end_together_the_best_becomes_the_champion(make_graph, embedded, monkeypatch):
    graph = make_graph(7)
    runs = [embedded(graph, seed, mrr) for seed, mrr in enumerate((0.20, 0.40, 0.30))]
    decide = registry._alias

    def slowly(*arguments):
        decided = decide(*arguments)
        time.sleep(0.5)
        return decided

    monkeypatch.setattr(registry, "_alias", slowly)
    with ThreadPoolExecutor(len(runs)) as pool:
        assert len(list(pool.map(lambda run: register_run(*run), runs))) == len(runs)
    tracker = runs[0][1]
    champion = tracker.call("get_model_version_by_alias", model_name(graph.hash), CHAMPION)
    assert float(champion.tags["typed_mrr"]) == 0.40


def test_what_was_deleted_in_mlflow_is_made_anew(make_graph, embedded):
    graph = make_graph(8)
    folder, tracker = embedded(graph, 0, 0.30)
    name = register_run(folder, tracker).name
    register_run(*embedded(graph, 1, 0.20))
    tracker.call("delete_model_version", name, "1")
    third = register_run(*embedded(graph, 2, 0.10))
    assert (third.version, third.alias, third.reason) == (
        "3",
        CHAMPION,
        "first version of its graph",
    )
    again = register_run(folder, tracker)
    assert (again.version, again.alias) == ("4", CHAMPION)
    tracker.call("delete_registered_model", name)
    assert register_run(folder, tracker).version == "1"


def test_a_home_whose_name_looks_like_a_part_of_a_uri(make_graph, embedded, tmp_path):
    graph = make_graph(9)
    folder, tracker = embedded(graph, 0, 0.30)
    odd = RunFolder(tmp_path / "100 % of #7")
    shutil.copytree(folder.path, odd.path)
    assert register_run(odd, tracker).alias == CHAMPION


_LOADED = """
import json, sys, mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(f"models:/{sys.argv[2]}@champion")
import hgt
questions = pd.DataFrame({
    "head": [sys.argv[3], sys.argv[4]], "relation": ["indication", "rev_indication"],
    "head_type": ["drug", None],
})
answer = model.predict(questions, params={"k": 3})
print(json.dumps({"code": hgt.__file__, "answer": answer.to_dict("list"),
                  "default": len(model.predict(questions[:1])),
                  "graph": model.metadata.metadata["graph_hash"]}))
"""


def test_a_version_predicts_after_loading_by_alias(make_graph, embedded, tmp_path):
    graph = make_graph(5)
    folder, tracker = embedded(graph, 0, 0.30)
    made = register_run(folder, tracker)
    drug, disease = str(graph.node_ids["drug"][0]), str(graph.node_names["disease"][1])
    command = [sys.executable, "-c", _LOADED, own_store(), made.name, drug, disease]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert re.search("/artifacts/model-[0-9a-f]{12}/code/hgt/", found["code"]), (
        "it brings its own code"
    )
    assert found["graph"] == graph.hash
    assert found["default"] == 10
    predictor = Predictor.load(folder.embeddings / "embeddings.parquet", folder.graph)
    expected = [
        predictor.tails(drug, "indication", 3, "drug"),
        predictor.tails(disease, "rev_indication", 3),
    ]
    answer = pd.DataFrame(found["answer"])
    assert answer["query"].tolist() == [0] * 3 + [1] * 3
    pd.testing.assert_frame_equal(
        answer.drop(columns="query"), pd.concat(expected, ignore_index=True), check_dtype=False
    )
    (place,) = (
        f.path
        for f in tracker.call("list_artifacts", tracker.run_id)
        if f.path.startswith("model-")
    )
    model = tracker.call("list_artifacts", tracker.run_id, f"{place}/artifacts")
    assert {f.path.rsplit("/", 1)[-1] for f in model} == {
        *(
            "embeddings.parquet",
            "relations.parquet",
            "weights.safetensors",
            "config.json",
            "validation.json",
            "model_card.md",
            "graph",
        ),
    }


@pytest.fixture(scope="module")
def served(make_graph):
    """What a version answers with, on random vectors."""
    graph = make_graph(10)
    generator = torch.Generator().manual_seed(0)
    vectors, relations = (
        torch.randn(n, 8, generator=generator) for n in (graph.total_nodes, len(graph.edge_types))
    )
    served = TailPredictor()
    served.predictor = Predictor(
        Embeddings(graph.node_table(), vectors, tuple(graph.edge_types), relations, {}), graph
    )
    return served


def test_no_questions_have_no_answers(served):
    answer = served.predict(None, pd.DataFrame({"head": [], "relation": []}, dtype=object))
    assert (len(answer), list(answer)) == (0, [QUERY, *COLUMNS])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"head": None}, "query 1: head None: is neither text nor a whole number"),
        ({"head": np.nan}, "query 1: head nan: is neither text nor a whole number"),
        ({"head": 3.5}, "query 1: head 3.5: is neither text nor a whole number"),
        ({"head": True}, "query 1: head True: is neither text nor a whole number"),
        ({"head": float("inf")}, "query 1: head inf: is neither text nor a whole number"),
        ({"head": 10**9}, "query 1: head '1000000000': the graph has no node"),
        ({"head": ["disease 3"]}, "query 1: head .*: is neither text nor a whole number"),
        ({"head": "nobody"}, "query 1: head 'nobody': the graph has no node"),
        ({"relation": None}, "query 1: relation None: is neither text nor a whole number"),
        ({"head_type": 3}, "query 1: head_type '3': the graph has no such type"),
    ],
)
def test_a_question_that_cannot_be_answered_is_named(served, changed, words):
    question = {"head": "disease 3", "relation": "rev_indication", "head_type": None}
    with pytest.raises(InputError, match=words):
        served.predict(None, pd.DataFrame([question, question | changed], dtype=object))


def test_params_that_are_none_are_the_defaults(served):
    questions = pd.DataFrame({"head": ["disease 3"], "relation": ["rev_indication"]})
    pd.testing.assert_frame_equal(
        served.predict(None, questions, {"k": None, "include_known": None}),
        served.predict(None, questions),
    )
