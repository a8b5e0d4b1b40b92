"""Which ATen functions have an MPS kernel in a version of torch.

Every wheel ships `native_functions.yaml`, from which the dispatch tables of its backends were
generated; the file is the same on all platforms. torchgen's own reader is not used: that of one
version refuses the file of the next.

    python -m tests.mps.kernels torch-2.14.1-cp311-cp311-macosx_14_0_arm64.whl >
    tests/mps/mps_kernels_2.14.1.txt
"""

from __future__ import annotations

import importlib.util
import re
import sys
import zipfile
from pathlib import Path

import yaml

MAC_VERSION = "2.14.1"  # what pyproject.toml installs on macOS
MAC_LIST = Path(__file__).with_name(f"mps_kernels_{MAC_VERSION}.txt")
_YAML = "packaged/ATen/native/native_functions.yaml"


def installed_kernels() -> frozenset[str]:
    """Names such as "index_add" and "add.Tensor", for the torch of this environment."""
    torchgen = importlib.util.find_spec("torchgen").submodule_search_locations[0]
    return kernels_of((Path(torchgen) / _YAML).read_text())


def listed_kernels(path: Path = MAC_LIST) -> frozenset[str]:
    """The same from a list that `main` wrote."""
    return frozenset(line for line in path.read_text().splitlines() if not line.startswith("#"))


def kernels_of(native_functions: str) -> frozenset[str]:
    """Functions with a kernel under the MPS key, and the variants that delegate to one
    (`structured_delegate`).
    """
    entries = {_name(e["func"]): e for e in yaml.load(native_functions, Loader=yaml.CSafeLoader)}
    own = {name for name, e in entries.items() if "MPS" in _dispatch_keys(e)}
    return frozenset(
        own | {name for name, e in entries.items() if e.get("structured_delegate") in own}
    )


def _name(signature: str) -> str:
    return signature.split("(", 1)[0]


def _dispatch_keys(entry: dict) -> set[str]:
    """`dispatch` maps "CPU, CUDA, MPS" to a kernel's name."""
    return {key.strip() for keys in entry.get("dispatch", {}) for key in keys.split(",")}


def list_of_wheel(wheel: Path) -> str:
    """The text of a list: a header with the version and how to write it again, then the names,
    sorted.
    """
    with zipfile.ZipFile(wheel) as files:
        version = re.search(
            r"__version__ = '([^']+)'", files.read("torch/version.py").decode()
        ).group(1)
        names = sorted(kernels_of(files.read(f"torchgen/{_YAML}").decode()))
    header = [
        (
            f"# The {len(names)} ATen functions with an MPS kernel in torch {version}, from"
            " native_functions.yaml of its wheel."
        ),
        f"# Written by: python -m tests.mps.kernels {wheel.name}",
    ]
    return "\n".join([*header, *names, ""])


if __name__ == "__main__":
    sys.stdout.write(list_of_wheel(Path(sys.argv[1])))
