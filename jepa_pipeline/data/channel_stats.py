"""Statistics of the pixels of many images: mean and standard deviation, where each counts the same, and the range of deep ones."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from PIL import Image, ImageStat

from jepa_pipeline.config.pixel_format import PerChannel, PixelFormat
from jepa_pipeline.config.section import Section
from jepa_pipeline.data.decode import Inspected
from jepa_pipeline.data.manifest import StoredPixels
from jepa_pipeline.data.raster import Raster

DIGITS = 12
"""Decimals of statistics of channels as they are stored, of which 16 bits may fill the lowest alone."""
DIM = 64
"""Level of 8-bit images, a quarter of their range, that 16-bit images should reach."""


@dataclass
class DeepRange:
    """The number of images with 16 bits per channel, and their brightest level once they have 8."""

    images: int = 0
    brightest: int = 0

    def add(self, brightest: int | None, images: int = 1) -> None:
        """Count images; None is the level of those with 8 bits."""
        if brightest is not None and images:
            self.images += images
            self.brightest = max(self.brightest, brightest)

    def describe(self) -> str | None:
        """Return what is odd about the range; None if nothing is."""
        if not self.images or self.brightest >= DIM:
            return None
        return (
            f"{self.images} images have 16 bits per channel, but as 8-bit images none is brighter than {self.brightest} of 255: if "
            "they hold fewer bits, such as 12, scale them up to 16, give the number in the PNG chunk sBIT, or train with "
            "data.bits=16 (gray alone: data.channels=1), which keeps every level"
        )


class ChannelStats(NamedTuple):
    """Mean of an image's channels and of their squares, on pixels scaled to 0..1. They add up over images."""

    mean: PerChannel
    square: PerChannel


def compute_channel_stats(image: Image.Image) -> ChannelStats:
    """Return the statistics of an RGB image, exact over its pixels."""
    stat = ImageStat.Stat(image)
    pixels = image.width * image.height
    red, green, blue = (value / pixels / 255 for value in stat.sum)
    reds, greens, blues = (value / pixels / 255**2 for value in stat.sum2)
    return ChannelStats((red, green, blue), (reds, greens, blues))


def stats_of(image: Inspected) -> tuple[ChannelStats | None, ChannelStats]:
    """Return the statistics of an image as RGB, None where it cannot be, and those of its channels as they are stored."""
    rgb = None if image.rgb is None else compute_channel_stats(image.rgb)
    if image.raster is not None:
        return rgb, compute_raster_stats(image.raster)
    assert rgb is not None
    return rgb, rgb


def compute_raster_stats(raster: Raster) -> ChannelStats:
    """Return the statistics of an image of any channels, from sums of whole numbers, which are exact."""
    largest, count = raster.form.largest, raster.width * raster.height
    totals = [(int(c.sum(dtype=np.uint64)), int(np.square(c, dtype=np.uint32).sum(dtype=np.uint64))) for c in raster.pixels]
    mean = tuple(total / (count * largest) for total, _ in totals)
    return ChannelStats(mean, tuple(square / (count * largest**2) for _, square in totals))


def mean_and_std(total: Float64[np.ndarray, "2 C"], images: int, digits: int = 6) -> tuple[PerChannel, PerChannel]:
    """Return mean and standard deviation of the given number of images, from the sum of their statistics."""
    mean, square = total / images
    std = np.sqrt(np.maximum(square - mean**2, 0))  # rounding can leave less than nothing of an even color
    return round_values(mean, digits), round_values(std, digits)


def round_values(values: Float64[np.ndarray, "C"], digits: int) -> PerChannel:
    return tuple(round(value, digits) for value in values.tolist())


class StoredSums(Section):
    """The sums of statistics over images of one number of channels, as they are stored.

    Attributes:
        images: their number.
        deep: those of them with 16 bits per channel.
        total: the sum of their ChannelStats.
    """

    images: int
    deep: int
    total: tuple[tuple[float, ...], ...]


class StoredTotals(dict[int, StoredSums]):
    """StoredSums by number of channels."""

    def add(self, stored: PixelFormat, stats: ChannelStats) -> None:
        """Count an image with the statistics of its channels as they are stored."""
        self.merge({stored.channels: StoredSums(images=1, deep=int(stored.bits > 8), total=stats)})

    def merge(self, others: Mapping[int, StoredSums]) -> None:
        """Add the sums over other images."""
        for channels, new in others.items():
            if (old := self.get(channels)) is None:
                self[channels] = new
                continue
            total = tuple(map(tuple, (np.array(old.total) + np.array(new.total)).tolist()))
            self[channels] = StoredSums(images=old.images + new.images, deep=old.deep + new.deep, total=total)

    def summarize(self) -> tuple[StoredPixels, ...]:
        """Return the statistics for each number of channels."""
        parts: list[StoredPixels] = []
        for channels, sums in sorted(self.items()):
            mean, std = mean_and_std(np.array(sums.total), sums.images, DIGITS)
            parts.append(StoredPixels(channels=channels, images=sums.images, deep=sums.deep, mean=mean, std=std))
        return tuple(parts)


def warn_of_mixture(parts: Iterable[StoredPixels]) -> str | None:
    """Return a warning if images differ in channels or bits; None if all are alike."""
    parts = [*parts]
    if len(parts) < 2 and not any(0 < part.deep < part.images for part in parts):
        return None
    return (
        f"images differ in channels or bits: {', '.join(part.describe() for part in parts)}; a run takes one number of channels "
        "(data.channels), and 3 also from gray, palettes and transparent PNG or WebP images"
    )
