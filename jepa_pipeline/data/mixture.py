"""Several data sets as one stream: the data set of sample n is a pure function of seed, weights and n."""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.sampler import Positions, ShardSampler

BLOCK = 4096
"""Samples that are shuffled together. In every block each source has its share to within one sample."""


class Mixture:
    """The endless stream of one or more data sets, each shuffled by its own sampler, mixed by weight.

    The stream is split into blocks. The weights fix how many samples of a block come from each source, and their order in
    the block is shuffled. Each source continues its own stream from block to block, so any index is located directly.
    """

    def __init__(self, samplers: Sequence[ShardSampler], weights: Sequence[float]) -> None:
        self.samplers = list(samplers)
        self.seed = samplers[0].seed
        # Fractions, because rounded shares would drift by a sample in long runs
        total = sum(map(Fraction, weights))
        self.cumulative_shares = [Fraction(0), *(weight / total for weight in accumulate(map(Fraction, weights)))]

    def locate(self, start: int, stop: int) -> Positions:
        """Return the positions of samples start..stop-1 of the stream."""
        if not 0 <= start < stop:
            raise ValueError(f"samples {start} to {stop}: a range of the stream has 0 <= start < stop")
        blocks = [mix_block(self, number) for number in range(start // BLOCK, (stop - 1) // BLOCK + 1)]
        inside = slice(start % BLOCK, start % BLOCK + stop - start)
        sources = np.concatenate([block.sources for block in blocks])[inside]
        indices = np.concatenate([block.indices for block in blocks])[inside]
        positions = Positions(*np.empty((len(Positions._fields), stop - start), np.int64))
        for source in np.unique(sources).tolist():
            rows = np.flatnonzero(sources == source)
            first, last = indices[rows[[0, -1]]].tolist()  # the indices of a source are consecutive
            for column, values in zip(positions, self.samplers[source].locate(first, last + 1), strict=True):
                column[rows] = values
        return positions

    def count_by_source(self, samples: int) -> list[int]:
        """Return how many of the first `samples` samples come from each source."""
        full_blocks = count_in_blocks(self, samples // BLOCK)
        rest = mix_block(self, samples // BLOCK).sources[: samples % BLOCK]
        return (full_blocks + np.bincount(rest, minlength=len(self.samplers))).tolist()


class Block(NamedTuple):
    """The source of each sample of a block and its index in that source's own stream."""

    sources: Int64[np.ndarray, "block"]
    indices: Int64[np.ndarray, "block"]


def count_in_blocks(mixture: Mixture, blocks: int) -> Int64[np.ndarray, "sources"]:
    """Return how many samples of each source the first `blocks` blocks contain."""
    # cumulative counts are rounded, not counts, so that they add up to whole blocks
    return np.diff([int(share * blocks * BLOCK) for share in mixture.cumulative_shares])


@lru_cache(maxsize=8)
def mix_block(mixture: Mixture, block: int) -> Block:
    before = count_in_blocks(mixture, block)
    counts = count_in_blocks(mixture, block + 1) - before
    sources = np.repeat(np.arange(len(counts)), counts)
    indices = np.concatenate([np.arange(first, first + count) for first, count in zip(before, counts, strict=True)])
    if len(counts) > 1:
        sources = keyed_generator(mixture.seed, Stream.MIXTURE, block, 0).permutation(sources)
        # the stable argsort lists the rows of each source in order, so that its indices ascend along the block
        indices[np.argsort(sources, kind="stable")] = indices.copy()
    return Block(sources, indices)
