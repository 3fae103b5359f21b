"""Mean and standard deviation of the pixels of many images, each of which counts the same."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from PIL import Image, ImageStat

from jepa_pipeline.config.section import RGB


class ChannelStats(NamedTuple):
    """Mean of an image's channels and of their squares, on pixels scaled to 0..1. They add up over images."""

    mean: RGB
    square: RGB


def compute_channel_stats(image: Image.Image) -> ChannelStats:
    """Return the statistics of an RGB image, exact over its pixels."""
    stat = ImageStat.Stat(image)
    pixels = image.width * image.height
    red, green, blue = (value / pixels / 255 for value in stat.sum)
    reds, greens, blues = (value / pixels / 255**2 for value in stat.sum2)
    return ChannelStats((red, green, blue), (reds, greens, blues))


def mean_and_std(total: Float64[np.ndarray, "2 3"], images: int) -> tuple[RGB, RGB]:
    """Return mean and standard deviation of the given number of images, from the sum of their statistics."""
    mean, square = total / images
    std = np.sqrt(np.maximum(square - mean**2, 0))  # rounding can leave less than nothing of an even color
    return round_rgb(mean), round_rgb(std)


def round_rgb(values: Float64[np.ndarray, "3"]) -> RGB:
    red, green, blue = (round(value, 6) for value in values.tolist())
    return red, green, blue
