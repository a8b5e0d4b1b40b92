"""Caps of each device, and the number of threads."""

import os

import pytest
import torch

from hgt.device.limits import cap_bytes, configure_threads, prepare_device
from hgt.errors import InputError
from tests.unit.hgt.device.conftest import GIB


@pytest.mark.parametrize(
    ("limit", "fraction"), [(None, 1.0), (10 * GIB, 10 / 16), (64 * GIB, 1.0), (1, 1 / (16 * GIB))]
)
def test_the_cap_on_mps_is_a_fraction_of_the_recommended_memory_and_never_none(
    mps, limit, fraction
):
    assert prepare_device("mps", limit) == torch.device("mps")
    assert mps.fraction == fraction > 0, "0 is torch's word for no limit"


@pytest.mark.parametrize(
    ("limit", "fraction"), [(None, 1.0), (10 * GIB, 10 / 80), (100 * GIB, 1.0)]
)
def test_the_cap_on_cuda_is_a_fraction_of_all_its_memory(cuda, limit, fraction):
    prepare_device("cuda", limit)
    assert cuda.fraction == fraction


@pytest.mark.parametrize(("given", "used"), [(None, ":4096:2:16:8"), (":16:8", ":16:8")])
def test_cublas_work_spaces_are_limited_unless_the_user_says_otherwise(
    cuda, monkeypatch, given, used
):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given or "")
    if given is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    prepare_device("cuda")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == used


def test_the_cpu_has_no_cap_of_torchs():
    assert prepare_device("cpu", 1 << 20) == torch.device("cpu")
    assert len(torch.zeros(1 << 20)) == 1 << 20


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_of_nothing_is_refused(limit):
    with pytest.raises(InputError, match="must be above 0 bytes"):
        cap_bytes("cpu", limit)


@pytest.mark.parametrize(
    ("given", "threads"),
    [("1", 1), ("1,2", 1), (" 1 ", 1), ("", None), ("0", None), ("many", None)],
)
def test_omp_num_threads_as_openmp_reads_it(monkeypatch, given, threads):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    try:
        configure_threads()
        assert torch.get_num_threads() == (threads or before)
    finally:
        torch.set_num_threads(before)
