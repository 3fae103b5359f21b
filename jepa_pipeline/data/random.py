"""Random numbers that belong to a sample, not to whoever happens to draw them."""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What the numbers are for; two streams never share one. The values are part of every run: never renumber them."""

    ORDER = 0
    VIEW = 1
    MASK = 2
    MIX = 3
    STEP = 4


def keyed_generator(seed: int, stream: Stream, epoch: int, sample: int, view: int = 0, source: int = 0) -> np.random.Generator:
    """The generator of one view of one sample of one data set in one epoch, the same in every worker, rank and restart.

    Philox (Salmon et al. 2011) is a keyed hash of a counter of four 64-bit words. The lowest word counts the numbers drawn,
    2^66 of them, and the other three say whose they are, so no two generators overlap and making one costs about 8 µs.
    """
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, source << 32 | view, sample, epoch]))
