"""Samples to Batch: the two data sets a DataLoader reads, both handed the numbers of a whole batch at once."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from jepa_pipeline.batch import Batch, Damaged, Masks, Uncut
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.views import ViewsConfig
from jepa_pipeline.data.clips import ClipViews, TooShort
from jepa_pipeline.data.decode import DecodeError, decode
from jepa_pipeline.data.mixture import Mixture
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.sampler import Positions
from jepa_pipeline.data.shards import Sample, SampleError, Shards
from jepa_pipeline.data.video import Video, open_video
from jepa_pipeline.data.views import TrainerViews, WorkerViews, center_view, empty_pixels

Pixels = UInt8[Tensor, "B C ... _ _"]
Views = WorkerViews | TrainerViews | ClipViews
Who = tuple[int, int, int]
"""Number of a data set, its epoch, and a sample's number in it: whose random numbers are drawn."""
AnyEncoderConfig = EncoderConfig | BackboneConfig
Made = TypeVar("Made")

STAND_INS = 1000
"""Samples that are tried in a damaged one's place, so that no stretch of damage is searched for ever."""


@runtime_checkable
class MaskSampler(Protocol):
    """Draws the masks of a micro-batch: one generator per sample; batch_number counts the micro-batches of the whole stream."""

    def __call__(self, generators: Sequence[np.random.Generator], batch_number: int) -> Masks: ...


class SampleStream(Dataset[Batch]):
    """The n-th sample of a run for any n, as random views with masks. What comes is a function of seed, mixture and n alone.

    sources: the shards of each data set of the mixture; encoder: whose images or clips the views are; masks: one sampler for every
    set of masks, of which each draws for all views; skip: whether others stand in for samples that cannot be used; uncut: whether
    views are left for the trainer to cut.
    """

    def __init__(
        self,
        sources: Sequence[Shards],
        mixture: Mixture,
        views: ViewsConfig,
        encoder: AnyEncoderConfig,
        masks: Sequence[MaskSampler],
        skip: bool,
        uncut: bool = False,
    ) -> None:
        self.sources = list(sources)
        self.mixture = mixture
        self.views = views
        self.view_count = len(views.kinds)
        self.encoder = encoder
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
            who = (source, epoch, number)
            try:
                samples.append(self.add_views(views, source, shard, member, who))
            except SampleError as error:
                damaged.append(Damaged(source, number, str(error)))
                samples.append(self.stand_in(views, source, index, who, error))
        return as_batch(*views.finish(), self.draw_masks(whose, numbers[0] // len(numbers)), samples, damaged)

    def empty_views(self, count: int) -> Views:
        if isinstance(self.encoder, EncoderConfig) and self.encoder.clips:
            return ClipViews(self.views, self.encoder.image_size, self.encoder.frames, count)
        return (TrainerViews if self.uncut else WorkerViews)(self.views, self.encoder.image_size, count)

    def add_views(self, views: Views, source: int, shard: int, member: int, who: Who) -> Sample:
        """Read a sample and add its views, drawn as those of `who`."""
        add = partial(views.add, generators=self.view_generators(*who))
        return read_as(add, self.sources[source], shard, member)[0]

    def draw_masks(self, whose: Sequence[Who], batch_number: int) -> list[Masks]:
        """Of every set, those of the first view of all samples, then those of the second, as views are concatenated."""
        if not self.masks:
            return []
        generators = [self.generator(Stream.MASK, *who, view=view) for view in range(self.view_count) for who in whose]
        return [sampler(generators, batch_number) for sampler in self.masks]

    def stand_in(self, views: Views, source: int, index: int, who: Who, error: SampleError) -> Sample:
        """The next whole sample of the same data set. It is cut and masked as the damaged one would have been, so that
        nothing else in the run moves.
        """
        if not self.skip:
            raise error
        for following in range(index + 1, index + 1 + STAND_INS):
            position = self.mixture.orders[source].samples(following, following + 1)
            try:
                return self.add_views(views, source, int(position.shard[0]), int(position.member[0]), who)
            except SampleError as again:
                error = again
        raise SampleError(f"{STAND_INS} samples in a row cannot be used, the last for this: {error}")

    def fetch_ahead(self, positions: Positions) -> None:
        """Have the shards on their way that are read now and next."""
        for source, index in dict(zip(positions.source.tolist(), positions.index.tolist(), strict=True)).items():
            self.sources[source].fetch_ahead(self.mixture.orders[source].shards_from(index))

    def generator(self, stream: Stream, source: int, epoch: int, sample: int, view: int = 0) -> np.random.Generator:
        return keyed_generator(self.mixture.seed, stream, epoch, sample, view, source)

    def view_generators(self, source: int, epoch: int, sample: int) -> list[np.random.Generator]:
        """One for each view of a sample."""
        seed, stream = self.mixture.seed, Stream.VIEW
        return [keyed_generator(seed, stream, epoch, sample, view, source) for view in range(self.view_count)]


class ImageList(Dataset[Batch]):
    """Every sample of a data set once, by its number, as the centered view of evaluation."""

    def __init__(self, shards: Shards, image_size: int) -> None:
        self.shards = shards
        self.image_size = image_size

    def __getitems__(self, numbers: list[int]) -> Batch:
        """The batch of these samples.

        Raises:
            SampleError: a sample cannot be read or decoded.
        """
        centered = partial(center_view, image_size=self.image_size)
        samples, pixels = [], empty_pixels(len(numbers), self.image_size)
        for row, place in zip(pixels, self.shards.locate(numbers), strict=True):
            sample, row[:] = read_as(centered, self.shards, *place)
            samples.append(sample)
        return as_batch([torch.from_numpy(pixels)], None, [], samples, [])


def read_as(make: Callable[[Any], Made], shards: Shards, shard: int, member: int) -> tuple[Sample, Made]:
    """A sample, and what `make` makes of its image or of its video, opened: the loaders refuse the one where the other is meant.

    Raises:
        SampleError: it cannot be read, decoded or used so.
    """
    sample = shards.read(shard, member)
    try:
        return sample, make(picture(shards, sample))
    except DecodeError as error:
        cure = error.cure if isinstance(error, TooShort) else None
        raise shards.error(shard, sample.key, str(error), cure) from error


def picture(shards: Shards, sample: Sample) -> Image.Image | Video:
    """A sample's image, or its video opened.

    Raises:
        DecodeError: it is none that can be read.
    """
    return open_video(sample.media) if shards.manifest.kind == "videos" else decode(sample.media)


def as_batch(
    views: list[Pixels],
    uncut: Uncut | None,
    masks: list[Masks],
    samples: list[Sample],
    damaged: list[Damaged],
) -> Batch:
    return Batch(views, masks, as_labels(samples), [sample.key for sample in samples], damaged, uncut)


def as_labels(samples: list[Sample]) -> Int64[Tensor, "B"] | None:
    """The labels, or None where a sample has none."""
    labels = [sample.label for sample in samples if sample.label is not None]
    return torch.tensor(labels) if len(labels) == len(samples) else None
