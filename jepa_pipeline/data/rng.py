"""Random numbers that belong to a sample, not to whoever happens to draw them."""

from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.random.bit_generator import ISeedSequence


class Stream(IntEnum):
    """What the numbers are for; two streams never share one. The values are part of every run: never renumber them."""

    ORDER = 0
    VIEW = 1
    MASK = 2
    MIX = 3
    STEP = 4
    SHARED = 5


class Key(ISeedSequence):
    """The key of a Philox, as it is. Given as its argument `key`, numpy would first ask the system for a seed and never use it."""

    def __init__(self, seed: int, stream: Stream) -> None:
        self.words = np.array([seed, stream], np.uint64)

    def generate_state(self, n_words: int, dtype: object = np.uint64) -> np.ndarray:
        return self.words


@lru_cache(maxsize=64)
def philox_key(seed: int, stream: Stream) -> Key:
    return Key(seed, stream)


def keyed_generator(seed: int, stream: Stream, epoch: int, sample: int, view: int = 0, source: int = 0) -> np.random.Generator:
    """The generator of one view of one sample of one data set in one epoch, the same in every worker, rank and restart.

    Philox (Salmon et al. 2011) is a keyed hash of a counter of four 64-bit words. The lowest word counts the numbers drawn,
    2^66 of them, and the other three say whose they are, so no two generators overlap and making one costs about 3 µs.
    """
    key = philox_key(seed, stream)
    philox = np.random.Philox(key, counter=[0, source << 32 | view, sample, epoch])  # pyright: ignore[reportArgumentType]
    return np.random.Generator(philox)
