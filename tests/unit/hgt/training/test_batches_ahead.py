"""The next batch is drawn while the one before is worked on; all come in order, and each once."""

import threading

import pytest
import torch

from hgt.training.batches import Batches
from hgt.training.batches_ahead import batches_ahead


@pytest.mark.parametrize("first", [0, 4])
def test_an_epoch_or_the_rest_of_one_comes_in_order(graph, split, make_config, first):
    batches = Batches(graph, split, make_config(min_batches_per_epoch=7))
    numbers = range(first, batches.num_batches)
    for (number, batch), expected in zip(batches_ahead(batches, 3, numbers), numbers, strict=True):
        assert number == expected
        assert batch.number == 3 * batches.num_batches + number
        assert torch.equal(batch.supervised, batches.draw(3, number).supervised)


class Watched:
    """Batches that are their numbers."""

    def __init__(self):
        self.drawn = [threading.Event() for _ in range(3)]

    def draw(self, epoch, number):
        self.drawn[number].set()
        return number


@pytest.mark.usefixtures("unchecked_shapes")
def test_one_batch_is_drawn_ahead_and_no_more():
    watched = Watched()
    ahead = batches_ahead(watched, 0, range(3))
    next(ahead)
    assert watched.drawn[1].wait(10), "nobody has asked for it yet"
    assert not watched.drawn[2].is_set()
    assert [number for number, _ in ahead] == [1, 2]


def test_a_failed_draw_is_not_lost(graph, split, config, monkeypatch):
    batches = Batches(graph, split, config)

    def fail(epoch, batch):
        raise MemoryError("no room for the batch")

    monkeypatch.setattr(batches, "draw", fail)
    with pytest.raises(MemoryError, match="no room"):
        list(batches_ahead(batches, 0, range(2)))
