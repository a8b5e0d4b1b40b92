import itertools

import pytest
import torch

from hgt.seeds import Stream, generator, torch_seed
from tests.conftest import CHECKOUT

NUMBERS = [(), (1,), (3,), (0, 1), (3, 1), (0, 3), (2**32 - 1, 5)]


def test_no_two_streams_are_equal():
    keys = list(itertools.product((0, 1, 3, 2**31 - 1), Stream, NUMBERS))
    drawn = {
        tuple(generator(seed, stream, *numbers).integers(2**63, size=2))
        for seed, stream, numbers in keys
    }
    assert len(drawn) == len(keys)
    seeds = {torch_seed(seed, stream, *numbers) for seed, stream, numbers in keys}
    assert len(seeds) == len(keys)
    for seed in seeds:
        torch.manual_seed(seed)


def test_the_split_of_edge_type_3_is_not_the_sample_that_is_ranked():
    """Both were `default_rng([0, 3])`, as was the draw of the first batch's neighbours."""
    streams = [(Stream.FACT_SPLIT, 3), (Stream.RANKED_FACTS,), (Stream.NEIGHBORS, 0, 0)]
    assert len({generator(0, *stream).integers(2**63) for stream in streams}) == 3


def test_a_stream_is_the_same_each_time():
    assert generator(5, Stream.BATCH, 1, 2).random() == generator(5, Stream.BATCH, 1, 2).random()
    assert torch_seed(5, Stream.DROPOUT, 1, 2) == torch_seed(5, Stream.DROPOUT, 1, 2)


@pytest.mark.parametrize("numbers", [(1, 2, 3), (-1,), (2**32,)])
def test_keys_have_one_length(numbers):
    with pytest.raises(AssertionError):
        generator(0, Stream.BATCH, *numbers)


def test_nobody_seeds_by_himself():
    """But the demo graph, whose seed is the user's and names the graph."""
    left = {"seeds.py", "demo_graph.py"}
    for module in (CHECKOUT / "hgt").rglob("*.py"):
        assert module.name in left or "default_rng" not in module.read_text()
