"""The real training step, at the size of the full PrimeKG, does only what MPS can do: proved on
Linux, without a Mac.

Fails on: a function without an MPS kernel in the installed torch or in the one for macOS, operands
on two devices, a host synchronisation, float64, a tensor of 2^31 elements or 4 GB, a matrix product
that sums over more than 32,000 rows, shapes that differ from step to step. `fake_mac.py` says how
it is done and `checks.py` what each means. What it cannot show is the numbers that a Mac computes.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
import tomllib

import pytest
import torch
from packaging.requirements import Requirement

from tests.conftest import CHECKOUT
from tests.mps.fake_step import VARIANTS
from tests.mps.kernels import (
    MAC_LIST,
    MAC_VERSION,
    installed_kernels,
    kernels_of,
    list_of_wheel,
    listed_kernels,
)
from tests.mps.planted import HARMLESS, PLANTS

pytestmark = [
    # the first test that asks for a trace waits for it: 150 s alone on two cores, more beside
    # others
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        sys.platform != "linux", reason="the fake device is made for a build of torch without MPS"
    ),
    pytest.mark.skipif(
        shutil.which("g++") is None,
        reason="g++ is needed to compile tests/mps/guard.cpp: install it",
    ),
]


SMALL = ("small primekg", "variants", "drawn edges", "plants")
SLOW = ("primekg", "pyg", "pyg by default")


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """`trace("primekg")`: the reports of a case of `fake_step.py`, from a process of its own, for
    the fake device is there for good. The small cases share one.
    """

    @functools.cache
    def run(cases):
        command = [
            sys.executable,
            "-m",
            "tests.mps.fake_step",
            str(tmp_path_factory.mktemp("guard")),
            *cases,
        ]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        child = subprocess.run(
            command, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=800
        )
        assert child.returncode == 0, child.stderr[-4000:]
        return json.loads(child.stdout)

    return lambda case: run(SMALL if case in SMALL else SLOW)[case]


@pytest.fixture(
    scope="module", params=["small primekg", pytest.param("primekg", marks=pytest.mark.slow)]
)
def default_step(request, trace):
    """Of the default configuration. Full size alone shows tensors and sums that are too large."""
    return trace(request.param)


@pytest.fixture(scope="module")
def variants(trace):
    return trace("variants")


@pytest.fixture(scope="module")
def drawn_edges(trace):
    return trace("drawn edges")


@pytest.fixture(scope="module")
def planted(trace):
    return trace("plants")


def described(violations):
    return "\n".join(
        f"{v['kind']}: {v['operation']} at {v['where']}: {v['detail']}" for v in violations
    )


def test_the_training_step_runs_on_mps(default_step):
    assert not default_step["training"]["violations"], described(
        default_step["training"]["violations"]
    )


@pytest.mark.slow
def test_the_full_size_is_primekgs(trace):
    assert trace("primekg")["sizes"] == {"num_nodes": 129_375, "num_message_edges": 8_100_498}


def test_the_step_that_was_traced_is_the_whole_one(default_step):
    report = default_step["training"]
    assert len(report["calls"]) == 3
    assert report["calls"][1] == report["calls"][2]
    used = set(report["operations"])
    assert used >= {
        "linear",
        "linear_backward",
        "gelu_backward.grad_input",
        "linalg_vector_norm",
        "_fused_adamw_",
        "__rshift__.Scalar",
        "ge.Scalar_out",
    }
    assert used <= installed_kernels() & listed_kernels()


@pytest.mark.parametrize("name", VARIANTS)
def test_other_configurations_run_on_mps(variants, name):
    assert not variants[name]["violations"], described(variants[name]["violations"])


def test_steps_whose_edges_are_drawn_run_on_mps(drawn_edges):
    """The copies of a draw come before the first operation, and all draws have the same shapes."""
    report = drawn_edges["training"]
    assert not report["violations"], described(report["violations"])
    assert report["calls"][1] == report["calls"][2]
    assert len(set(report["copies_to_device"])) == 1
    assert drawn_edges["sizes"]["drawn_edges"] < 0.6 * drawn_edges["sizes"]["message_edges"]
    assert all(
        v["kind"] == "host synchronisation"
        for part in ("building", "validation")
        for v in drawn_edges[part]["violations"]
    )


@pytest.mark.parametrize("part", ["building", "validation"])
def test_what_comes_before_and_after_runs_on_mps(default_step, part):
    """It may wait for the device; nothing else."""
    assert default_step[part]["calls"][0] > 0
    others = [v for v in default_step[part]["violations"] if v["kind"] != "host synchronisation"]
    assert not others, described(others)


@pytest.mark.slow
def test_pygs_layer_is_refused_at_full_size(trace):
    """It runs on MPS where the graph is small; here its messages take twice what a Metal tensor
    may.
    """
    violations = trace("pyg")["violations"]
    assert {v["kind"] for v in violations} == {"too many bytes"}, described(violations)
    assert any("[8100498, 8, 32]" in v["detail"] for v in violations)


@pytest.mark.slow
def test_pygs_layer_is_refused_when_the_device_is_the_default(trace):
    """Then the types that it makes for itself are on the device too: no kernel for their offsets,
    and it waits for each of them.
    """
    violations = trace("pyg by default")["violations"]
    assert {v["kind"] for v in violations} == {"no kernel", "host synchronisation"}, described(
        violations
    )
    assert {v["operation"].split(".")[0] for v in violations} == {
        "_convert_indices_from_coo_to_csr",
        "_local_scalar_dense",
    }
    # edge types, heads, keys and values, ends of two slices
    assert max(v["times"] for v in violations) == 60 * 8 * 2 * 4


def of_plant(report):
    return [v for v in report["violations"] if "planted.py" in v["where"] or v["kind"] == "error"]


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_violation_is_found(planted, name):
    found = {(v["kind"], v["operation"]) for v in of_plant(planted[name])}
    assert (PLANTS[name].kind, PLANTS[name].operation) in found, described(
        planted[name]["violations"]
    )


@pytest.mark.parametrize("name", ["nothing", *HARMLESS])
def test_what_is_harmless_is_not_reported(planted, name):
    assert not of_plant(planted[name])


def test_each_version_is_asked_for_its_own_kernels(planted):
    found = of_plant(planted["kernel in 2.14 alone"])
    assert [v["detail"] for v in found] == ["torch 2.13.0"]


def test_kernels_of_native_functions():
    text = """
