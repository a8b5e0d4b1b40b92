"""What the doctor prints, and that it can refuse: the CPU stands for a Mac's GPU with MPS's wrong
products.
"""

from functools import partial

import pytest
import torch

from hgt.device.known_issues import Machine
from hgt.device.probe import DeviceProbe, probe_device
from hgt.diagnosis import doctor
from hgt.diagnosis.comparison import compare_devices
from hgt.diagnosis.difference import TOLERANCES, Difference
from hgt.diagnosis.doctor import examine, facts, refusal, this_machine
from hgt.errors import DeviceRefused, InputError
from tests.unit.hgt.diagnosis.test_comparison import SMALL
from tests.unit.hgt.faulty_products import faulty_step

pytestmark = pytest.mark.usefixtures("unchecked_shapes")


@pytest.fixture
def only_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def fake_mac(monkeypatch):
    """`fake_mac("Apple M1 Pro")`: this machine says that it is one; its GPU is the CPU with wrong
    long products.
    """

    def make(chip, from_rows):
        probe = DeviceProbe(
            "mps", chip, 11 << 30, "the accelerator of this machine", torch.__version__, "arm64"
        )
        monkeypatch.setattr(doctor, "probe_device", lambda wanted: probe)
        monkeypatch.setattr(doctor, "prepare_device", lambda device: torch.device("cpu"))
        monkeypatch.setattr(doctor, "chip_name", lambda: chip)
        monkeypatch.setattr(doctor, "cap_bytes", lambda device: 11 << 30)
        monkeypatch.setattr(doctor.platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
        step, _ = faulty_step(from_rows)
        monkeypatch.setattr(
            doctor, "compare_devices", partial(compare_devices, workload=SMALL, device_step=step)
        )

    return make


def test_on_a_cpu_alone_there_are_facts_and_nothing_to_compare(only_a_cpu):
    said = []
    examine(None, said.append)
    text = "\n".join(said)
    assert torch.__version__ in text
    assert "GiB available" in text
    assert "No accelerator to compare with the CPU: the only device." in text
    assert "known issues of this combination: none" in text
    assert "two steps" not in text


def test_a_device_that_is_not_there_is_bad_input(only_a_cpu):
    with pytest.raises(InputError, match="Device mps is not available"):
        examine("mps", print)


def test_a_mac_whose_products_are_right_passes(fake_mac):
    fake_mac("Apple M1 Pro", from_rows=32_767)
    said = []
    examine(None, said.append)
    text = "\n".join(said)
    assert said[-1] == "mps computes the same as the CPU."
    assert "macOS 15.1" in text
    assert "Apple M1 Pro" in text
    assert "11.0 GiB, the recommended memory; torch alone would take up to 18.7 GiB" in text
    assert "pytorch 177116, 193487" in text
    assert text.count("  same") == 3 * len(TOLERANCES)


@pytest.mark.parametrize(
    ("chip", "cause"),
    [
        ("Apple M1 Pro", "Known of this combination: pytorch 177116, 193487: "),
        ("Apple M4", "The cause is not known"),
    ],
)
def test_a_mac_whose_products_are_wrong_is_refused(fake_mac, chip, cause):
    fake_mac(chip, from_rows=1000)
    said = []
    with pytest.raises(DeviceRefused) as caught:
        examine(None, said.append)
    message = str(caught.value)
    assert message.startswith(
        f"mps on {chip} with torch {torch.__version__} is refused: its gradients differ from the"
        " CPU's by "
    )
    assert cause in message
    assert "Use --device cpu" in message
    assert caught.value.exit_code == 1
    assert "WRONG" in "\n".join(said)
    assert len(message.splitlines()) == 1


def test_a_refusal_names_the_parameter_and_both_figures():
    worst = Difference("dirty memory", "gradients", 0.25, "encoder.projection.weight")
    message = refusal("cuda", worst, Machine("cuda", "NVIDIA H100", None, (2, 13)))
    for words in ("2.5e-01", "1e-04", "encoder.projection.weight", "'dirty memory'", "NVIDIA H100"):
        assert words in message


def test_facts_tell_of_environment_variables_and_the_container(monkeypatch):
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    monkeypatch.setattr(doctor.cgroup, "available_bytes", lambda: 3 << 30)
    probe = probe_device("cpu")
    text = facts(probe, this_machine(probe))
    assert "PYTORCH_ENABLE_MPS_FALLBACK=1" in text
    assert "3.0 GiB left by the control group" in text


def test_this_machine():
    machine = this_machine(probe_device("cpu"))
    assert machine.device == "cpu"
    assert ".".join(map(str, machine.torch)) == ".".join(torch.__version__.split(".")[:2])
