import torch

from hgt.bounded_rows import MOST, bound_, bounded


def lengths(x):
    return x.norm(dim=1)


def formula(x):
    """The same in plain operations, which keep more."""
    longest = MOST * lengths(x).detach().mean()
    return x * (longest / lengths(x)).clamp(max=1).unsqueeze(1)


def rows():
    x = torch.randn(50, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[3] *= 10
    x[7] *= 5
    return x


def test_long_rows_keep_their_direction_and_lose_their_length():
    x = rows()
    y = bounded(x.clone())
    longest = MOST * lengths(x).mean()
    torch.testing.assert_close(lengths(y)[[3, 7]], longest.expand(2))
    torch.testing.assert_close(y[3] / y[3].norm(), x[3] / x[3].norm())
    short = lengths(x) < longest
    assert 40 < short.sum() < 49
    assert torch.equal(y[short], x[short])


def test_values_and_gradients_are_those_of_the_formula():
    x = rows().requires_grad_()
    weights = torch.randn(50, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = bounded(x * 1)
    torch.testing.assert_close(y, formula(x))
    (found,) = torch.autograd.grad((y * weights).sum(), x)
    (wanted,) = torch.autograd.grad((formula(x) * weights).sum(), x)
    torch.testing.assert_close(found, wanted)
    assert torch.autograd.grad(bounded(x * 1).sum(), x), "a gradient that is one number, expanded"


def test_it_works_in_place_and_row_groups_do_not_matter(monkeypatch):
    x = rows()
    place, whole = x.data_ptr(), bounded(x.clone())
    monkeypatch.setattr("hgt.bounded_rows._ROWS", 7)
    bound_(x)
    assert x.data_ptr() == place
    torch.testing.assert_close(x, whole)


def test_zeros_stay_zeros():
    x = torch.cat([torch.zeros(2, 4), torch.ones(30, 4)])
    assert torch.equal(bounded(x.clone()), x)
    assert torch.equal(bounded(torch.zeros(3, 4)), torch.zeros(3, 4))