- func: own(Tensor self) -> Tensor
  dispatch:
    CPU, MPS: own_kernel
- func: delegating.Scalar(Tensor self, Scalar other) -> Tensor
  structured_delegate: delegating.out
- func: delegating.out(Tensor self, Scalar other, *, Tensor(a!) out) -> Tensor(a!)
  structured: True
  dispatch:
    CPU, CUDA: of_the_cpu
    MPS: of_mps
- func: of_the_cpu(Tensor self) -> Tensor
  dispatch:
    CPU: of_the_cpu
- func: composite(Tensor self) -> Tensor
- func: sparse(Tensor self) -> Tensor
  dispatch:
    SparseMPS: sparse
"""
    assert kernels_of(text) == {"own", "delegating.Scalar", "delegating.out"}


def test_as_many_kernels_as_the_macos_libraries_have():
    """Counted once with `llvm-nm -C libtorch_cpu.dylib`, as distinct `wrapper_MPS_*` functions of
    the macOS wheels.
    """
    assert (len(installed_kernels()), len(listed_kernels())) == (890, 912)


def torch_on(lines, platform):
    """What a list of requirements asks of torch on this platform."""
    named = [
        Requirement(line) for line in lines if line.strip() and not line.lstrip().startswith("#")
    ]
    return [
        str(r.specifier)
        for r in named
        if r.name == "torch" and (r.marker is None or r.marker.evaluate({"sys_platform": platform}))
    ]


@pytest.mark.parametrize("file", ["pyproject.toml", "requirements.lock"])
def test_the_list_is_of_the_version_that_a_mac_installs(file):
    text = (CHECKOUT / file).read_text()
    lines = (
        tomllib.loads(text)["project"]["dependencies"]
        if file.endswith(".toml")
        else text.splitlines()
    )
    assert torch_on(lines, "darwin") == [f"=={MAC_VERSION}"]
    assert torch_on(lines, "linux") == [f"=={torch.__version__.partition('+')[0]}"]


@pytest.mark.slow
def test_the_list_is_that_of_the_wheel(tmp_path):
    """Downloads the wheel (127 MB)."""
    options = [
        "--no-deps",
        "--only-binary=:all:",
        "--platform",
        "macosx_14_0_arm64",
        "--python-version",
        "3.11",
        "--dest",
        str(tmp_path),
    ]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, f"torch=={MAC_VERSION}"],
        check=True,
        timeout=200,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert list_of_wheel(wheel) == MAC_LIST.read_text()
