"""Task `probe`: the device, its memory, and the fallback when that memory runs out."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from hgt.device.probe import DeviceProbe, probe_device
from hgt.memory.plan import memory_limit
from tasks.execution.placement import fallback_told
from tasks.led_run import LedRun
from tasks.reporting import say
from tasks.tracking.tracker import Tracker


@task(name="probe", cache_policy=NO_CACHE)
def probe(run: LedRun, tracker: Tracker) -> DeviceProbe:
    """Choose the device. Raises InputError when it is not available."""
    config = run.config
    found = probe_device(config.execution.compute_device, memory_limit(config))
    say(
        f"device: {found.type} ({found.name}), {found.limit_bytes / 2**30:.1f} GiB available;"
        f" {found.reason}"
    )
    say(fallback_told(config, found))
    tracker.tags({f"device.{k}": str(v) for k, v in found.as_dict().items()})
    return found
