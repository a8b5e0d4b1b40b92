"""Draws the next batch while the device works on the one before.

In: the batches of a run. Out: some of an epoch's, in order. It does not know what is done with
them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from hgt.training.batch import Batch
from hgt.training.batches import Batches


def batches_ahead(batches: Batches, epoch: int, numbers: range) -> Iterator[tuple[int, Batch]]:
    """(number, batch) of an epoch's batches with these numbers. A thread draws one ahead."""
    draw = functools.partial(batches.draw, epoch)
    with ThreadPoolExecutor(1, thread_name_prefix="draw") as drawer:
        upcoming = drawer.submit(draw, numbers[0])
        for number in numbers:
            batch = upcoming.result()
            if number + 1 in numbers:
                upcoming = drawer.submit(draw, number + 1)
            yield number, batch
