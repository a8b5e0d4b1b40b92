"""Random streams, each with a name of its own.

In: a run's seed, a name, and what numbers tell one draw from another. Out: numpy's generator, or a
seed for torch. numpy pads short seeds with zeros, so that `default_rng([0, 3])` is
`default_rng([0, 3, 0, 0])`; here every stream's key has four numbers, and no two are equal.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

_MAX_NUMBERS = 2
_WORD = 1 << 32  # a larger number would take two words of the key


class Stream(IntEnum):
    """What is drawn (and by which numbers). A value stays with its name: it decides what is
    drawn.
    """

    FACT_SPLIT = 1  # (edge type)
    NODE_SPLIT = 2
    BATCH = 3  # (epoch, batch): pools of negatives, contrastive anchors
    FACT_ORDER = 4  # (epoch, edge type): in which order facts are supervised
    NEIGHBORS = 5  # (epoch, batch)
    WEIGHTS = 6
    DROPOUT = 7  # (epoch, batch)
    SHALLOW_WEIGHTS = 8
    SHALLOW_DROPOUT = 9  # (epoch, batch)
    RANDOM_VECTORS = 10  # of the random baseline
    RANKED_FACTS = 11  # the sample that is ranked where not all are
    CLASSIFIED_PAIRS = 12  # (edge type)
    GEOMETRY_SAMPLE = 13
    SIMILAR_PAIRS = 14
    EDGE_DROPOUT = 15  # (epoch, batch)
    EXAMINED_GRAPH = 16  # of `hgt doctor`
    EXAMINED_PRODUCT = 17


def generator(seed: int, stream: Stream, *numbers: int) -> np.random.Generator:
    """numpy's generator of a stream. seed, numbers: whole numbers from 0 to 2^32 - 1"""
    return np.random.default_rng(_key(seed, stream, numbers))


def torch_seed(seed: int, stream: Stream, *numbers: int) -> int:
    """The same for `torch.manual_seed`: 63 bits."""
    (state,) = np.random.SeedSequence(_key(seed, stream, numbers)).generate_state(1, np.uint64)
    return int(state) >> 1


def _key(seed: int, stream: Stream, numbers: tuple[int, ...]) -> list[int]:
    assert len(numbers) <= _MAX_NUMBERS, "every key has as many numbers"
    key = [seed, int(stream), *numbers, *[0] * (_MAX_NUMBERS - len(numbers))]
    assert all(0 <= number < _WORD for number in key), "each is one word"
    return key
