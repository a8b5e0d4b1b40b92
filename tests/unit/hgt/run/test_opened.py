"""A run is opened once: its files, its plan, and the device that the plan is for."""

import dataclasses
import json

import pytest
import torch

from hgt.errors import InputError
from hgt.run.opened import open_run
from tests.planned import made_up_plan
from tests.unit.hgt.programs.test_training import make_run


@pytest.fixture
def folder(tmp_path, small_kg):
    return make_run(tmp_path / "run", small_kg)


def test_a_run_as_it_lies_in_its_folder(folder):
    plan = made_up_plan(phases={"step": 5})
    plan.save(folder.plan)
    run = open_run(folder)
    assert run.config == folder.load_config()
    assert run.graph.hash == folder.load_graph().hash
    assert run.identity.split_hash == run.split.hash
    assert (run.plan, run.form, run.device) == (plan, plan.form, torch.device("cpu"))
    assert run.memory.planned == {"step": 5}


def test_a_run_without_a_plan_has_none(folder):
    run = open_run(folder)
    assert (run.plan, run.form, run.memory.planned) == (None, None, {})


def test_a_damaged_plan_is_named(folder):
    good = dataclasses.asdict(made_up_plan())
    wrong = [
        {"device": 3},
        {"form": {"unknown": 1}},
        {"phases": 3},
        {"limit_bytes": "1"},
        {"more": 1},
    ]
    texts = ["", "[]", "{}", "[" * 10_000, *(json.dumps(good | each) for each in wrong)]
    for text in texts:
        folder.plan.write_text(text)
        with pytest.raises(InputError, match=r"plan\.json: .*Remove it, then resume"):
            open_run(folder)
    folder.plan.write_text(json.dumps(good))
    assert open_run(folder).plan == made_up_plan()
