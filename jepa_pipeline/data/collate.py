"""Samples to Batch: the two data sets a DataLoader reads, both handed the numbers of a whole batch at once."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from jepa_pipeline.batch import Batch, Damaged, Masks, Uncut
from jepa_pipeline.config.views import ViewsConfig
from jepa_pipeline.data.decode import DecodeError, decode
from jepa_pipeline.data.mixture import Mixture
from jepa_pipeline.data.order import Positions
from jepa_pipeline.data.random import Stream, keyed_generator
from jepa_pipeline.data.shards import Sample, SampleError, Shards
from jepa_pipeline.data.views import TrainerViews, WorkerViews, centre_view, empty_pixels

STAND_INS = 1000
"""Samples that are tried in a damaged one's place, so that no stretch of damage is searched for ever."""


@runtime_checkable
class MaskSampler(Protocol):
    """Draws the masks of a micro-batch: one generator per sample; batch_number counts the micro-batches of the whole stream."""

    def __call__(self, generators: Sequence[np.random.Generator], batch_number: int) -> Masks: ...


class ImageStream(Dataset[Batch]):
    """The n-th sample of a run for any n, as random views with masks. What comes is a function of seed, mixture and n alone.

    sources: the shards of each data set of the mixture; skip: whether others stand in for samples that cannot be used;
    uncut: whether views are left for the trainer to cut.
    """

    def __init__(
        self,
        sources: Sequence[Shards],
        mixture: Mixture,
        views: ViewsConfig,
        image_size: int,
        masks: MaskSampler | None,
        skip: bool,
        uncut: bool = False,
    ) -> None:
        self.sources = list(sources)
        self.mixture = mixture
        self.views = views
        self.view_count = len(views.kinds)
        self.image_size = image_size
        self.masks = masks
        self.skip = skip
        self.uncut = uncut

    def __getitems__(self, numbers: list[int]) -> Batch:
        """The micro-batch of consecutive stream numbers.

        Raises:
            SampleError: a sample cannot be read or decoded, and none may stand in or is left to.
        """
        positions = self.mixture.samples(numbers[0], numbers[-1] + 1)
        self.fetch_ahead(positions)
        whose = list(zip(positions.source.tolist(), positions.epoch.tolist(), positions.sample.tolist(), strict=True))
        places = zip(positions.index.tolist(), positions.shard.tolist(), positions.member.tolist(), strict=True)
        samples, damaged, views = [], [], self.empty_views(len(numbers))
        for (source, epoch, number), (index, shard, member) in zip(whose, places, strict=True):
            try:
                sample, image = read_image(self.sources[source], shard, member)
            except SampleError as error:
                damaged.append(Damaged(source, number, str(error)))
                sample, image = self.stand_in(source, index, error)
            views.add(image, self.view_generators(source, epoch, number))
            samples.append(sample)
        masks = []
        if self.masks is not None:
            generators = [self.generator(Stream.MASK, *who) for who in whose]
            masks.append(self.masks(generators, numbers[0] // len(numbers)))
        return as_batch(*views.finish(), masks, samples, damaged)

    def empty_views(self, count: int) -> WorkerViews | TrainerViews:
        return (TrainerViews if self.uncut else WorkerViews)(self.views, self.image_size, count)

    def stand_in(self, source: int, index: int, error: SampleError) -> tuple[Sample, Image.Image]:
        """The next whole sample of the same data set. It is cut and masked as the damaged one would have been, so that
        nothing else in the run moves.
        """
        if not self.skip:
            raise error
        for following in range(index + 1, index + 1 + STAND_INS):
            position = self.mixture.orders[source].samples(following, following + 1)
            try:
                return read_image(self.sources[source], int(position.shard[0]), int(position.member[0]))
            except SampleError as again:
                error = again
        raise SampleError(f"{STAND_INS} samples in a row cannot be used, the last for this: {error}")

    def fetch_ahead(self, positions: Positions) -> None:
        """Have the shards on their way that are read now and next."""
        for source, index in dict(zip(positions.source.tolist(), positions.index.tolist(), strict=True)).items():
            self.sources[source].fetch_ahead(self.mixture.orders[source].shards_from(index))

    def generator(self, stream: Stream, source: int, epoch: int, sample: int) -> np.random.Generator:
        return keyed_generator(self.mixture.seed, stream, epoch, sample, source=source)

    def view_generators(self, source: int, epoch: int, sample: int) -> list[np.random.Generator]:
        """One for each view of a sample."""
        seed, stream = self.mixture.seed, Stream.VIEW
        return [keyed_generator(seed, stream, epoch, sample, view, source) for view in range(self.view_count)]


class ImageList(Dataset[Batch]):
    """Every sample of a data set once, by its number, as the centred view of evaluation."""

    def __init__(self, shards: Shards, image_size: int) -> None:
        self.shards = shards
        self.image_size = image_size
        self.ends = np.cumsum(shards.counts)

    def __getitems__(self, numbers: list[int]) -> Batch:
        """The batch of consecutive samples.

        Raises:
            SampleError: a sample cannot be read or decoded.
        """
        which = np.searchsorted(self.ends, numbers, side="right")
        members = np.asarray(numbers) - (self.ends - self.shards.counts)[which]
        samples, pixels = [], empty_pixels(len(numbers), self.image_size)
        for row, shard, member in zip(pixels, which.tolist(), members.tolist(), strict=True):
            sample, image = read_image(self.shards, shard, member)
            row[:] = centre_view(image, self.image_size)
            samples.append(sample)
        return as_batch([torch.from_numpy(pixels)], None, [], samples, [])


def read_image(shards: Shards, shard: int, member: int) -> tuple[Sample, Image.Image]:
    sample = shards.read(shard, member)
    try:
        return sample, decode(sample.image)
    except DecodeError as error:
        raise shards.error(shard, sample.key, str(error)) from error


def as_batch(
    views: list[UInt8[Tensor, "B C _ _"]], uncut: Uncut | None, masks: list[Masks], samples: list[Sample], damaged: list[Damaged]
) -> Batch:
    return Batch(views, masks, as_labels(samples), [sample.key for sample in samples], damaged, uncut)


def as_labels(samples: list[Sample]) -> Int64[Tensor, "B"] | None:
    """The labels, or None where a sample has none."""
    labels = [sample.label for sample in samples if sample.label is not None]
    return torch.tensor(labels) if len(labels) == len(samples) else None
