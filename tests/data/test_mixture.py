"""Several data sets are one stream: deterministic, located directly, each source shuffled by itself and at its share."""

import pickle
from collections import Counter

import numpy as np
import pytest

from jepa_pipeline.data.mixture import BLOCK, Mixture
from jepa_pipeline.data.sampler import ShardSampler

COUNTS = ([7, 1, 12, 5], [30, 30], [3])


def mixture(*weights, seed=0):
    return Mixture(
        [ShardSampler(counts, seed, 2, source) for source, counts in enumerate(COUNTS[: len(weights)])], list(map(float, weights))
    )


def pairs(positions):
    return list(zip(positions.source.tolist(), positions.sample.tolist(), strict=True))


def test_one_data_set_is_its_own_stream():
    alone, sampler = mixture(1.0).locate(0, 200), ShardSampler(COUNTS[0], 0, 2).locate(0, 200)
    for ours, theirs in zip(alone, sampler, strict=True):
        assert (ours == theirs).all()


def test_every_source_goes_through_its_own_stream_without_gaps():
    positions = mixture(3, 1, 0.5).locate(0, 3 * BLOCK)
    for source, counts in enumerate(COUNTS):
        mine = positions.source == source
        assert positions.index[mine].tolist() == list(range(mine.sum()))
        expected = ShardSampler(counts, 0, 2, source).locate(0, int(mine.sum()))
        assert (positions.sample[mine] == expected.sample).all() and (positions.epoch[mine] == expected.epoch).all()


@pytest.mark.parametrize("weights", [(1, 1), (3, 1, 0.5), (0.7, 0.3), (1000, 1)])
def test_shares_are_the_weights_to_within_a_sample_a_block(weights):
    sources = mixture(*weights).locate(0, 5 * BLOCK).source
    for block in sources.reshape(5, BLOCK):
        counts = np.bincount(block, minlength=len(weights))
        assert np.abs(counts - BLOCK * np.array(weights) / sum(weights)).max() <= 1
    halves = [np.bincount(half, minlength=len(weights))[0] for half in sources[:BLOCK].reshape(2, -1)]
    assert abs(halves[0] - halves[1]) < BLOCK / 8, "the sources are mixed within a block, not one after the other"


@pytest.mark.parametrize("samples", [0, 1, 100, BLOCK, BLOCK + 1, 4 * BLOCK + 77])
def test_counts_are_what_was_read(samples):
    mixed = mixture(3, 1, 0.5)
    read = Counter(mixed.locate(0, samples).source.tolist()) if samples else Counter()
    assert mixed.count_by_source(samples) == [read[source] for source in range(3)]


def test_any_range_is_a_slice_of_the_stream_in_any_process():
    mixed = mixture(3, 1, 0.5)
    whole = pairs(mixed.locate(0, 2 * BLOCK + 50))
    for start, stop in [(0, 1), (BLOCK - 3, BLOCK + 3), (5, 2 * BLOCK + 50), (2 * BLOCK, 2 * BLOCK + 1)]:
        assert pairs(pickle.loads(pickle.dumps(mixed)).locate(start, stop)) == whole[start:stop]


def test_seeds_differ_and_so_do_the_same_shards_twice():
    assert pairs(mixture(1, 1).locate(0, 100)) != pairs(mixture(1, 1, seed=1).locate(0, 100))
    twice = Mixture([ShardSampler([50], 0, 1, source) for source in (0, 1)], [1.0, 1.0]).locate(0, 100)
    assert twice.sample[twice.source == 0].tolist()[:20] != twice.sample[twice.source == 1].tolist()[:20]


def test_distant_indices_are_located_directly():
    positions = mixture(2, 1).locate(10**15, 10**15 + 512)
    assert abs((positions.source == 0).sum() - 341) < 60
    assert (positions.index[positions.source == 1] > 3 * 10**14).all()


def test_the_shards_read_next_are_known():
    sampler = ShardSampler([5] * 7, 0, 2)
    for index in (0, 9, 10, 33, 34, 35):
        upcoming = sampler.upcoming_shards(index)
        read = sampler.locate(index, index + 6).shard.tolist()
        assert set(read) <= set(upcoming) and len(upcoming) <= 4


def test_many_sources_are_located_as_quickly_as_few():
    """Each sampler caches its own epochs; a shared cache would be too small for more than a few."""
    import time

    def seconds(sources):
        mixed = Mixture([ShardSampler([10_000] * 200, 0, 16, source) for source in range(sources)], [1.0] * sources)
        mixed.locate(0, 256)
        began = time.process_time()
        for start in range(256, 256 * 41, 256):
            mixed.locate(start, start + 256)
        return time.process_time() - began

    assert min(seconds(10) for _ in range(3)) < 20 * min(seconds(2) for _ in range(3))
