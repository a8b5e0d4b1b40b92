"""What `make install` says and takes, and whether lock, Makefile and image agree."""

import platform
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, version
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hgt.device.machine import Machine, download, main, refusal

CHECKOUT = Path(__file__).parents[1]
LOCK = (CHECKOUT / "requirements.lock").read_text()
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
LINUX = Machine("Linux", "x86_64", (3, 12), glibc=(2, 36))
MAC = Machine("Darwin", "arm64", (3, 12), macos=(14, 5))
PLATFORMS = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")]


@pytest.mark.parametrize(
    "machine",
    [LINUX, MAC, LINUX._replace(processor="aarch64", python=(3, 11)), MAC._replace(macos=(26, 0))],
)
def test_machines_that_the_readme_names_are_taken(machine):
    assert refusal(machine) is None


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (MAC._replace(processor="x86_64", kernel="Darwin Kernel RELEASE_X86_64"), "Intel Macs"),
        (MAC._replace(processor="x86_64", kernel="RELEASE_ARM64_T6000"), "Rosetta"),
        (MAC._replace(macos=(13, 6)), "macOS 13.6 is too old"),
        (LINUX._replace(system="Windows"), "WSL 2"),
        (LINUX._replace(system="MINGW64_NT-10.0"), "WSL 2"),
        (LINUX._replace(system="FreeBSD"), "FreeBSD is not supported"),
        (LINUX._replace(processor="riscv64"), "riscv64"),
        (LINUX._replace(is_64_bit=False), "32-bit"),
        (LINUX._replace(glibc=(2, 27)), "glibc 2.27"),
        (LINUX._replace(glibc=()), "musl"),
        (LINUX._replace(python=(3, 10)), "3.10 was found"),
        (LINUX._replace(python=(3, 14)), "3.14 was found"),
        (LINUX._replace(implementation="PyPy"), "PyPy"),
        (LINUX._replace(has_gil=False), "free-threaded"),
        (LINUX._replace(has_venv=False), "python3.12-venv"),
    ],
)
def test_others_get_one_sentence(machine, said):
    sentence = refusal(machine)
    assert sentence is not None
    assert said in sentence
    assert "\n" not in sentence


def test_this_machine_is_told_what_it_downloads(capsys):
    assert main([]) == 0
    assert re.fullmatch(r"Up to \d\.\d GB will be downloaded.*\n", capsys.readouterr().out)
    assert main(["cuda"]) == 2
    assert "TORCH=cpu" in capsys.readouterr().err


def test_the_size_is_that_of_the_machine_and_the_build():
    lock = (
        "# download Linux arm64: 3.2 GB, with TORCH=cpu 0.5 GB\n# download Darwin arm64: 0.4 GB\n"
    )
    arm = LINUX._replace(processor="aarch64")
    assert "3.2 GB" in download(arm, "", lock, has_nvidia=True)
    assert "TORCH=cpu" not in download(arm, "", lock, has_nvidia=True)
    assert "TORCH=cpu makes it 0.5 GB" in download(arm, "", lock, has_nvidia=False)
    assert download(arm, "cpu", lock, has_nvidia=False) == "Up to 0.5 GB will be downloaded."
    assert download(MAC, "", lock, has_nvidia=False) == "Up to 0.4 GB will be downloaded."


@pytest.mark.parametrize("machine", [LINUX, LINUX._replace(processor="aarch64"), MAC])
def test_the_lock_says_how_much_every_machine_downloads(machine):
    assert "GB" in download(machine, "", LOCK, has_nvidia=False)


def pins(system, processor, python):
    """{package: version} of the lock on a machine. python: 3.11.5, ..."""
    environment = default_environment() | {
        "sys_platform": system, "platform_machine": processor,
        "python_version": ".".join(python.split(".")[:2]), "python_full_version": python,
    }  # fmt: skip
    lines = [line for line in LOCK.splitlines() if line and not line.startswith("#")]
    found = [Requirement(line) for line in lines]
    return {
        canonicalize_name(r.name): str(r.specifier).removeprefix("==")
        for r in found
        if r.marker is None or r.marker.evaluate(environment)
    }


@pytest.mark.parametrize("python", ["3.11.2", "3.11.9", "3.12.1", "3.13.0"])
@pytest.mark.parametrize(("system", "processor"), PLATFORMS)
def test_the_lock_pins_what_the_project_asks_for(system, processor, python):
    """Whether a solution exists there is asked of the index, by `make check-lock`."""
    pinned = pins(system, processor, python)
    asked = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
    for requirement in map(Requirement, asked):
        if requirement.marker is None or requirement.marker.evaluate({"sys_platform": system}):
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])
    assert ("triton" in pinned) == (system == "linux")


def test_what_is_installed_is_what_the_lock_says():
    """All that the project needs, to the last requirement of a requirement."""
    pinned = pins(sys.platform, platform.machine(), platform.python_version())
    seen, left = {}, [Requirement(r) for r in PROJECT["dependencies"]]
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen[name] = version(name).partition("+")[0]
        left += [Requirement(text) for text in distribution(name).requires or []]
    assert {
        name: (found, pinned.get(name)) for name, found in seen.items() if found != pinned.get(name)
    } == {}


def test_makefile_and_image_take_the_same_torch_from_the_same_place():
    makefile = (CHECKOUT / "Makefile").read_text()
    dockerfile = (CHECKOUT / "docker/Dockerfile").read_text()
    (index,) = re.findall(r"^TORCH_INDEX \?= (\S+)$", makefile, re.MULTILINE)
    assert f"ARG TORCH_INDEX={index}\n" in dockerfile
    scripts = [
        re.search(r'sed -n "(s/.*?/p)"', text)[1]
        for text in (makefile.replace("$$", "$"), dockerfile)
    ]
    assert scripts[0] == scripts[1]
    said = subprocess.run(
        ["sed", "-n", scripts[0]], input=LOCK, capture_output=True, text=True, check=True
    )
    assert said.stdout == f"torch=={pins('linux', 'x86_64', '3.12.1')['torch']}\n"


@pytest.mark.docker
def test_the_image_has_the_versions_of_the_lock(docker_engine, worker_image):
    code = """
import importlib.metadata, platform
print("python", platform.python_version(), sep="==")
for package in importlib.metadata.distributions():
    print(package.name, package.version, sep="==")
"""
    said = docker_engine.containers.run(
        worker_image, ["python", "-c", code], remove=True, network_mode="none"
    )
    found = dict(line.split("==") for line in said.decode().split())
    pinned = pins("linux", platform.machine(), found.pop("python"))
    assert {
        canonicalize_name(n): v.partition("+")[0] for n, v in found.items()
    }.items() <= pinned.items()
    assert "torch" in found
