"""How much memory a device and this process use, now and at the peak.

In: a device's type, and the bytes that were planned for each phase. Out: `MemoryUse`, and
OutOfMemory where a phase takes more than there is. Does not plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass

from hgt.device import host
from hgt.device.limits import cap_bytes
from hgt.device.out_of_memory import translating_out_of_memory
from hgt.device.traits import traits_of

_PRESSURE = 0.8  # share of the cap from which the driver is under pressure
# Share of the cap that clearing must give back: on MPS every compiled graph is lost with the cache.
_WORTH_CLEARING = 0.1


@dataclass(frozen=True)
class MemoryUse:
    """Bytes in use. On the CPU all three are the process's.

    allocated_bytes: in live tensors
    reserved_bytes: taken by torch from the device, cache and (MPS) compiled graphs included
    process_bytes: resident in host memory
    """

    allocated_bytes: int
    reserved_bytes: int
    process_bytes: int

    def or_higher(self, other: MemoryUse) -> MemoryUse:
        return MemoryUse(*map(max, astuple(self), astuple(other)))


def memory_in_use(device: str) -> MemoryUse:
    """Now."""
    allocated, reserved = map(int, traits_of(device).in_use())
    process = reserved if traits_of(device).is_host else host.process_bytes()
    return MemoryUse(allocated, reserved, process)


def peak_memory(device: str) -> MemoryUse:
    """The highest so far, as far as the device remembers it: all of it on CUDA and the CPU."""
    allocated, reserved = map(int, traits_of(device).peak())
    process = reserved if traits_of(device).is_host else host.process_peak_bytes()
    return MemoryUse(allocated, reserved, process)


class DeviceMemory:
    """One program's use of its device: runs the phases of the memory plan, keeps the measured
    peak, clears the cache.

    planned: {phase: bytes}
    limit_bytes: as given to `prepare_device`
    """

    def __init__(self, device: str, planned: Mapping[str, int], limit_bytes: int | None = None):
        self.device = device
        self.planned = planned
        self.cap_bytes = cap_bytes(device, limit_bytes)
        self.peak = peak_memory(device)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Run what the plan foresaw under this name. Raises OutOfMemory for any form of it."""
        with translating_out_of_memory(self.device, name, self.planned.get(name)):
            yield
        self.sample()
        if self.is_under_pressure():
            traits_of(self.device).clear_cache()

    def sample(self) -> MemoryUse:
        """Measure the peak, which must happen before a cache is cleared. Returns the peak."""
        self.peak = self.peak.or_higher(peak_memory(self.device))
        return self.peak

    def is_under_pressure(self) -> bool:
        """Whether torch holds over 80 % of the cap, and a good part of it in cache that tensors
        never needed at once."""
        if traits_of(self.device).is_host:
            return False
        held = memory_in_use(self.device).reserved_bytes
        unused = held - self.peak.allocated_bytes
        return held > _PRESSURE * self.cap_bytes and unused > _WORTH_CLEARING * self.cap_bytes

    def clear_cache(self) -> None:
        """Once per epoch, not after every step: on MPS the compiled graphs go with the cache."""
        self.sample()
        traits_of(self.device).clear_cache()

    def as_dict(self) -> dict[str, int]:
        """The peak, as events and MLflow name it."""
        peak = self.sample()
        return {
            "peak_memory_bytes": peak.reserved_bytes,
            "peak_allocated_bytes": peak.allocated_bytes,
            "peak_process_bytes": peak.process_bytes,
        }
