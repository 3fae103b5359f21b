"""Several data sets as one stream: which of them the n-th sample comes from is a pure function of seed, weights and n."""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.sampler import Order, Positions

BLOCK = 4096
"""Stream numbers that are mixed together. In each block, and so at any time, a source has its share to within one sample."""


class Mixture:
    """The endless stream of one or more data sets, each in its own order and epochs, mixed by weight.

    Stream numbers are cut into blocks. The sources' numbers of samples in a block are fixed by the weights, their places in it
    are shuffled, and every source goes on in its own order from where the block before left it. So any position is found at once.
    """

    def __init__(self, orders: Sequence[Order], weights: Sequence[float]) -> None:
        self.orders = list(orders)
        self.seed = orders[0].seed
        total = sum(map(Fraction, weights))
        self.borders = [Fraction(0), *(weight / total for weight in accumulate(map(Fraction, weights)))]
        """Shares of the first k sources together, for k = 0 to all."""

    def samples(self, start: int, stop: int) -> Positions:
        """Samples start..stop-1 of the stream."""
        if not 0 <= start < stop:
            raise ValueError(f"samples {start} to {stop}: a range of the stream has 0 <= start < stop")
        blocks = [mix(self, number) for number in range(start // BLOCK, (stop - 1) // BLOCK + 1)]
        inside = slice(start % BLOCK, start % BLOCK + stop - start)
        sources = np.concatenate([block.sources for block in blocks])[inside]
        indices = np.concatenate([block.indices for block in blocks])[inside]
        found = Positions(*np.empty((len(Positions._fields), stop - start), np.int64))
        for source in np.unique(sources).tolist():
            places = np.flatnonzero(sources == source)
            first, last = indices[places[[0, -1]]].tolist()  # a source is read on without gaps
            for column, values in zip(found, self.orders[source].samples(first, last + 1), strict=True):
                column[places] = values
        return found

    def counts(self, samples: int) -> list[int]:
        """How many of the first so many samples come from each source."""
        whole = whole_counts(self, samples // BLOCK)
        rest = mix(self, samples // BLOCK).sources[: samples % BLOCK]
        return (whole + np.bincount(rest, minlength=len(self.orders))).tolist()


class Block(NamedTuple):
    """Of each stream number in a block, the source and the place in that source's own stream."""

    sources: Int64[np.ndarray, "block"]
    indices: Int64[np.ndarray, "block"]


def whole_counts(mixture: Mixture, blocks: int) -> Int64[np.ndarray, "sources"]:
    """How many samples of each source the first so many blocks hold; borders are rounded down, so that they add up."""
    return np.diff([int(border * blocks * BLOCK) for border in mixture.borders])


@lru_cache(maxsize=8)
def mix(mixture: Mixture, block: int) -> Block:
    before = whole_counts(mixture, block)
    counts = whole_counts(mixture, block + 1) - before
    sources = np.repeat(np.arange(len(counts)), counts)
    indices = np.concatenate([np.arange(first, first + count) for first, count in zip(before, counts, strict=True)])
    if len(counts) > 1:
        sources = keyed_generator(mixture.seed, Stream.MIX, block, 0).permutation(sources)
        indices[np.argsort(sources, kind="stable")] = indices.copy()
    return Block(sources, indices)
