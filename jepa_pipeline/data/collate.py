"""Samples to Batch: the two data sets a DataLoader reads, both handed the numbers of a whole batch at once."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from jepa_pipeline.batch import Batch, Masks
from jepa_pipeline.config.data import ViewsConfig
from jepa_pipeline.data.decode import DecodeError, decode
from jepa_pipeline.data.order import Order
from jepa_pipeline.data.random import Stream, keyed_generator
from jepa_pipeline.data.shards import Sample, Shards
from jepa_pipeline.data.views import centre_view, random_view


@runtime_checkable
class MaskSampler(Protocol):
    """Draws the masks of a micro-batch: one generator per sample; batch_number counts the micro-batches of the whole stream."""

    def __call__(self, generators: Sequence[np.random.Generator], batch_number: int) -> Masks: ...


class ImageStream(Dataset[Batch]):
    """The n-th sample of a run for any n, as a random view with masks. What comes is a function of seed, order and n alone."""

    def __init__(self, shards: Shards, order: Order, views: ViewsConfig, image_size: int, masks: MaskSampler | None) -> None:
        self.shards = shards
        self.order = order
        self.views = views
        self.image_size = image_size
        self.masks = masks

    def __getitems__(self, numbers: list[int]) -> Batch:
        """The micro-batch of consecutive stream numbers.

        Raises:
            SampleError: a sample cannot be read or decoded.
        """
        positions = self.order.samples(numbers[0], numbers[-1] + 1)
        places = zip(positions.shard.tolist(), positions.member.tolist(), strict=True)
        whose = list(zip(positions.epoch.tolist(), positions.sample.tolist(), strict=True))
        samples, pixels = [], empty_pixels(len(numbers), self.image_size)
        for row, (shard, member), (epoch, number) in zip(pixels, places, whose, strict=True):
            sample, image = read_image(self.shards, shard, member)
            row[:] = random_view(image, self.views, self.image_size, self.generator(Stream.VIEW, epoch, number))
            samples.append(sample)
        masks = []
        if self.masks is not None:
            generators = [self.generator(Stream.MASK, epoch, number) for epoch, number in whose]
            masks.append(self.masks(generators, numbers[0] // len(numbers)))
        return as_batch(pixels, masks, samples)

    def generator(self, stream: Stream, epoch: int, sample: int) -> np.random.Generator:
        return keyed_generator(self.order.seed, stream, epoch, sample)


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
        return as_batch(pixels, [], samples)


def read_image(shards: Shards, shard: int, member: int) -> tuple[Sample, Image.Image]:
    sample = shards.read(shard, member)
    try:
        return sample, decode(sample.image)
    except DecodeError as error:
        raise shards.error(shard, sample.key, str(error)) from error


def empty_pixels(count: int, image_size: int) -> UInt8[np.ndarray, "B C H W"]:
    return np.empty((count, 3, image_size, image_size), np.uint8)


def as_batch(pixels: UInt8[np.ndarray, "B C H W"], masks: list[Masks], samples: list[Sample]) -> Batch:
    return Batch([torch.from_numpy(pixels)], masks, as_labels(samples), [sample.key for sample in samples])


def as_labels(samples: list[Sample]) -> Int64[Tensor, "B"] | None:
    """The labels, or None where a sample has none."""
    labels = [sample.label for sample in samples if sample.label is not None]
    return torch.tensor(labels) if len(labels) == len(samples) else None
