"""Which sample is the n-th of a run: a pure function of the seed and n, for any number of workers and ranks."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int64
from torch.utils.data import Sampler

from jepa_pipeline.data.rng import Stream, keyed_generator

Key = TypeVar("Key")
Value = TypeVar("Value")


class Positions(NamedTuple):
    """Where consecutive samples of a stream lie: source, the data set; index, their place in its own stream; its epoch then;
    member of shard; and sample, their number in the whole data set.
    """

    source: Int64[np.ndarray, "S"]
    index: Int64[np.ndarray, "S"]
    epoch: Int64[np.ndarray, "S"]
    shard: Int64[np.ndarray, "S"]
    member: Int64[np.ndarray, "S"]
    sample: Int64[np.ndarray, "S"]


class Layout(NamedTuple):
    """The shards of an epoch in their order, and the position at which each window starts, then the epoch's end."""

    shards: Int64[np.ndarray, "shards"]
    starts: Int64[np.ndarray, "windows+1"]


class Order:
    """The endless stream of a data set: epoch after epoch, each a permutation of all samples.

    The shards of an epoch are permuted and taken in windows of window_shards; the samples of a window are shuffled together,
    so that reading stays within a few files. Only the shards' sample counts are needed, and any position is found at once.
    """

    def __init__(self, counts: Sequence[int], seed: int, window_shards: int, source: int = 0) -> None:
        self.counts = np.asarray(counts, np.int64)
        self.offsets = np.cumsum(self.counts) - self.counts
        self.total = int(self.counts.sum())
        self.seed = seed
        self.window_shards = window_shards
        self.source = source
        self._layouts: dict[int, Layout] = {}
        self._shuffles: dict[tuple[int, int], np.ndarray] = {}
        if self.total < 1:
            raise ValueError(f"{len(self.counts)} shards hold no sample: an order needs at least one")

    def samples(self, start: int, stop: int) -> Positions:
        """Samples start..stop-1 of the stream; the range may straddle epochs."""
        if not 0 <= start < stop:
            raise ValueError(f"samples {start} to {stop}: a range of the stream has 0 <= start < stop")
        pieces = []
        while start < stop:
            epoch, position = divmod(start, self.total)
            starts = self._layout(epoch).starts
            window = int(np.searchsorted(starts, position, side="right")) - 1
            end = min(int(starts[window + 1]), position + stop - start)
            pieces.append(self._within(epoch, window, position, end))
            start += end - position
        return Positions(*map(np.concatenate, zip(*pieces, strict=True)))

    def _within(self, epoch: int, window: int, start: int, stop: int) -> Positions:
        """Positions start..stop-1 of an epoch, all in one window."""
        layout = self._layout(epoch)
        first, end = layout.starts[window], layout.starts[window + 1]
        shards = self._shards(layout, window)
        picks = self._shuffled(epoch, window, int(end - first))[start - first : stop - first]
        ends = np.cumsum(self.counts[shards])
        which = np.searchsorted(ends, picks, side="right")
        shard = shards[which]
        member = picks - (ends[which] - self.counts[shard])
        index = epoch * self.total + np.arange(start, stop)
        return Positions(
            np.full_like(picks, self.source), index, np.full_like(picks, epoch), shard, member, self.offsets[shard] + member
        )

    def _shards(self, layout: Layout, window: int) -> Int64[np.ndarray, "window"]:
        return layout.shards[window * self.window_shards : (window + 1) * self.window_shards]

    def _layout(self, epoch: int) -> Layout:
        if epoch not in self._layouts:
            generator = keyed_generator(self.seed, Stream.ORDER, epoch, 0, source=self.source)
            shards = generator.permutation(len(self.counts))
            windows = np.add.reduceat(self.counts[shards], np.arange(0, len(shards), self.window_shards))
            self._layouts = newest(self._layouts, epoch, Layout(shards, np.concatenate([[0], np.cumsum(windows)])))
        return self._layouts[epoch]

    def _shuffled(self, epoch: int, window: int, samples: int) -> Int64[np.ndarray, "samples"]:
        if (epoch, window) not in self._shuffles:
            generator = keyed_generator(self.seed, Stream.ORDER, epoch, window, view=1, source=self.source)
            self._shuffles = newest(self._shuffles, (epoch, window), generator.permutation(samples))
        return self._shuffles[epoch, window]

    def shards_from(self, index: int) -> list[int]:
        """The shards that are read from a place of the stream on: those of its window, then those of the next."""
        epoch, position = divmod(index, self.total)
        layout = self._layout(epoch)
        window = int(np.searchsorted(layout.starts, position, side="right")) - 1
        last = window + 2 == len(layout.starts)
        following = self._shards(self._layout(epoch + 1), 0) if last else self._shards(layout, window + 1)
        return [*self._shards(layout, window).tolist(), *following.tolist()]


def newest(kept: dict[Key, Value], key: Key, value: Value) -> dict[Key, Value]:
    """The entry that was kept last, and a new one: what a stream that is read forwards asks for again."""
    return {**dict(list(kept.items())[-1:]), key: value}


class Deal(Sampler[list[int]]):
    """The stream numbers of one rank's micro-batches: a batch sampler for torch's DataLoader.

    Global batch s is the numbers [s * batch_size_global, (s + 1) * batch_size_global). It is cut into accumulate_steps parts and
    each part into world_size slices, all contiguous; a rank gets its slice of every part. Iteration begins at sample
    start_samples and ends with the last whole global batch within total_samples.

    Raises:
        ValueError: the global batch cannot be cut evenly, or start_samples is inside one.
    """

    def __init__(
        self, batch_size_global: int, accumulate_steps: int, rank: int, world_size: int, start_samples: int, total_samples: int
    ) -> None:
        parts = accumulate_steps * world_size
        if batch_size_global % parts:
            raise ValueError(
                f"a global batch of {batch_size_global} cannot be dealt to {world_size} ranks in {accumulate_steps} parts"
            )
        if start_samples % batch_size_global:
            raise ValueError(f"start_samples {start_samples} is not a multiple of the global batch of {batch_size_global}")
        self.size = batch_size_global // parts
        """Samples in a micro-batch."""
        end = total_samples // batch_size_global * batch_size_global
        self.starts = range(start_samples + rank * self.size, end, self.size * world_size)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[int]]:
        return (list(range(start, start + self.size)) for start in self.starts)
