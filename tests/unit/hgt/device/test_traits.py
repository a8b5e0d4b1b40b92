"""The table of devices as a whole; its rows are tested where they are used."""

import subprocess
import sys

import pytest

from hgt.device.traits import DEVICES, traits_of
from tests.conftest import CHECKOUT


def test_each_row_is_found_by_its_own_type():
    assert [traits_of(device).type for device in DEVICES] == list(DEVICES) == ["mps", "cuda", "cpu"]


def test_the_host_is_the_one_device_that_is_always_there():
    assert [t.type for t in DEVICES.values() if t.is_host] == ["cpu"]
    assert traits_of("cpu").is_available()


def test_no_message_means_two_devices():
    """What torch says of each, from the tests of out of memory."""
    from tests.unit.hgt.device.test_out_of_memory import MESSAGES

    for error, _ in MESSAGES:
        said = [t.type for t in DEVICES.values() if t.out_of_memory.search(str(error))]
        assert len(said) <= 1, (error, said)


def test_a_device_that_is_not_in_the_table():
    with pytest.raises(KeyError, match="tpu"):
        traits_of("tpu")


def test_the_names_are_there_without_torch():
    code = (
        "import sys; from hgt.device.traits import DEVICES; print(*DEVICES, *{'torch', 'psutil'} &"
        " sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "mps cuda cpu\n"
