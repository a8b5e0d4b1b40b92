"""A device that the table gains, without any other code: it works through torch.accelerator and in
the formulations that run on every device."""

import dataclasses
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from hgt.device.limits import prepare_device
from hgt.device.memory_use import DeviceMemory
from hgt.device.out_of_memory import ProgramEnd, memory_death
from hgt.device.probe import probe_device
from hgt.device.traits import DEVICES, DeviceTraits
from hgt.errors import OutOfMemory
from hgt.kernels.choice import edge_kernels, mask_kernel, node_kernels
from hgt.kernels.edges import ChunkedKernels
from hgt.kernels.nodes import NodeKernels
from hgt.memory.plan import plan_memory
from hgt.training import trainee as trainees
from hgt.training.step import train_step
from hgt.training.steps import Steps
from tests.conftest import CHECKOUT
from tests.unit.hgt.device.conftest import GIB

ROW = DeviceTraits("xpu", "XPU", re.compile("XPU out of memory"))


class FakeAccelerator:
    """torch.accelerator, and the module of its device, with 8 GiB of which 6 are free."""

    def __init__(self):
        self.allocated, self.reserved, self.fraction, self.clears = 1 * GIB, 2 * GIB, None, 0

    def current_accelerator(self, check_available=False):
        return torch.device("xpu")

    def get_memory_info(self):
        return 6 * GIB, 8 * GIB

    def memory_allocated(self):
        return self.allocated

    def memory_reserved(self):
        return self.reserved

    def max_memory_allocated(self):
        return 3 * GIB

    def max_memory_reserved(self):
        return 4 * GIB

    def empty_cache(self):
        self.clears += 1

    def set_per_process_memory_fraction(self, fraction):
        self.fraction = fraction


@pytest.fixture
def xpu(monkeypatch):
    fake = FakeAccelerator()
    monkeypatch.setitem(DEVICES, "xpu", ROW)
    monkeypatch.setattr(torch, "accelerator", fake)
    module = SimpleNamespace(
        get_device_name=lambda: "a card",
        set_per_process_memory_fraction=fake.set_per_process_memory_fraction,
    )
    monkeypatch.setattr(torch, "get_device_module", lambda: module)
    return fake


@pytest.mark.parametrize("wanted", [None, "xpu"])
def test_it_is_found_before_the_cpu(xpu, wanted):
    probe = probe_device(wanted)
    assert (probe.type, probe.name, probe.limit_bytes) == ("xpu", "a card", 6 * GIB)


def test_it_is_not_there_without_an_accelerator_of_its_type(xpu, monkeypatch):
    for current in (None, torch.device("mtia")):
        monkeypatch.setattr(xpu, "current_accelerator", lambda check_available, c=current: c)
        assert not ROW.is_available()


def test_it_is_capped_where_its_module_can_do_so(xpu, monkeypatch):
    assert prepare_device("xpu", 2 * GIB) == torch.device("xpu")
    assert xpu.fraction == 0.25
    monkeypatch.setattr(torch, "get_device_module", lambda: SimpleNamespace())
    assert prepare_device("xpu", 2 * GIB) == torch.device("xpu")


def test_its_memory_is_measured_and_cleared(xpu):
    memory = DeviceMemory("xpu", {})
    xpu.reserved = 7 * GIB  # of a cap of 8, most of it cache
    with memory.phase("step"):
        pass
    assert xpu.clears == 1
    assert (memory.peak.allocated_bytes, memory.peak.reserved_bytes) == (3 * GIB, 4 * GIB)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("Allocation on device"), RuntimeError("XPU out of memory. Tried")],
)
def test_its_out_of_memory_counts(xpu, monkeypatch, error):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    memory = DeviceMemory("xpu", {"step": 5})
    with pytest.raises(OutOfMemory, match="XPU ran out of memory") as caught, memory.phase("step"):
        raise error
    details = {"device": "xpu", "phase": "step", "planned_bytes": 5, "allocated_bytes": 1 * GIB}
    assert caught.value.details() == details
    assert memory_death(ProgramEnd(-6, "XPU out of memory")) is not None
    assert memory_death(ProgramEnd(-6, "TPU out of memory")) is None


def test_its_plan_is_that_of_an_accelerator_without_kernels_of_its_own(xpu, graph, make_config):
    probe = probe_device("xpu")
    config = make_config(device=None, num_neighbors=3)
    plans = {t: plan_memory(graph, config, dataclasses.replace(probe, type=t)) for t in DEVICES}
    assert plans["xpu"].phases == plans["mps"].phases
    assert plans["xpu"].phases != plans["cuda"].phases
    assert plans["xpu"].phases != plans["cpu"].phases
    assert (plans["xpu"].device, plans["xpu"].fits) == ("xpu", True)


def test_its_kernels_are_those_of_every_device(xpu):
    assert type(edge_kernels("xpu")) is ChunkedKernels
    assert edge_kernels("xpu").chunk == ROW.edges_at_a_time > edge_kernels("cpu").chunk
    assert type(node_kernels("xpu")) is NodeKernels
    kept, seed = torch.empty(2_000, dtype=torch.bool), torch.tensor([1, 2], dtype=torch.int32)
    other = torch.empty_like(kept)
    mask_kernel("xpu")(kept, seed, 0)
    mask_kernel("cpu")(other, seed, 0)
    assert torch.equal(kept, other)


def test_a_device_that_is_not_in_the_table_is_refused():
    with pytest.raises(KeyError, match="mtia"):
        edge_kernels("mtia")


def test_the_training_step_runs_on_a_device_of_another_type(monkeypatch, graph, split, make_config):
    """torch's own made-up device, which has shapes and no values."""
    monkeypatch.setitem(DEVICES, "meta", DeviceTraits("meta", "Meta", re.compile("meta")))
    # torch 2.13 has a fused Adam for every accelerator that it knows, and none for this one.
    monkeypatch.setattr(
        trainees, "adam", lambda model, config, _: torch.optim.AdamW(model.parameters())
    )
    config = make_config(dropout=0.2, input_dropout=0.2, average_decay=0.0)
    trainee = trainees.build_trainee(config, graph, split, torch.device("meta"))
    steps = Steps(trainee)
    losses = train_step(trainee, trainee.batches.draw(0, 0))
    assert not steps.recordable
    assert {loss.device.type for loss in losses.values()} == {"meta"}
    assert {p.grad.device.type for p in trainee.model.parameters()} == {"meta"}


def test_users_can_name_it_at_once():
    """The configuration, the run's files and the command line take the names from the table."""
    code = """
import re, sys
from hgt.device.traits import DEVICES, DeviceTraits
DEVICES["xpu"] = DeviceTraits("xpu", "XPU", re.compile("XPU out of memory"))
from hgt.config import RunConfig
print(RunConfig.from_flat({"device": "xpu"}).execution.compute_device)
from flows.cli import main
sys.argv = ["hgt", "doctor", "--help"]
try:
    main()
finally:
    print("torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    first, *help_text, torch_imported = done.stdout.splitlines()
    assert (first, torch_imported) == ("xpu", "False")
    assert "xpu" in "\n".join(help_text)
