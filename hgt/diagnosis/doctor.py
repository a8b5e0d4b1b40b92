"""`hgt doctor`: this machine, its known issues, and a comparison of its accelerator with its CPU.

In: a device's name. Out: lines for people, or a `DeviceRefused`.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

import psutil
import torch

from hgt.device import cgroup
from hgt.device.host import chip_name
from hgt.device.known_issues import Machine, issues_of
from hgt.device.limits import cap_bytes, prepare_device
from hgt.device.probe import DeviceProbe, probe_device
from hgt.device.traits import traits_of
from hgt.diagnosis.comparison import ROWS_OF_PLAIN_PRODUCT, compare_devices
from hgt.diagnosis.difference import Difference
from hgt.errors import DeviceRefused


def examine(wanted: str | None, say: Callable[[str], None]) -> None:
    """Print the machine, and compare its accelerator with its CPU.

    wanted: type of the device; None for the best one.

    Raises DeviceRefused where the accelerator is wrong, InputError for a device that is not there.
    """
    probe = probe_device(wanted)
    machine = this_machine(probe)
    say(facts(probe, machine))
    say(_known_issues(machine))
    if traits_of(probe.type).is_host:
        say(
            "Nothing to compare: the CPU is the reference for accelerators."
            if wanted
            else f"No accelerator to compare with the CPU: {probe.reason}."
        )
        return
    comparison = compare_devices(torch.device("cpu"), prepare_device(probe.type), say)
    say(comparison.table())
    say(
        f"a plain product over {ROWS_OF_PLAIN_PRODUCT:,} rows, which the step avoids, differs by"
        f" {comparison.plain_product:.0e}"
    )
    if comparison.first_wrong is not None:
        raise DeviceRefused(refusal(probe.type, comparison.first_wrong, machine))
    say(f"{probe.type} computes the same as the CPU.")


def this_machine(probe: DeviceProbe) -> Machine:
    """Device, chip, versions and environment of this machine."""
    macos = platform.mac_ver()[0]
    version = torch.__version__.split("+")[0].split(".")
    return Machine(
        device=probe.type,
        chip=chip_name() if traits_of(probe.type).is_host else probe.name,
        macos=tuple(int(n) for n in macos.split(".")) if macos else None,
        torch=tuple(int(n) for n in version[:2]),
        environment={
            name: value for name, value in os.environ.items() if name.startswith("PYTORCH_")
        },
    )


def facts(probe: DeviceProbe, machine: Machine) -> str:
    """Chip, memory, caps and versions, as lines for people."""
    memory = psutil.virtual_memory()
    group = cgroup.available_bytes()
    container = (
        ""
        if group is None or group > memory.available
        else f", {_gib(group)} left by the control group"
    )
    system = (
        f"macOS {platform.mac_ver()[0]}"
        if machine.macos
        else f"{platform.system()} {platform.release()}"
    )
    lines = [
        f"chip      {chip_name()}, {torch.get_num_threads()} threads",
        f"memory    {_gib(memory.total)}, {_gib(memory.available)} available{container}",
        (
            f"versions  {system} {platform.machine()}, Python {platform.python_version()}, torch"
            f" {torch.__version__}"
        ),
        f"device    {probe.type} ({probe.name}): {probe.reason}",
        f"cap       {_cap(probe)}",
    ]
    return "\n".join(
        [
            *lines,
            *(f"          {name}={value}" for name, value in sorted(machine.environment.items())),
        ]
    )


def _cap(probe: DeviceProbe) -> str:
    traits, cap = traits_of(probe.type), cap_bytes(probe.type)
    if traits.is_host:
        return f"none of torch's; {_gib(probe.limit_bytes)} may be used"
    if traits.torchs_own_cap > 1:
        without = _gib(int(traits.torchs_own_cap * cap))
        return f"{_gib(cap)}, the recommended memory; torch alone would take up to {without}"
    return f"{_gib(cap)}, {_gib(probe.limit_bytes)} of it free"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


def _known_issues(machine: Machine) -> str:
    issues = issues_of(machine)
    if not issues:
        return "known issues of this combination: none"
    return "\n".join(
        ["known issues of this combination", *(f"  {issue.text()}" for issue in issues)]
    )


def refusal(device: str, wrong: Difference, machine: Machine) -> str:
    """The message about a device that computes something else than the CPU."""
    where = f" (largest in {wrong.where})" if wrong.where else ""
    known = [issue.text() for issue in issues_of(machine) if issue.explains_gradients]
    cause = (
        f"Known of this combination: {' '.join(known)}"
        if known
        else "The cause is not known: no issue in our table fits."
    )
    return (
        f"{device} on {machine.chip} with torch {torch.__version__} is refused: its"
        f" {wrong.quantity} differ from the CPU's by {wrong.value:.1e} of their norm{where} in case"
        f" '{wrong.case}'; rounding alone gives less than {wrong.tolerance:.0e}. {cause} Use"
        " --device cpu, or another version of torch."
    )
