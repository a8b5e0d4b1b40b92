"""Memory in use and at the peak; when the cache of a device is cleared."""

import mmap

import numpy as np
import pytest
import torch

from hgt.device.memory_use import DeviceMemory, MemoryUse, memory_in_use, peak_memory
from hgt.device.traits import traits_of
from hgt.errors import OutOfMemory
from tests.unit.hgt.device.conftest import GIB
from tests.unit.hgt.device.test_out_of_memory import MPS


def test_the_cpus_peak_stays_when_the_memory_is_gone():
    before = peak_memory("cpu").process_bytes
    now = memory_in_use("cpu").process_bytes
    size = max(before - now, 0) + (100 << 20)
    with mmap.mmap(-1, size) as block:  # glibc's heap may keep it (`keep_freed_memory`)
        np.frombuffer(block, np.uint8)[:] = 1
    peak = peak_memory("cpu").process_bytes
    assert before + (60 << 20) < peak < before + (200 << 20)
    assert memory_in_use("cpu").process_bytes < peak
    assert peak_memory("cpu").reserved_bytes == peak


def test_cudas_peaks_are_its_allocators(cuda):
    peak = peak_memory("cuda")
    assert (peak.allocated_bytes, peak.reserved_bytes) == (3, 4)
    assert (memory_in_use("cuda").allocated_bytes, memory_in_use("cuda").reserved_bytes) == (1, 2)


def test_mps_peak_is_the_highest_that_was_seen_at_the_end_of_a_phase(mps):
    memory = DeviceMemory("mps", {})
    for allocated, driver in ((2, 3), (5, 9), (1, 4)):
        with memory.phase("step"):
            mps.allocated, mps.driver = allocated * GIB, driver * GIB
    assert (memory.peak.allocated_bytes, memory.peak.reserved_bytes) == (5 * GIB, 9 * GIB)
    assert memory.peak.process_bytes > 0
    assert memory.as_dict()["peak_memory_bytes"] == 9 * GIB


def test_mps_peak_takes_what_the_allocator_remembers_of_the_middle_of_a_phase(mps, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", lambda: 7 * GIB)
    monkeypatch.setattr(torch.accelerator, "max_memory_reserved", lambda: 8 * GIB)
    mps.allocated, mps.driver = GIB, 9 * GIB  # compiled graphs besides what the allocator counts
    peak = peak_memory("mps")
    assert (peak.allocated_bytes, peak.reserved_bytes) == (7 * GIB, 9 * GIB)


def test_clearing_measures_first(mps):
    memory = DeviceMemory("mps", {})
    mps.allocated, mps.driver = GIB, 6 * GIB
    memory.clear_cache()
    assert mps.clears == 1
    assert mps.driver == GIB
    assert memory.peak.reserved_bytes == 6 * GIB


@pytest.mark.parametrize(
    ("allocated", "driver", "limit", "clears"),
    [
        (4, 12, None, 0),  # 75 % of the cap
        (4, 13, None, 1),  # 81 %
        (4, 9, 10 * GIB, 1),  # of a smaller cap
        # full of tensors: clearing would only lose the compiled graphs, step after step
        (12, 13, None, 0),
    ],
)
def test_the_cache_is_cleared_under_pressure_alone(mps, allocated, driver, limit, clears):
    memory = DeviceMemory("mps", {}, limit)
    with memory.phase("step"):
        mps.allocated, mps.driver = allocated * GIB, driver * GIB
    assert mps.clears == clears
    assert memory.peak.reserved_bytes == driver * GIB


def test_a_step_that_needs_most_of_the_cap_keeps_its_cache(mps, monkeypatch):
    """Between the steps nothing is allocated, but the next one needs the same blocks again."""
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", lambda: 13 * GIB)
    monkeypatch.setattr(torch.accelerator, "max_memory_reserved", lambda: 14 * GIB)
    memory = DeviceMemory("mps", {})
    with memory.phase("step"):
        mps.allocated, mps.driver = GIB, 14 * GIB
    assert mps.clears == 0


def test_a_failed_phase_names_its_plan_and_clears_the_cache(mps):
    memory = DeviceMemory("mps", {"step": 123})
    with pytest.raises(OutOfMemory) as caught, memory.phase("step"):
        mps.allocated = 4 * GIB
        raise RuntimeError(MPS)
    assert caught.value.details() == {
        "device": "mps",
        "phase": "step",
        "planned_bytes": 123,
        "allocated_bytes": 4 * GIB,
    }
    assert MPS in str(caught.value)
    assert mps.clears == 1
    with pytest.raises(OutOfMemory) as caught, memory.phase("another"):
        raise MemoryError
    assert caught.value.device == "cpu", "the host ran out while the GPU was busy"
    assert caught.value.planned_bytes is None


def test_clearing_the_cpus_cache_does_nothing():
    traits_of("cpu").clear_cache()
    memory = DeviceMemory("cpu", {})
    memory.clear_cache()
    assert not memory.is_under_pressure()


def test_the_higher_of_two_uses():
    assert MemoryUse(1, 5, 2).or_higher(MemoryUse(3, 4, 2)) == MemoryUse(3, 5, 2)
