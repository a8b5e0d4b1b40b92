"""`hgt doctor` as a person uses it: exit codes and one sentence on stderr."""

import sys
from functools import partial

import pytest
import torch

from flows.cli import main
from hgt.device.probe import DeviceProbe
from hgt.diagnosis import doctor
from hgt.diagnosis.comparison import compare_devices
from tests.unit.hgt.diagnosis.test_comparison import SMALL
from tests.unit.hgt.faulty_products import faulty_step

pytestmark = pytest.mark.usefixtures("unchecked_shapes")


@pytest.fixture
def run(monkeypatch, capfd):
    """`run("--device", "cpu")`: exit code, stdout and stderr of the command, in this process."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hgt", "doctor", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capfd.readouterr()
        assert "Traceback" not in said.out + said.err
        return ended.value.code, said.out, said.err

    return run


def test_without_an_accelerator_it_is_good(run):
    for arguments in ([], ["--device", "cpu"]):
        code, out, err = run(*arguments)
        assert (code, err) == (0, "")
        assert f"torch {torch.__version__}" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "mps"], "mps is not available"),
        (["--device", "tpu"], "'tpu'"),
        (["--what"], "--what"),
    ],
)
def test_bad_input(run, arguments, words):
    code, _, err = run(*arguments)
    assert code == 2
    assert words in err


@pytest.mark.parametrize(("from_rows", "expected"), [(1000, 1), (32_767, 0)])
def test_an_accelerator_is_refused_when_and_only_when_it_computes_something_else(
    run, monkeypatch, from_rows, expected
):
    probe = DeviceProbe("cuda", "a card", 1 << 30, "asked for", torch.__version__, "x86_64")
    monkeypatch.setattr(doctor, "probe_device", lambda wanted: probe)
    monkeypatch.setattr(doctor, "prepare_device", lambda device: torch.device("cpu"))
    monkeypatch.setattr(doctor, "cap_bytes", lambda device: 2 << 30)
    monkeypatch.setattr(
        doctor,
        "compare_devices",
        partial(compare_devices, workload=SMALL, device_step=faulty_step(from_rows)[0]),
    )
    code, out, err = run("--device", "cuda")
    assert code == expected
    assert "seconds per step" in out
    if expected:
        assert err.startswith("hgt: cuda on a card with torch")
        assert len(err.strip().splitlines()) == 1
    else:
        assert err == ""
        assert "cuda computes the same as the CPU." in out
