"""Statistics of the pixels of many images: mean and standard deviation, where each counts the same, and the range of deep ones."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from PIL import Image, ImageStat

from jepa_pipeline.config.pixel_format import PerChannel

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
            "they hold fewer bits, such as 12, scale them up to 16, or give the number in the PNG chunk sBIT"
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


def mean_and_std(total: Float64[np.ndarray, "2 3"], images: int) -> tuple[PerChannel, PerChannel]:
    """Return mean and standard deviation of the given number of images, from the sum of their statistics."""
    mean, square = total / images
    std = np.sqrt(np.maximum(square - mean**2, 0))  # rounding can leave less than nothing of an even color
    return round_rgb(mean), round_rgb(std)


def round_rgb(values: Float64[np.ndarray, "3"]) -> RGB:
    red, green, blue = (round(value, 6) for value in values.tolist())
    return red, green, blue
