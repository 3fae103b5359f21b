"""The order in which samples are read: sample n of a run is a pure function of the seed and n, for any workers and ranks."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int64
from torch.utils.data import Sampler

from jepa_pipeline.data.rng import Stream, keyed_generator

Key = TypeVar("Key")
Value = TypeVar("Value")


class Positions(NamedTuple):
    """The storage locations of consecutive samples of a stream.

    Args:
        source: number of the data set.
        index: index into the data set's own endless stream.
        epoch: epoch of that stream.
        shard: number of the shard in the data set.
        member: index of the sample in the shard.
        sample: index of the sample in the data set.
    """

    source: Int64[np.ndarray, "S"]
    index: Int64[np.ndarray, "S"]
    epoch: Int64[np.ndarray, "S"]
    shard: Int64[np.ndarray, "S"]
    member: Int64[np.ndarray, "S"]
    sample: Int64[np.ndarray, "S"]


class EpochLayout(NamedTuple):
    """The shuffled shards of an epoch, and the first position of each window followed by the length of the epoch."""

    shards: Int64[np.ndarray, "shards"]
    starts: Int64[np.ndarray, "_"]


class ShardSampler:
    """The endless shuffled stream of a data set: epoch after epoch, each a permutation of all samples.

    The shards of an epoch are shuffled and split into windows of window_shards, and the samples of a window are shuffled
    together, so that few files are read at a time. This needs only the sample counts of the shards, and any index of the
    stream is located without generating the ones before it.

    Args:
        counts: samples per shard.
        seed: seed of the run.
        window_shards: shards whose samples are shuffled together.
        source: number of the data set in a mixture; each has its own random numbers.

    Raises:
        ValueError: all shards are empty.
    """

    def __init__(self, counts: Sequence[int], seed: int, window_shards: int, source: int = 0) -> None:
        self.counts = np.asarray(counts, np.int64)
        self.offsets = np.cumsum(self.counts) - self.counts
        self.samples_per_epoch = int(self.counts.sum())
        self.seed = seed
        self.window_shards = window_shards
        self.source = source
        self._layouts: dict[int, EpochLayout] = {}
        self._permutations: dict[tuple[int, int], np.ndarray] = {}
        if self.samples_per_epoch < 1:
            raise ValueError(f"{len(self.counts)} shards contain no samples: at least one is needed")

    def locate(self, start: int, stop: int) -> Positions:
        """Return the positions of samples start..stop-1 of the stream; the range may span epochs."""
        if not 0 <= start < stop:
            raise ValueError(f"samples {start} to {stop}: a range of the stream has 0 <= start < stop")
        pieces = []
        while start < stop:
            epoch, position = divmod(start, self.samples_per_epoch)
            starts = self._epoch_layout(epoch).starts
            window = find_window(starts, position)
            end = min(int(starts[window + 1]), position + stop - start)
            pieces.append(self._locate_in_window(epoch, window, position, end))
            start += end - position
        return Positions(*map(np.concatenate, zip(*pieces, strict=True)))

    def upcoming_shards(self, index: int) -> list[int]:
        """Return the shards read from this index of the stream on: those of its window, then those of the next."""
        epoch, position = divmod(index, self.samples_per_epoch)
        layout = self._epoch_layout(epoch)
        window = find_window(layout.starts, position)
        is_last = window + 2 == len(layout.starts)
        following = self._window(self._epoch_layout(epoch + 1), 0) if is_last else self._window(layout, window + 1)
        return [*self._window(layout, window).tolist(), *following.tolist()]

    def _locate_in_window(self, epoch: int, window: int, start: int, stop: int) -> Positions:
        """Return positions start..stop-1 of an epoch, all of which lie in one window."""
        layout = self._epoch_layout(epoch)
        first, end = layout.starts[window], layout.starts[window + 1]
        shards = self._window(layout, window)
        picks = self._permutation(epoch, window, int(end - first))[start - first : stop - first]
        ends = np.cumsum(self.counts[shards])
        which = np.searchsorted(ends, picks, side="right")
        shard = shards[which]
        member = picks - (ends[which] - self.counts[shard])
        index = epoch * self.samples_per_epoch + np.arange(start, stop)
        return Positions(
            np.full_like(picks, self.source), index, np.full_like(picks, epoch), shard, member, self.offsets[shard] + member
        )

    def _window(self, layout: EpochLayout, window: int) -> Int64[np.ndarray, "window"]:
        return layout.shards[window * self.window_shards : (window + 1) * self.window_shards]

    def _epoch_layout(self, epoch: int) -> EpochLayout:
        if epoch not in self._layouts:
            generator = keyed_generator(self.seed, Stream.SHUFFLE, epoch, 0, source=self.source)
            shards = generator.permutation(len(self.counts))
            sizes = np.add.reduceat(self.counts[shards], np.arange(0, len(shards), self.window_shards))
            layout = EpochLayout(shards, np.concatenate([[0], np.cumsum(sizes)]))
            self._layouts = keep_latest_two(self._layouts, epoch, layout)
        return self._layouts[epoch]

    def _permutation(self, epoch: int, window: int, samples: int) -> Int64[np.ndarray, "samples"]:
        if (epoch, window) not in self._permutations:
            # view=1, because view=0 of window 0 shuffles the shards
            generator = keyed_generator(self.seed, Stream.SHUFFLE, epoch, window, view=1, source=self.source)
            permutation = generator.permutation(samples)
            self._permutations = keep_latest_two(self._permutations, (epoch, window), permutation)
        return self._permutations[epoch, window]


def find_window(starts: Int64[np.ndarray, "_"], position: int) -> int:
    # side="right" skips windows of empty shards, which start where the next one does
    return int(np.searchsorted(starts, position, side="right")) - 1


def keep_latest_two(cache: dict[Key, Value], key: Key, value: Value) -> dict[Key, Value]:
    """Return the cache with a new entry and only the latest of the old ones.

    Two are enough, since a stream is read forward. The cache belongs to one sampler: shared by a mixture of several, it
    would be recomputed for every batch.
    """
    return {**dict(list(cache.items())[-1:]), key: value}


class DistributedBatchSampler(Sampler[list[int]]):
    """The stream indices of one rank's micro-batches: a batch sampler for torch's DataLoader.

    Global batch s contains the indices [s * batch_size_global, (s + 1) * batch_size_global). It is split into
    accumulate_steps parts and each part into world_size slices, all contiguous; a rank gets its slice of every part.
    Iteration starts at sample start_samples and ends with the last full global batch within total_samples.

    Raises:
        ValueError: the global batch is not divisible, or start_samples is inside one.
    """

    def __init__(
        self,
        batch_size_global: int,
        total_samples: int,
        *,
        accumulate_steps: int = 1,
        rank: int = 0,
        world_size: int = 1,
        start_samples: int = 0,
    ) -> None:
        parts = accumulate_steps * world_size
        if batch_size_global % parts:
            raise ValueError(
                f"a batch of {batch_size_global} is not divisible by {world_size} ranks x accumulate_steps {accumulate_steps}"
            )
        if start_samples % batch_size_global:
            raise ValueError(f"start_samples {start_samples} is not a multiple of the global batch of {batch_size_global}")
        self.batch_size_global, self.micro_batch_size = batch_size_global, batch_size_global // parts
        end = total_samples // batch_size_global * batch_size_global
        self.starts = range(start_samples + rank * self.micro_batch_size, end, self.micro_batch_size * world_size)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[int]]:
        return (list(range(start, start + self.micro_batch_size)) for start in self.starts)
