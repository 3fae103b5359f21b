"""The order of the data is a pure function of the seed and the index of the sample."""

import pickle
import time

import numpy as np
import pytest
import torch

from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.sampler import DistributedBatchSampler, ShardSampler

COUNTS = [7, 1, 12, 5, 9, 3, 3]
TOTAL = sum(COUNTS)


def numbers(sampler: ShardSampler, start: int, stop: int) -> list[int]:
    return sampler.locate(start, stop).sample.tolist()


@pytest.mark.parametrize("window", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_every_sample_comes_exactly_once_an_epoch(window: int, epoch: int):
    sampler = ShardSampler(COUNTS, seed=3, window_shards=window)
    positions = sampler.locate(epoch * TOTAL, (epoch + 1) * TOTAL)
    assert sorted(positions.sample.tolist()) == list(range(TOTAL))
    assert (positions.epoch == epoch).all()
    offsets = np.cumsum(COUNTS) - COUNTS
    assert (offsets[positions.shard] + positions.member == positions.sample).all()
    assert (positions.member < np.asarray(COUNTS)[positions.shard]).all()


def test_epochs_and_seeds_differ():
    sampler = ShardSampler(COUNTS, seed=0, window_shards=2)
    epochs = [tuple(numbers(sampler, e * TOTAL, (e + 1) * TOTAL)) for e in range(4)]
    other = tuple(numbers(ShardSampler(COUNTS, seed=1, window_shards=2), 0, TOTAL))
    assert len({*epochs, other}) == 5


def test_any_range_is_a_slice_of_the_stream():
    sampler = ShardSampler(COUNTS, seed=0, window_shards=3)
    stream = numbers(sampler, 0, 3 * TOTAL)
    for start, stop in [(0, 1), (5, 33), (TOTAL - 1, TOTAL + 1), (1, 3 * TOTAL), (2 * TOTAL, 2 * TOTAL + 7)]:
        assert numbers(sampler, start, stop) == stream[start:stop]


def test_reading_stays_within_a_window_of_shards():
    sampler = ShardSampler([10] * 12, seed=0, window_shards=3)
    shards = sampler.locate(0, 120).shard.reshape(4, 30)
    assert all(len(set(window.tolist())) == 3 for window in shards)
    assert not (np.diff(shards[0]) == 0).all()


def test_empty_shards_are_passed_over():
    sampler = ShardSampler([0, 4, 0, 0, 3, 0], seed=0, window_shards=1)
    assert sorted(numbers(sampler, 0, 7)) == list(range(7))
    with pytest.raises(ValueError, match="at least one"):
        ShardSampler([0, 0], seed=0, window_shards=1)


def test_a_sampler_can_be_pickled():
    sampler = ShardSampler(COUNTS, seed=0, window_shards=3)
    assert numbers(pickle.loads(pickle.dumps(sampler)), 0, 60) == numbers(sampler, 0, 60)


def test_a_billion_samples_are_located_directly():
    def seconds(samples_per_shard):
        began = time.process_time()
        sampler = ShardSampler([samples_per_shard] * 100_000, seed=0, window_shards=16)
        for start in (0, 999_999_990, 123_456_789_012):
            assert len(set(numbers(sampler, start, start + 256))) == 256
        return time.process_time() - began

    assert min(seconds(10_000) for _ in range(3)) < 3 * min(seconds(100) for _ in range(3))


def batch_sampler(total: int = 100, **options: int) -> DistributedBatchSampler:
    return DistributedBatchSampler(24, total, **options)


def merge_ranks(world: int, accumulate: int, start: int = 0) -> list[int]:
    """Return the indices of all ranks' micro-batches, in the sampler of the global stream."""
    ranks = [batch_sampler(accumulate_steps=accumulate, rank=rank, world_size=world, start_samples=start) for rank in range(world)]
    return [number for parts in zip(*ranks, strict=True) for part in parts for number in part]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_any_number_of_ranks_gets_the_same_global_batches(world: int, accumulate: int):
    assert merge_ranks(world, accumulate) == list(range(96))


def test_another_world_size_continues_where_one_stopped():
    assert merge_ranks(1, 1)[48:] == merge_ranks(4, 3, start=48)
    sampler = batch_sampler(accumulate_steps=2, world_size=4, start_samples=48)
    assert len(sampler) == 4
    assert [len(part) for part in sampler] == [3] * 4
    assert list(batch_sampler(start_samples=96)) == []


def test_a_batch_that_is_not_divisible_is_refused():
    with pytest.raises(ValueError, match="24 is not divisible by 5 ranks"):
        batch_sampler(world_size=5)
    with pytest.raises(ValueError, match="not a multiple"):
        batch_sampler(start_samples=12)


def test_keyed_generators_never_share_numbers():
    keys = [
        (s, stream, e, i, v) for s in (0, 2**63 - 1) for stream in Stream for e in (0, 1) for i in (0, 1, 2**40) for v in (0, 1)
    ]
    first = {tuple(keyed_generator(*key).integers(2**62, size=3).tolist()) for key in keys}
    assert len(first) == len(keys)
    assert keyed_generator(1, Stream.VIEW, 2, 3).random() == keyed_generator(1, Stream.VIEW, 2, 3).random()


def test_the_order_leaves_the_global_generators_alone():
    before, np_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    ShardSampler(COUNTS, 0, 2).locate(0, 50)
    assert torch.equal(before, torch.get_rng_state())
    assert (np_before == np.random.get_state()[1]).all()  # noqa: NPY002
