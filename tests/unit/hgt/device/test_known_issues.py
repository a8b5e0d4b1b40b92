"""Which rows of the table concern which machine."""

import pytest

from hgt.device.known_issues import KNOWN_ISSUES, Machine, issues_of


def mac(chip="Apple M1 Pro", torch=(2, 13), macos=(15, 1), device="mps", **environment):
    return Machine(device, chip, macos, torch, environment)


def numbers(machine):
    return {issue.number for issue in issues_of(machine)}


PRODUCTS, BATCHED = "pytorch 177116, 193487", "pytorch 195163"


@pytest.mark.parametrize(
    ("chip", "torch", "there"),
    [
        ("Apple M1", (2, 13), {PRODUCTS, BATCHED}),
        ("Apple M2 Ultra", (2, 7), {PRODUCTS, BATCHED}),
        ("Apple M2", (2, 14), {BATCHED}),
        ("Apple M1", (2, 6), set()),
        ("Apple M3 Max", (2, 13), set()),
        ("Apple M4", (2, 13), set()),
    ],
)
def test_wrong_products_are_those_of_old_chips_and_certain_versions(chip, torch, there):
    machine = mac(chip, torch)
    assert numbers(machine) & {PRODUCTS, BATCHED} == there
    assert {issue.number for issue in issues_of(machine) if issue.explains_gradients} == there


def test_what_every_mac_has():
    assert numbers(mac("Apple M4")) >= {
        "pytorch 149325, 143859",
        "pytorch 139550, 189690",
        "torch's default cap",
    }


def test_environment_and_macos():
    assert numbers(mac()) < numbers(mac(PYTORCH_ENABLE_MPS_FALLBACK="1"))
    assert numbers(mac()) == numbers(mac(PYTORCH_ENABLE_MPS_FALLBACK="0"))
    assert numbers(mac(PYTORCH_MPS_HIGH_WATERMARK_RATIO="0.8")) - numbers(mac()) == {
        "PYTORCH_MPS_HIGH_WATERMARK_RATIO"
    }
    assert numbers(mac(macos=(13, 7), device="cpu")) == {"macOS before 14"}
    assert not numbers(mac(device="cpu"))


def test_other_machines_have_none():
    assert not issues_of(
        Machine("cuda", "NVIDIA H100", None, (2, 13), {"PYTORCH_ENABLE_MPS_FALLBACK": "1"})
    )
    assert not issues_of(Machine("cpu", "Intel Xeon", None, (2, 13)))


def test_each_row_says_what_happens_and_what_is_done():
    for issue in KNOWN_ISSUES:
        assert issue.number in issue.text()
        assert issue.what in issue.text()
        assert (issue.avoided or "Not avoided") in issue.text()
        assert issue.text().endswith(".")
        assert ".." not in issue.text()
