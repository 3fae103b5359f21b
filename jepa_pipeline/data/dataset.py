"""The data sets that a DataLoader reads. Each is given the indices of a whole batch and returns a Batch."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from jepa_pipeline.batch import Batch, Damaged, Masks
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.views import ViewsConfig
from jepa_pipeline.data.clips import ClipViews
from jepa_pipeline.data.decode import decode_image
from jepa_pipeline.data.mixture import Mixture
from jepa_pipeline.data.raster import Raster
from jepa_pipeline.data.reading import reading
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.sample import DecodeError, name_missing
from jepa_pipeline.data.sampler import Positions
from jepa_pipeline.data.shards import Sample, SampleError, Shards
from jepa_pipeline.data.video import Video, open_video
from jepa_pipeline.data.views import DeferredViews, ImageViews, allocate_pixels, center_view

Views = ImageViews | DeferredViews | ClipViews
SampleId = tuple[int, int, int]
"""Source, epoch and index in the data set, by which the random numbers of a sample are keyed."""
AnyEncoderConfig = EncoderConfig | BackboneConfig
Decoded = TypeVar("Decoded")

MAX_REPLACEMENTS = 1000
"""Replacements that are tried for a damaged sample, so that reading a damaged data set ends."""


@runtime_checkable
class MaskSampler(Protocol):
    """Samples the masks of a micro-batch: one generator per sample; batch_number counts optimizer steps from 0."""

    def __call__(self, generators: Sequence[np.random.Generator], batch_number: int) -> Masks: ...


class TrainDataset(Dataset[Batch]):
    """The endless training stream by index, as random views with masks: a pure function of seed, mixture and index.

    Args:
        sources: the shards of each data set of the mixture, all of one form.
        mixture: which sample is at which index.
        views: how views are made.
        encoder: what they are made for: images or clips, and their size.
        masks: one sampler per mask set, each of which masks all views.
        skip_damaged: replace unusable samples by the next usable one instead of raising SampleError.
        batch_size_global: samples of an optimizer step.
        crop_on_device: return whole images and the parameters of their crops instead of views.
    """

    def __init__(
        self,
        sources: Sequence[Shards],
        mixture: Mixture,
        views: ViewsConfig,
        encoder: AnyEncoderConfig,
        masks: Sequence[MaskSampler],
        skip_damaged: bool,
        batch_size_global: int,
        crop_on_device: bool = False,
    ) -> None:
        self.sources = list(sources)
        self.mixture = mixture
        self.views = views
        self.num_views = len(views.kinds)
        self.encoder = encoder
        self.masks = masks
        self.skip_damaged = skip_damaged
        self.batch_size_global = batch_size_global
        self.crop_on_device = crop_on_device

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return the micro-batch of consecutive stream indices.

        Raises:
            SampleError: a sample cannot be read or decoded, and is not to be replaced or has no usable replacement.
        """
        positions = self.mixture.locate(indices[0], indices[-1] + 1)
        self.fetch_ahead(positions)
        ids = list(zip(positions.source.tolist(), positions.epoch.tolist(), positions.sample.tolist(), strict=True))
        stored = zip(positions.index.tolist(), positions.shard.tolist(), positions.member.tolist(), strict=True)
        samples, damaged, views = [], [], self.create_views(len(indices))
        for sample_id, (index, shard, member) in zip(ids, stored, strict=True):
            source, _, number = sample_id
            try:
                samples.append(self.add_views(views, shard, member, sample_id))
            except SampleError as error:
                damaged.append(Damaged(source, number, str(error)))
                samples.append(self.add_replacement(views, index, sample_id, error))
        masks = self.sample_masks(ids, indices[0] // self.batch_size_global)
        pixels, deferred = views.finish()
        return Batch(pixels, masks, stack_labels(samples), [sample.key for sample in samples], damaged, deferred)

    def create_views(self, batch_size: int) -> Views:
        """Return the builder of a batch's views; the one place of training that chooses it by modality."""
        size, encoder, form = self.encoder.image_size, self.encoder, self.sources[0].form
        if encoder.modality.has_time:
            return ClipViews(self.views, size, encoder.frames, batch_size)
        if self.crop_on_device:
            return DeferredViews(self.views, size, batch_size)
        return ImageViews(self.views, size, batch_size, form)

    def add_views(self, views: Views, shard: int, member: int, sample_id: SampleId) -> Sample:
        """Read a sample and add its views, with the random numbers of sample_id."""
        add = partial(views.add, generators=self.view_generators(*sample_id))
        return read_decoded(add, self.sources[sample_id[0]], shard, member)[0]

    def sample_masks(self, ids: Sequence[SampleId], batch_number: int) -> list[Masks]:
        """Return every set's masks: of the first view of all samples, then of the second, as views are concatenated."""
        if not self.masks:
            return []
        seed = self.mixture.seed
        generators = [
            keyed_generator(seed, Stream.MASK, epoch, number, view, source)
            for view in range(self.num_views)
            for source, epoch, number in ids
        ]
        return [sampler(generators, batch_number) for sampler in self.masks]

    def add_replacement(self, views: Views, index: int, sample_id: SampleId, error: SampleError) -> Sample:
        """Read the next usable sample of the same data set. It is cropped and masked with the damaged sample's random numbers,
        so that nothing else in the run changes.
        """
        if not self.skip_damaged:
            raise error
        for following in range(index + 1, index + 1 + MAX_REPLACEMENTS):
            position = self.mixture.samplers[sample_id[0]].locate(following, following + 1)
            try:
                return self.add_views(views, int(position.shard[0]), int(position.member[0]), sample_id)
            except SampleError as again:
                error = again
        raise SampleError(f"{MAX_REPLACEMENTS} samples in a row cannot be used; the last: {error}")

    def fetch_ahead(self, positions: Positions) -> None:
        """Start fetching the shards that are read now and next."""
        # of each source, the last index of the batch decides
        for source, index in dict(zip(positions.source.tolist(), positions.index.tolist(), strict=True)).items():
            self.sources[source].prefetch(self.mixture.samplers[source].upcoming_shards(index))

    def view_generators(self, source: int, epoch: int, sample: int) -> list[np.random.Generator]:
        seed = self.mixture.seed
        return [keyed_generator(seed, Stream.VIEW, epoch, sample, view, source) for view in range(self.num_views)]


class EvalImages(Dataset[Batch]):
    """All samples of a data set by index, as the center crops of evaluation."""

    def __init__(self, shards: Shards, image_size: int) -> None:
        self.shards = shards
        self.image_size = image_size

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return the batch of these samples.

        Raises:
            SampleError: a sample cannot be read or decoded.
        """
        crop = partial(center_view, image_size=self.image_size)
        samples, pixels = [], allocate_pixels(len(indices), self.image_size, self.shards.form)
        for row, position in zip(pixels, self.shards.locate(indices), strict=True):
            sample, row[:] = read_decoded(crop, self.shards, *position)
            samples.append(sample)
        return Batch([torch.from_numpy(pixels)], [], stack_labels(samples), [sample.key for sample in samples], [])


def read_decoded(process: Callable[[Any], Decoded], shards: Shards, shard: int, member: int) -> tuple[Sample, Decoded]:
    """Return a sample, and the result of `process` for its image or opened video.

    Raises:
        SampleError: it cannot be read, decoded or processed.
        UserError: a package is missing that reads it.
    """
    name = shards.describe(shard, member)
    with reading(name), name_missing(name):
        sample = shards.read(shard, member)
        try:
            return sample, process(open_media(shards, sample))
        except DecodeError as error:
            raise shards.sample_error(shard, sample.key, str(error), error.cure) from error


def open_media(shards: Shards, sample: Sample) -> Image.Image | Raster | Video:
    """Return a sample's image, in the form of its data set, or its opened video.

    Raises:
        DecodeError: it cannot be read.
    """
    if not isinstance(sample.media, bytes):
        return sample.media
    if shards.manifest.kind == "videos":
        return open_video(sample.media, shards.max_pixels)
    return decode_image(sample.media, shards.max_pixels, shards.form)


def stack_labels(samples: list[Sample]) -> Int64[Tensor, "B"] | None:
    """Return the labels, or None if any sample has none."""
    labels = [sample.label for sample in samples if sample.label is not None]
    return torch.tensor(labels) if len(labels) == len(samples) else None
