"""Whether this product installs on this machine, and how much that downloads.

Run by `make install` before anything else is there: `python hgt/device/machine.py [cpu]`. Knows the
standard library alone. Prints one sentence: on stdout what will be downloaded (exit code 0), or on
stderr why it cannot be installed and what to do (exit code 2).
"""

from __future__ import annotations

import platform
import re
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
OLDEST_MACOS = 14  # torch 2.14's wheels for arm64
OLDEST_GLIBC = (2, 28)  # torch's manylinux_2_28 wheels
_LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"


class Machine(NamedTuple):
    """What decides which wheels fit. python, macos, glibc: versions, () where there is none"""

    system: str
    processor: str
    python: tuple[int, ...]
    implementation: str = "CPython"
    kernel: str = ""
    macos: tuple[int, ...] = ()
    glibc: tuple[int, ...] = ()
    has_gil: bool = True
    is_64_bit: bool = True
    has_venv: bool = True

    @classmethod
    def this(cls) -> Machine:
        libc, libc_version = platform.libc_ver()
        try:
            import ensurepip  # noqa: F401 - Debian has it in a package of its own, python3-venv

            has_venv = True
        except ImportError:
            has_venv = False
        return cls(
            system=platform.system(),
            processor=platform.machine(),
            python=sys.version_info[:2],
            implementation=platform.python_implementation(),
            kernel=platform.version(),
            macos=_numbers(platform.mac_ver()[0]),
            glibc=_numbers(libc_version) if libc == "glibc" else (),
            has_gil=not sysconfig.get_config_var("Py_GIL_DISABLED"),
            is_64_bit=sys.maxsize > 2**32,
            has_venv=has_venv,
        )

    @property
    def name(self) -> str:
        """As the lock file's header names it."""
        return f"{self.system} {'arm64' if self.processor == 'aarch64' else self.processor}"


def refusal(machine: Machine) -> str | None:
    """Why the product cannot be installed there and what to do, in one sentence; None if it can."""
    return _system_refusal(machine) or _python_refusal(machine)


def _system_refusal(machine: Machine) -> str | None:
    if machine.system == "Darwin":
        return _macos_refusal(machine)
    if machine.system == "Linux":
        return _linux_refusal(machine)
    if machine.system == "Windows" or machine.system.startswith(("CYGWIN", "MSYS", "MINGW")):
        return "Windows is not supported: install WSL 2 (`wsl --install`) and run make there."
    return (
        f"{machine.system} is not supported: use Linux, or macOS {OLDEST_MACOS} on Apple Silicon."
    )


def _macos_refusal(machine: Machine) -> str | None:
    if machine.processor != "arm64":
        if "ARM64" in machine.kernel:
            return (
                "This Python was built for Intel and runs under Rosetta: give an arm64 one, such as"
                " PYTHON=/opt/homebrew/bin/python3.12."
            )
        return (
            "Intel Macs are not supported, since torch has no wheels for them: use a Mac with Apple"
            " Silicon, or Linux."
        )
    if machine.macos < (OLDEST_MACOS,):
        found = ".".join(map(str, machine.macos))
        return (
            f"macOS {found} is too old: torch needs macOS {OLDEST_MACOS} or newer. Update macOS "
            "(System Settings, General, Software Update)."
        )
    return None


def _linux_refusal(machine: Machine) -> str | None:
    if machine.processor not in ("x86_64", "aarch64") or not machine.is_64_bit:
        return (
            f"Linux on {machine.processor}{'' if machine.is_64_bit else ' with a 32-bit Python'} is"
            " not supported, since torch has no wheels for it: use 64-bit x86 or ARM."
        )
    if machine.glibc < OLDEST_GLIBC:
        found = (
            f"glibc {'.'.join(map(str, machine.glibc))}" if machine.glibc else "no glibc (musl?)"
        )
        return (
            f"This Linux has {found}, and torch needs glibc 2.28 or newer: use Debian 10, Ubuntu "
            "20.04, RHEL 8 or newer ones, also in a container."
        )
    return None


def _python_refusal(machine: Machine) -> str | None:
    wanted = "Python 3.11, 3.12 or 3.13"
    advice = f"Install {wanted} from python.org, or give PYTHON=/path/to/python3.12."
    if not OLDEST_PYTHON <= machine.python <= NEWEST_PYTHON:
        return f"{wanted} is needed, {'.'.join(map(str, machine.python))} was found. {advice}"
    if machine.implementation != "CPython" or not machine.has_gil:
        kind = "free-threaded" if machine.implementation == "CPython" else machine.implementation
        return (
            f"A {kind} Python is not supported, since not all packages have wheels for it. {advice}"
        )
    if not machine.has_venv:
        version = ".".join(map(str, machine.python))
        return (
            f"This Python {version} lacks venv. Install it: sudo apt install python{version}-venv."
        )
    return None


def download(machine: Machine, torch: str, lock: str, has_nvidia: bool) -> str:
    """What will be downloaded, in one sentence. torch: "cpu" or ""; lock: text of the lock file"""
    sizes = re.search(
        rf"^# download {re.escape(machine.name)}: (.+?)(?:, with TORCH=cpu (.+))?$", lock, re.M
    )
    assert sizes is not None, f"{machine.name} has no size in the lock file: run `make lock`"
    whole, with_cpu = sizes.groups()
    if torch == "cpu" or with_cpu is None:
        return f"Up to {with_cpu or whole} will be downloaded."
    said = f"Up to {whole} will be downloaded, most of it for NVIDIA GPUs."
    if has_nvidia:
        return said
    return f"{said} No such GPU was found: TORCH=cpu makes it {with_cpu}."


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def main(arguments: list[str]) -> int:
    """arguments: the value of make's TORCH"""
    torch = arguments[0] if arguments else ""
    machine = Machine.this()
    refused = refusal(machine)
    if refused is None and torch not in ("", "cpu"):
        refused = f"TORCH={torch} is not known: give TORCH=cpu, or nothing for the usual build."
    if refused is not None:
        sys.stderr.write(f"{refused}\n")
        return 2
    sys.stdout.write(
        download(machine, torch, _LOCK.read_text(), bool(shutil.which("nvidia-smi"))) + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
