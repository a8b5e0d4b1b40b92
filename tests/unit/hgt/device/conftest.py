"""Accelerators that this machine does not have, as far as the table of traits asks them."""

import pytest
import torch

GIB = 1 << 30


class FakeMPS:
    """torch.mps as far as the table of traits uses it: 16 GiB recommended, counted like the
    allocator's.
    """

    def __init__(self):
        self.recommended, self.allocated, self.driver, self.fraction, self.clears = (
            16 * GIB,
            0,
            0,
            None,
            0,
        )

    def recommended_max_memory(self):
        return self.recommended

    def set_per_process_memory_fraction(self, fraction):
        assert isinstance(fraction, float), "torch insists"
        self.fraction = fraction

    def current_allocated_memory(self):
        return self.allocated

    def driver_allocated_memory(self):
        return self.driver

    def empty_cache(self):
        self.clears += 1
        self.driver = self.allocated


@pytest.fixture
def mps(monkeypatch):
    """A Mac's GPU as far as the table of traits looks at it."""
    fake = FakeMPS()
    monkeypatch.setattr(torch, "mps", fake)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)

    def unsupported():
        raise RuntimeError("Allocator for mps is not a DeviceAllocator.")

    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", unsupported)
    monkeypatch.setattr(torch.accelerator, "max_memory_reserved", unsupported)
    return fake


@pytest.fixture
def cuda(monkeypatch):
    """An 80 GiB card of which 60 GiB are free."""
    fake = FakeMPS()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (60 * GIB, 80 * GIB))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", fake.set_per_process_memory_fraction
    )
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 1)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 2)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 4)
    return fake
