"""Makes the lock file for all machines at once, and asks the package index whether it fits them.

python .ci/lock.py make [--upgrade]    requirements.lock; known versions stay where they fit
python .ci/lock.py check               nine machines, a line each; exit code 1 unless all are OK

Needs uv beside this Python. Local folders of wheels are left out: a newcomer has none, and a build
of torch without CUDA's requirements hides what the ordinary one asks for.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
LOCK = CHECKOUT / "requirements.lock"
PLATFORMS = {  # uv's name: as hgt/device/machine.py names the machine
    "x86_64-unknown-linux-gnu": "Linux x86_64",
    "aarch64-unknown-linux-gnu": "Linux arm64",
    "aarch64-apple-darwin": "Darwin arm64",
}
PYTHONS = ("3.11", "3.12", "3.13")
_ONLY_CUDA = re.compile(r"torch|triton|nvidia-.*|cuda-.*")
# torch 2.13.0+cpu for x86-64, which the index of all packages does not have
_CPU_TORCH_BYTES = 192e6
_HEADER = """\
# Every package for Linux (x86-64, arm64) and macOS 14 (arm64), Python 3.11 to 3.13.
# Made by `make lock`, checked by `make check-lock`: see CONTRIBUTING.md.
"""


def uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`uv pip compile` of the project with its tests, from the index alone."""
    hidden = (
        "UV_FIND_LINKS",
        "PIP_FIND_LINKS",
        "UV_EXTRA_INDEX_URL",
        "UV_CONSTRAINT",
        "UV_OVERRIDE",
    )
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    program = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet"]
    options = ["pyproject.toml", "--extra", "test", "--no-annotate", "--no-header", *arguments]
    environment = kept | {"UV_NO_CONFIG": "1", "MACOSX_DEPLOYMENT_TARGET": "14.0"}
    return subprocess.run(
        [*program, *options],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def solution(target: str, python: str) -> dict[str, tuple[str, int]] | str:
    """{package: (version, bytes to download)} on that machine, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pylock.toml"
        asked = ["--constraint", str(LOCK), "--python-platform", target, "--python-version", python]
        done = uv(*asked, "--only-binary", ":all:", "--format", "pylock.toml", "-o", str(file))
        if done.returncode:
            return " ".join(done.stderr.split())
        packages = tomllib.loads(file.read_text())["packages"]
    sizes = {p["name"]: max(w["size"] for w in p["wheels"]) for p in packages}
    return {p["name"]: (p["version"], sizes[p["name"]]) for p in packages}


def check() -> int:
    """Print a line for each machine. A package that the lock does not pin counts as a fault."""
    pinned = set(re.findall(r"^([a-z0-9-]+)==", LOCK.read_text(), re.MULTILINE))
    good = True
    for target in PLATFORMS:
        for python in PYTHONS:
            found = solution(target, python)
            unpinned = [] if isinstance(found, str) else sorted(set(found) - pinned)
            row = f"{target}  python {python}"
            if isinstance(found, str):
                print(f"FAILS     {row}  {found[:400]}")
            elif unpinned:
                print(f"UNPINNED  {row}  {' '.join(unpinned)}")
            else:
                print(f"OK        {row}  {len(found)} packages")
            good = good and not isinstance(found, str) and not unpinned
    return 0 if good else 1


def make(*options: str) -> int:
    """Write the lock, and into its header how much each machine downloads."""
    done = uv("--universal", "--python-version", PYTHONS[0], "-o", str(LOCK), *options)
    if done.returncode:
        sys.stderr.write(done.stderr)
        return 1
    lines = [_download(target, name) for target, name in PLATFORMS.items()]
    pins = [line for line in LOCK.read_text().splitlines() if line and not line.startswith("#")]
    LOCK.write_text(_HEADER + "\n".join([*lines, *pins]) + "\n")
    return check()


def _download(target: str, name: str) -> str:
    found = solution(target, PYTHONS[1])
    if isinstance(found, str):
        sys.exit(f"{target}: {found}")
    whole = sum(size for _, size in found.values())
    cuda = sum(size for package, (_, size) in found.items() if _ONLY_CUDA.fullmatch(package))
    said = f"# download {name}: {whole / 1e9:.1f} GB"
    if name.startswith("Linux"):
        said += f", with TORCH=cpu {(whole - cuda + _CPU_TORCH_BYTES) / 1e9:.1f} GB"
    return said


if __name__ == "__main__":
    if platform.system() not in ("Linux", "Darwin") or sys.argv[1:2] not in (["make"], ["check"]):
        sys.exit(f"usage: python {sys.argv[0]} make [--upgrade] | check")
    sys.exit(make(*sys.argv[2:]) if sys.argv[1] == "make" else check())
