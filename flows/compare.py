"""`hgt compare`: trains the same run on two devices and compares their figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import session
from hgt.config import DEVICE_CHOICES, DOCKER_CPU, RunConfig
from hgt.errors import HgtError, InputError
from tasks.execution import readiness
from tasks.home import new_run_id, run_folder

if TYPE_CHECKING:
    from hgt.diagnosis.agreement import Agreement

_TRAINED = (0, 3)  # accepted or not
_INTERRUPTED = (130, 141)
_SET = ("device", "patience", "fallback", "baselines")


def devices_of(given: str) -> tuple[str, str]:
    """The two devices in `"cpu,mps"`. Raises InputError."""
    devices = tuple(part.strip() for part in given.split(","))
    if len(devices) != 2 or not set(devices) <= set(DEVICE_CHOICES):
        raise InputError(
            f"--devices {given}: must be two of {', '.join(DEVICE_CHOICES)}, such as cpu,mps. The"
            " same device twice trains on it twice."
        )
    return devices[0], devices[1]


def compare(
    kg: Path, devices: tuple[str, str], values: Mapping[str, Any], say: Callable[[str], None]
) -> Agreement:
    """Train on both devices, one after the other, and compare.

    kg: the graph file
    devices: the two devices
    values: parameters of both runs
    say: prints a line

    Both runs train all epochs, only on their device, without baselines. Raises InputError for a
    parameter that the comparison sets itself or an unavailable docker-cpu, HgtError when a training
    fails, KeyboardInterrupt when it was interrupted.
    """
    if set_here := [name for name in _SET if name in values]:
        raise InputError(
            f"--{set_here[0].replace('_', '-')}: the comparison sets this option. Leave it out."
        )
    if DOCKER_CPU in devices:  # before the first training
        readiness.refuse_unavailable()
    from hgt.diagnosis.agreement import compare_runs  # imports torch: 2 s that a refusal saves

    num_epochs = RunConfig.from_flat({**values, "baselines": ["none"]}).stopping.num_epochs
    runs = []
    for number, device in enumerate(devices, 1):
        run = f"{new_run_id()}-{device}"
        say(f"training {number} of 2, on {device}")
        runs.append(
            _train(
                run,
                kg,
                {
                    **values,
                    "device": device,
                    "patience": num_epochs,
                    "fallback": "none",
                    "baselines": "none",
                },
            )
        )
    return compare_runs(run_folder(runs[0]), run_folder(runs[1]), devices)


def _train(run: str, kg: Path, values: Mapping[str, Any]) -> str:
    """Run `hgt train` in its own session, and return the id of the run."""
    options = [part for name, value in values.items() for part in _option(name, value)]
    code = session.run(["train", "--kg", str(kg), "--run-id", run, *options])
    if code in _INTERRUPTED:
        raise KeyboardInterrupt
    if code not in _TRAINED:
        raise (InputError if code == InputError.exit_code else HgtError)(
            f"The training on {values['device']} failed, so there is nothing to compare."
        )
    return run


def _option(name: str, value: Any) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [
        part
        for each in (value if isinstance(value, list) else [value])
        for part in (f"--{flag}", str(each))
    ]
