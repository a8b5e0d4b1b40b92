"""How programs end: what they tell of an error, with which exit code, and in which phase memory ran
out.
"""

from types import SimpleNamespace

import pytest
import torch

from hgt.config import RunConfig
from hgt.errors import InputError
from hgt.programs import embedding, evaluation
from hgt.run.checkpoint import Checkpoint, Progress
from hgt.run.events import EventReader
from hgt.run.folder import RunFolder
from hgt.run.identity import Identity
from hgt.run.program import run_program
from tests.planned import made_up_plan
from tests.unit.hgt.programs.test_training import make_run

pytestmark = pytest.mark.usefixtures("keeping_signals")
PHASES = {"step": 1000, "inference": 2000, "evaluation": 3000}


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    RunConfig().save(folder.config)
    return folder


def too_much(*arguments):
    return torch.empty(2**60, dtype=torch.uint8)


def error_of(folder):
    (event,) = [e for e in EventReader(folder.events).new() if e["event"] == "error"]
    return event


def test_out_of_memory_outside_of_every_phase(folder, capfd):
    """A real failure of torch's."""
    assert run_program("train", [str(folder.path)], too_much) == 4
    event = error_of(folder)
    assert (event["type"], event["out_of_memory"], event["device"], event["phase"]) == (
        "OutOfMemory",
        True,
        "cpu",
        "train",
    )
    assert event["allocated_bytes"] > 1 << 20
    assert "DefaultCPUAllocator: can't allocate memory" in event["message"]
    assert len(capfd.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "exit_code", "traceback"),
    [(ValueError("not enough memory"), 1, True), (InputError("that file is no graph"), 2, False)],
)
def test_other_errors(folder, capfd, error, exit_code, traceback):
    def fail(folder, on_event):
        raise error

    assert run_program("train", [str(folder.path)], fail) == exit_code
    event = error_of(folder)
    assert (event["type"], event["message"], event["out_of_memory"]) == (
        type(error).__name__,
        str(error),
        False,
    )
    assert "device" not in event
    assert ("Traceback" in capfd.readouterr().err) is traceback


def test_the_phases_of_embedding_and_evaluation(tmp_path, small_kg, monkeypatch):
    folder = make_run(tmp_path / "run", small_kg)
    made_up_plan(phases=PHASES).save(folder.plan)
    graph = folder.load_graph()
    made_of = Identity.of(
        graph, folder.load_split(graph, folder.load_config().split), folder.load_config()
    ).as_dict()
    monkeypatch.setattr(
        embedding, "best_checkpoint", lambda path: Checkpoint({}, Progress(0), **made_of)
    )
    monkeypatch.setattr(embedding.HGTModel, "load_state_dict", lambda model, state: None)
    monkeypatch.setattr(embedding, "infer_layerwise", too_much)
    assert run_program("embed", [str(folder.path)], embedding.embed_run) == 4
    event = error_of(folder)
    assert (event["phase"], event["planned_bytes"]) == ("inference", 2000)

    folder.events.unlink()
    of_graph = (
        graph.node_table().astype(str),
        torch.zeros(0),
        graph.edge_types,
        torch.zeros(0),
        made_of,
    )
    fields = ("nodes", "vectors", "edge_types", "relations", "origin")
    monkeypatch.setattr(
        evaluation.Embeddings,
        "load",
        lambda path: SimpleNamespace(**dict(zip(fields, of_graph, strict=True))),
    )
    monkeypatch.setattr(evaluation, "report_on", too_much)
    assert run_program("evaluate", [str(folder.path)], evaluation.evaluate_run) == 4
    event = error_of(folder)
    assert (event["phase"], event["planned_bytes"]) == ("evaluation", 3000)
