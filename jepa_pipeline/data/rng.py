"""Random numbers keyed by seed, epoch and sample, so that they do not depend on the process that draws them."""

from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.random.bit_generator import ISeedSequence


class Stream(IntEnum):
    """The purposes of random numbers, each with numbers of its own. The values are part of every run: never change them."""

    SHUFFLE = 0
    VIEW = 1
    MASK = 2
    MIXTURE = 3
    STEP = 4
    SHARED = 5


class PhiloxKey(ISeedSequence):
    """A seed sequence that returns its words unchanged as the key of a Philox generator.

    numpy's `Philox(key=...)` does the same, but first reads entropy from the system, which it then ignores.
    """

    def __init__(self, seed: int, stream: Stream) -> None:
        self.words = np.array([seed, stream], np.uint64)

    def generate_state(self, n_words: int, dtype: object = np.uint64) -> np.ndarray:
        return self.words


@lru_cache(maxsize=64)
def philox_key(seed: int, stream: Stream) -> PhiloxKey:
    return PhiloxKey(seed, stream)


def keyed_generator(seed: int, stream: Stream, epoch: int, sample: int, view: int = 0, source: int = 0) -> np.random.Generator:
    """Return the generator of one view of one sample of one data set in one epoch, equal in every worker, rank and restart.

    Philox (Salmon et al. 2011) is a keyed hash of a counter of four 64-bit words. The lowest word counts the numbers drawn,
    2^66 of them, and the other three identify the view, so no two generators overlap and making one takes about 3 µs.
    """
    key = philox_key(seed, stream)
    philox = np.random.Philox(key, counter=[0, source << 32 | view, sample, epoch])  # pyright: ignore[reportArgumentType]
    return np.random.Generator(philox)
