"""Which of a grid's tests are fast: every value of one axis with every value of another, once."""

import itertools

import pytest


def pairwise(*axes):
    """The whole grid for `parametrize`. Fast where the last axis has the place that the others'
    places add up to, modulo its length; so the last axis should not be longer than the others. The
    rest is slow.
    """
    last, grid = axes[-1], []
    for places in itertools.product(*(range(len(axis)) for axis in axes)):
        is_fast = places[-1] == sum(places[:-1]) % len(last)
        values = [axis[place] for axis, place in zip(axes, places, strict=True)]
        grid.append(
            pytest.param(
                *values, id="-".join(map(str, values)), marks=() if is_fast else pytest.mark.slow
            )
        )
    return grid
