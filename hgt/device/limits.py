"""What a process may take: of a device's memory, and of the processor's cores.

In: a device's type and a limit in bytes. Out: a `torch.device` that refuses more. Knows no plan.
"""

from __future__ import annotations

import os
import sys

import torch

from hgt.device.traits import traits_of
from hgt.errors import InputError


def prepare_device(device: str, limit_bytes: int | None = None) -> torch.device:
    """Make the device refuse what the machine cannot hold, or what is over the limit, before
    anything is allocated on it. On the CPU there is no limit to set.
    """
    traits = traits_of(device)
    traits.prepare()
    if not traits.is_host:
        # 0 would mean no limit at all to MPS.
        traits.set_cap(cap_bytes(device, limit_bytes) / int(traits.total_bytes()))
    return torch.device(device)


def cap_bytes(device: str, limit_bytes: int | None = None) -> int:
    """What torch may take of the device at most. On CUDA its context comes on top (some hundred
    MB).

    Raises InputError when the limit is not above 0.
    """
    if limit_bytes is not None and limit_bytes <= 0:
        raise InputError(
            f"A memory limit must be above 0 bytes, not {limit_bytes:,}. Leave it out to use what"
            " the device has."
        )
    return min(int(traits_of(device).total_bytes()), limit_bytes or sys.maxsize)


def configure_threads() -> None:
    """Follow OMP_NUM_THREADS; of a list (one number per level of nesting) the first counts.
    Otherwise torch's own choice stays.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if given.isdecimal() and int(given):
        torch.set_num_threads(int(given))
