"""The image of the CPU worker: its source files, its build, and the hash of its sources.

`make image` runs this module. Optional environment variables:

DOCKER: the Docker client, by default `docker`
BASE_IMAGE, TORCH_INDEX: build arguments of docker/Dockerfile
BUILD_FLAGS: more options of `docker build`, written as on a command line
WHEELS: a folder of wheels that pip tries first
HGT_IMAGE: the name of the image
"""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

SOURCE_LABEL = "kg-hgt-embeddings.sources"
_CHECKOUT = Path(__file__).resolve().parents[2]
_PACKAGES = ("hgt", "tasks", "flows")
_FILES = ("docker/Dockerfile", "docker/requirements.txt", "requirements.lock")


def image_name() -> str:
    return os.environ.get("HGT_IMAGE") or "kg-hgt-embeddings:cpu"


def source_files(checkout: Path = _CHECKOUT) -> dict[str, bytes]:
    """{path in the checkout: content} of every file that goes into the image, sorted by path."""
    modules = (path for package in _PACKAGES for path in (checkout / package).rglob("*.py"))
    paths = sorted([*modules, *(checkout / name for name in _FILES)])
    return {path.relative_to(checkout).as_posix(): path.read_bytes() for path in paths}


def source_hash(files: dict[str, bytes] | None = None) -> str:
    """SHA-256 (64 hex digits) of the names and contents of the image's files.

    files: as `source_files` returns them; by default those of this checkout
    """
    total = hashlib.sha256()
    for name, content in (source_files() if files is None else files).items():
        total.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return total.hexdigest()


def build() -> int:
    """Build the image with `docker build` and return its exit code. Its output is printed."""
    files = source_files()
    arguments = {"SOURCE_HASH": source_hash(files)} | {
        k: v for k in ("BASE_IMAGE", "TORCH_INDEX") if (v := os.environ.get(k))
    }
    client = shlex.split(os.environ.get("DOCKER") or "docker")
    options = [
        part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")
    ]
    flags = shlex.split(os.environ.get("BUILD_FLAGS", ""))
    command = [
        *client,
        "build",
        "--file",
        "docker/Dockerfile",
        "--tag",
        image_name(),
        *options,
        *flags,
        "-",
    ]
    try:
        build = subprocess.Popen(
            command, stdin=subprocess.PIPE, env=os.environ | {"DOCKER_BUILDKIT": "1"}
        )
    except FileNotFoundError:
        sys.stderr.write(
            f"{client[0]}: command not found. Install Docker, or set DOCKER to the path of its"
            " client.\n"
        )
        return 2
    try:
        _send_context(build, files)
    except BrokenPipeError:
        pass  # the client ended early and printed why
    finally:
        code = build.wait()
    return code


def _send_context(build: subprocess.Popen[bytes], files: dict[str, bytes]) -> None:
    """Write the build context as a tar to stdin: the image's files and `wheels/`.

    The tar has no file times, so that Docker caches equal files.
    """
    assert build.stdin is not None
    with build.stdin, tarfile.open(fileobj=build.stdin, mode="w|") as context:
        for name, content in files.items():
            _add(context, name, len(content), io.BytesIO(content))
        folder = tarfile.TarInfo("wheels")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        context.addfile(folder)
        wheels = os.environ.get("WHEELS")
        for wheel in sorted(Path(wheels).glob("*.whl")) if wheels else ():
            with wheel.open("rb") as content_of_wheel:
                _add(context, f"wheels/{wheel.name}", wheel.stat().st_size, content_of_wheel)


def _add(context: tarfile.TarFile, name: str, size: int, content: io.BufferedIOBase) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    context.addfile(entry, content)


if __name__ == "__main__":
    sys.exit(build())
