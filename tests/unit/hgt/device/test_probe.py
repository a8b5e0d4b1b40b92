"""Which device is found, and how much memory it leaves a run."""

import pytest
import torch

from hgt.device import host
from hgt.device.probe import probe_device
from hgt.errors import InputError
from tests.unit.hgt.device.conftest import GIB


def test_a_limit_bounds_what_is_planned_with(mps, cuda):
    assert probe_device("mps").limit_bytes == 16 * GIB
    assert probe_device("mps", 10 * GIB).limit_bytes == 10 * GIB
    assert probe_device("cuda").limit_bytes == 60 * GIB
    assert probe_device("cuda", 70 * GIB).limit_bytes == 60 * GIB
    assert probe_device("cpu", 1 << 20).limit_bytes == 1 << 20
    assert probe_device(None).type == "mps"


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        InputError, match=r"Device cuda is not available on this machine; available:.*cpu"
    ):
        probe_device("cuda")


def test_the_cpus_limit_is_what_its_container_leaves(monkeypatch):
    free = probe_device("cpu").limit_bytes
    monkeypatch.setattr(host.cgroup, "available_bytes", lambda: 1 << 20)
    assert probe_device("cpu").limit_bytes == 1 << 20
    monkeypatch.setattr(host.cgroup, "available_bytes", lambda: free * 1000)
    assert free / 2 < probe_device("cpu").limit_bytes < free * 2
