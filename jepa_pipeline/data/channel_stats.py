"""Mean and deviation of the pixels of many images, of which each counts the same."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from PIL import Image, ImageStat

from jepa_pipeline.config.views import RGB


class Moments(NamedTuple):
    """Mean of an image's channels and of their squares, on pixels scaled to 0..1."""

    mean: RGB
    square: RGB


def moments(image: Image.Image) -> Moments:
    """The moments of an RGB image, exact over its pixels."""
    stat = ImageStat.Stat(image)
    pixels = image.width * image.height
    red, green, blue = (value / pixels / 255 for value in stat.sum)
    reds, greens, blues = (value / pixels / 255**2 for value in stat.sum2)
    return Moments((red, green, blue), (reds, greens, blues))


def mean_and_std(moments: Float64[np.ndarray, "2 3"], images: int) -> tuple[RGB, RGB]:
    """Of the pixels of that many images, by the sum of their moments."""
    mean, square = moments / images
    return as_rgb(mean), as_rgb(np.sqrt(np.maximum(square - mean**2, 0)))


def as_rgb(values: Iterable[float]) -> RGB:
    red, green, blue = (round(float(value), 6) for value in values)
    return red, green, blue
