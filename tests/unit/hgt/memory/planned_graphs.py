"""Devices, graphs and forms that the tests of the plan share."""

import dataclasses
import functools

import pytest
import torch

from hgt.device.probe import DeviceProbe
from hgt.training.step_form import StepForm
from tests.bench.graphs import primekg_like

GPU = DeviceProbe("cuda", "a GPU", 80 << 30, "made for this test", torch.__version__, "x86_64")
graph_of_size = functools.cache(primekg_like)
COMPUTED_AGAIN = {"recompute_layers": True, "keep_projections": False}


def forms(config):
    """From the largest to the smallest."""
    form = StepForm.of(config)
    for _ in range(30):
        yield form
        form = form.smaller()
        if form is None:
            return
    pytest.fail("there is no smallest form")


def limited(limit_bytes, device="cuda"):
    return dataclasses.replace(GPU, type=device, limit_bytes=int(limit_bytes))
