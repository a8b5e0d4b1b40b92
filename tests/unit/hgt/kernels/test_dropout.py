"""Dropout that drops the same on every device."""

import importlib
from functools import partial

import pytest
import torch

from hgt.kernels import dropout, dropout_mask
from hgt.kernels.dropout import draw_seeds, dropped, kept_elements
from tests.unit.hgt.interpreter import require_interpreter

SHAPE = (3_000, 257)


def lowbias32(x):
    """C. Wellons, "Prospecting for Hash Functions", in Python's unlimited integers."""
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


@pytest.mark.parametrize("seed", [(0, 0), (12_345, -678), (-(2**31), 2**31 - 1)])
def test_the_hash_is_that_of_unlimited_integers(seed):
    """So whatever a device does where 32 bits overflow has to be what all others do."""
    numbers = torch.tensor([0, 1, 2, 65_535, 2**31 - 1], dtype=torch.int32)
    expected = [
        lowbias32((lowbias32((n + seed[0]) % 2**32) + seed[1]) % 2**32) for n in numbers.tolist()
    ]
    found = dropout_mask.hash_(numbers, torch.tensor(seed, dtype=torch.int32))
    assert [n % 2**32 for n in found.tolist()] == expected


def test_what_is_kept_depends_on_seed_and_place_alone(monkeypatch):
    seed, other = draw_seeds(2)
    kept = kept_elements(SHAPE, 0.2, seed)
    torch.manual_seed(0)
    assert torch.equal(kept_elements(SHAPE, 0.2, seed), kept)
    assert not torch.equal(kept_elements(SHAPE, 0.2, other), kept)
    for chunk in (1_000, 1 << 20):  # as on another device
        kernel = partial(dropout_mask.fill, hashes_at_a_time=chunk)
        monkeypatch.setattr(dropout, "mask_kernel", lambda device_type, kernel=kernel: kernel)
        assert torch.equal(kept_elements(SHAPE, 0.2, seed), kept)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 5, 4_096, 100_001])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1 - 1e-9])
def test_the_cuda_kernel_keeps_the_same(monkeypatch, size, share):
    require_interpreter()
    seed = draw_seeds()
    expected = kept_elements((size,), share, seed)
    kernel = importlib.import_module("hgt.kernels.triton_dropout").fill
    monkeypatch.setattr(dropout, "mask_kernel", lambda device_type: kernel)
    assert torch.equal(kept_elements((size,), share, seed), expected)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9])
def test_the_share_is_dropped_everywhere_and_independently(share):
    """Within five standard deviations: of all elements, of each row and column, of neighbours and
    of two passes, dropped together.
    """
    torch.manual_seed(int(100 * share))
    one, other = (~kept_elements(SHAPE, share, seed) for seed in draw_seeds(2))

    def is_near(found, expected, count):
        assert abs(found - expected) < 5 * (expected * (1 - expected) / count) ** 0.5

    is_near(one.float().mean(), share, one.numel())
    rows, columns = one.float().mean(1), one.float().mean(0)
    for means, count in ((rows, SHAPE[1]), (columns, SHAPE[0])):
        is_near(means.max(), share, count)
        is_near(means.min(), share, count)
        assert abs(means.var() / (share * (1 - share) / count) - 1) < 0.4
    half = -(-one.numel() // 2)
    flat = one.flatten()
    pairs = {
        "in a row": (one[:, 1:], one[:, :-1]),
        "in a column": (one[1:], one[:-1]),
        "of two passes": (one, other),
    }
    pairs["of one hash"] = (flat[: one.numel() - half], flat[half:])
    for a, b in pairs.values():
        is_near((a & b).float().mean(), share**2, a.numel())


def test_kept_elements_are_scaled():
    x = torch.ones(SHAPE, requires_grad=True)
    out = dropped(x, 0.2, draw_seeds())
    assert set(out.unique().tolist()) == {0.0, 1.25}
    out.sum().backward()
    assert torch.equal(x.grad, out)


def test_of_the_largest_share_hardly_anything_is_left():
    assert kept_elements((100_000,), 1 - 1e-9, draw_seeds()).sum() < 20


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("size", [0, 1, 2, 5])
def test_small_and_odd_sizes(share, size):
    kept = kept_elements((size,), share, draw_seeds())
    assert kept.shape == (size,)
    assert kept.dtype == torch.bool
    if not share:
        assert kept.all()
