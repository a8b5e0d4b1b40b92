"""Rows that are much longer than the typical one are shortened, and may become shorter, not
longer.
"""

import math

import pytest
import torch

from hgt.model.length_bound import MOST, bounded, longest_length

SEVERAL_BLOCKS = 4096 + 5  # more rows than products are worked out of at a time


@pytest.fixture
def rows():
    """Of length 1, but for one of length 50 and one of zeros."""
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(SEVERAL_BLOCKS, 8), dim=1)
    rows[7] *= 50
    rows[11] = 0
    return rows


def test_long_rows_are_cut_to_the_typical_length_alone(rows):
    before = rows.clone()
    after = bounded(rows)
    assert after is rows, "in the matrix' memory"
    expected = before.clone()
    expected[7] *= MOST * math.exp((math.log(50) + math.log(1e-3)) / SEVERAL_BLOCKS) / 50
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_only_ratios_of_lengths_count(rows, scale):
    torch.testing.assert_close(
        bounded(rows * scale), bounded(rows.clone()) * scale, rtol=1e-4, atol=0
    )


def test_rows_of_zeros_stay():
    assert torch.equal(bounded(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_outliers_hardly_move_the_bound(rows):
    """The arithmetic mean would be 3.5 times as long with 5 % of rows 50 times as long, the
    geometric one is 1.2 times.
    """
    usual = longest_length(rows)
    rows[::20] *= 50
    assert 1.1 < longest_length(rows) / usual < 1.25


@pytest.mark.parametrize(("sign", "kept"), [(1, 1.0), (-1, 0.0)], ids=["shortening", "lengthening"])
def test_a_shortened_rows_gradient_may_shorten_it_but_not_lengthen_it(rows, sign, kept):
    parameter = rows.clone().requires_grad_()
    after = bounded(parameter * 1.0)
    along = sign * after.detach() / after.detach().norm(dim=1, keepdim=True).clamp_min(1e-9)
    across = torch.randn_like(rows)
    across -= (across * along).sum(1, keepdim=True) * along
    (after * (along + across)).sum().backward()  # descent shortens rows with sign 1
    factor = float(after[7].detach().norm()) / 50
    torch.testing.assert_close(parameter.grad[7], factor * (across + kept * along)[7])
    others = [i for i in range(SEVERAL_BLOCKS) if i != 7]
    torch.testing.assert_close(parameter.grad[others], (along + across)[others])
