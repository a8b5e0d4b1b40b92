"""Finds the device of a run.

In: the device that the user wants, if any, and a memory limit. Out: a `DeviceProbe`. Allocates
nothing on the device and knows no plan.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch

from hgt.device.traits import DEVICES, DeviceTraits, traits_of
from hgt.errors import InputError


@dataclass(frozen=True)
class DeviceProbe:
    """The device that was found.

    type: as torch names it
    name: of the hardware
    limit_bytes: what a run may use
    reason: why this device was chosen
    """

    type: str
    name: str
    limit_bytes: int
    reason: str
    torch_version: str
    machine: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def probe_device(wanted: str | None, limit_bytes: int | None = None) -> DeviceProbe:
    """Choose the wanted device, or the accelerator of this machine, or else the CPU.

    limit_bytes: use no more than that, whatever there is

    Raises InputError when the wanted device is not there.
    """
    there = [traits for traits in DEVICES.values() if traits.is_available()]
    if wanted is not None and wanted not in [traits.type for traits in there]:
        raise InputError(
            f"Device {wanted} is not available on this machine; available: "
            f"{', '.join(traits.type for traits in there)}. Leave device out to choose by itself."
        )
    chosen = traits_of(wanted) if wanted else min(there, key=lambda traits: traits.is_host)
    limit = min(int(chosen.available_bytes()), limit_bytes or sys.maxsize)
    reason = _reason(chosen, asked_for=bool(wanted))
    version, machine = torch.__version__, platform.machine()
    return DeviceProbe(chosen.type, chosen.name(), limit, reason, version, machine)


def _reason(chosen: DeviceTraits, asked_for: bool) -> str:
    if asked_for:
        return "asked for"
    if not chosen.is_host:
        return "the accelerator of this machine"
    if platform.system() == "Darwin":
        return "MPS is not available (macOS on Apple Silicon has it outside of containers)"
    return "the only device"
