"""The order of the data is a pure function of the seed and the number of the sample."""

import pickle
import time

import numpy as np
import pytest
import torch

from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.sampler import Deal, Order

COUNTS = [7, 1, 12, 5, 9, 3, 3]
TOTAL = sum(COUNTS)


def numbers(order: Order, start: int, stop: int) -> list[int]:
    return order.samples(start, stop).sample.tolist()


@pytest.mark.parametrize("window", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_every_sample_comes_exactly_once_an_epoch(window: int, epoch: int):
    order = Order(COUNTS, seed=3, window_shards=window)
    positions = order.samples(epoch * TOTAL, (epoch + 1) * TOTAL)
    assert sorted(positions.sample.tolist()) == list(range(TOTAL))
    assert (positions.epoch == epoch).all()
    offsets = np.cumsum(COUNTS) - COUNTS
    assert (offsets[positions.shard] + positions.member == positions.sample).all()
    assert (positions.member < np.asarray(COUNTS)[positions.shard]).all()


def test_epochs_and_seeds_differ():
    order = Order(COUNTS, seed=0, window_shards=2)
    epochs = [tuple(numbers(order, e * TOTAL, (e + 1) * TOTAL)) for e in range(4)]
    other = tuple(numbers(Order(COUNTS, seed=1, window_shards=2), 0, TOTAL))
    assert len({*epochs, other}) == 5


def test_any_range_is_a_slice_of_the_stream():
    order = Order(COUNTS, seed=0, window_shards=3)
    stream = numbers(order, 0, 3 * TOTAL)
    for start, stop in [(0, 1), (5, 33), (TOTAL - 1, TOTAL + 1), (1, 3 * TOTAL), (2 * TOTAL, 2 * TOTAL + 7)]:
        assert numbers(order, start, stop) == stream[start:stop]


def test_reading_stays_within_a_window_of_shards():
    order = Order([10] * 12, seed=0, window_shards=3)
    shards = order.samples(0, 120).shard.reshape(4, 30)
    assert all(len(set(window.tolist())) == 3 for window in shards)
    assert not (np.diff(shards[0]) == 0).all()


def test_empty_shards_are_passed_over():
    order = Order([0, 4, 0, 0, 3, 0], seed=0, window_shards=1)
    assert sorted(numbers(order, 0, 7)) == list(range(7))
    with pytest.raises(ValueError, match="at least one"):
        Order([0, 0], seed=0, window_shards=1)


def test_an_order_travels_to_another_process():
    order = Order(COUNTS, seed=0, window_shards=3)
    assert numbers(pickle.loads(pickle.dumps(order)), 0, 60) == numbers(order, 0, 60)


def test_a_billion_samples_are_found_at_once():
    began = time.perf_counter()
    order = Order([10_000] * 100_000, seed=0, window_shards=16)
    for start in (0, 999_999_990, 123_456_789_012):
        assert len(set(numbers(order, start, start + 256))) == 256
    assert time.perf_counter() - began < 1


def dealt(world: int, accumulate: int, start: int = 0, total: int = 100) -> list[int]:
    deals = [iter(Deal(24, accumulate, rank, world, start, total)) for rank in range(world)]
    return [number for parts in zip(*deals, strict=True) for part in parts for number in part]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_any_number_of_ranks_gets_the_same_global_batches(world: int, accumulate: int):
    assert dealt(world, accumulate) == list(range(96))


def test_a_deal_goes_on_where_it_was_left_with_another_world():
    assert dealt(1, 1)[48:] == dealt(4, 3, start=48)
    assert len(Deal(24, 2, 0, 4, 48, 100)) == 4
    assert [len(part) for part in Deal(24, 2, 0, 4, 48, 100)] == [3] * 4
    assert list(Deal(24, 1, 0, 1, 96, 100)) == []


def test_a_deal_refuses_what_does_not_divide():
    with pytest.raises(ValueError, match="cannot be dealt"):
        Deal(24, 1, 0, 5, 0, 100)
    with pytest.raises(ValueError, match="not a multiple"):
        Deal(24, 1, 0, 1, 12, 100)


def test_keyed_generators_never_share_numbers():
    keys = [
        (s, stream, e, i, v) for s in (0, 2**63 - 1) for stream in Stream for e in (0, 1) for i in (0, 1, 2**40) for v in (0, 1)
    ]
    first = {tuple(keyed_generator(*key).integers(2**62, size=3).tolist()) for key in keys}
    assert len(first) == len(keys)
    assert keyed_generator(1, Stream.VIEW, 2, 3).random() == keyed_generator(1, Stream.VIEW, 2, 3).random()


def test_the_order_leaves_the_global_generators_alone():
    before, np_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    Order(COUNTS, 0, 2).samples(0, 50)
    assert torch.equal(before, torch.get_rng_state())
    assert (np_before == np.random.get_state()[1]).all()  # noqa: NPY002
