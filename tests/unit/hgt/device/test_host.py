"""The processor's name, and memory of this process alone."""

import subprocess
import sys

import pytest

from hgt.device.host import chip_name, process_bytes, process_peak_bytes, total_bytes
from tests.conftest import CHECKOUT
from tests.unit.hgt.device.conftest import GIB


def test_chip_name():
    assert chip_name()
    assert "\n" not in chip_name()


def test_the_process_has_less_now_than_at_its_peak_and_than_the_machine():
    assert 10 << 20 < process_bytes() <= process_peak_bytes() < total_bytes()


@pytest.mark.skipif(
    sys.platform != "linux", reason="Linux hands a parent's peak on to its children"
)
def test_the_peak_is_not_the_parents():
    child = (
        "import resource; from hgt.device.memory_use import peak_memory; "
        "print(peak_memory('cpu').process_bytes, resource.getrusage(0).ru_maxrss)"
    )
    parent = (
        f"import subprocess, sys; block = b'x' * {GIB}; subprocess.run([sys.executable, '-c',"
        f" {child!r}], check=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", parent], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    peak, resources = map(int, done.stdout.split())
    assert resources * 1024 > GIB, "if the kernel no longer does this, the work-around may go"
    assert 50 << 20 < peak < GIB
