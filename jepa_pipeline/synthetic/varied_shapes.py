"""Synthetic labeled images of the ten shapes under nuisance that raw pixels cannot match.

A shape has any size, angle and position, bright on dark or dark on bright, in any tint, under uneven light, and every pixel is
noisy. All of this is independent of the class, so that two images of a class hardly share a pixel value. A network can ignore
it: crops and color changes do not alter a shape, and noise averages out.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Int, UInt8
from PIL import Image

from jepa_pipeline.synthetic.shapes import CLASSES, SHAPES

SIZE, SHIFT = (0.4, 0.7), 0.45
"""Radius of a shape, and the largest distance of its center from the image's in x and y, relative to half the image's side."""

BRIGHTNESS, CONTRAST, TINT = (40, 215), (70, 130), 60
"""In gray levels: the background's mean, its distance from the shape's, and the largest change of a channel of either."""

LIGHT, GRAIN = 25, 25
"""In gray levels: the largest slope of the light from the center to a side, and the standard deviation of each pixel's noise."""

BATCH = 500
"""Images that are computed at once."""


def generate_varied_shapes(images: int, side: int, seed: int) -> Iterator[tuple[Image.Image, int]]:
    """Yield images of side x side pixels with their class, an index of CLASSES; the classes alternate."""
    generator = np.random.default_rng(seed)
    for first in range(0, images, BATCH):
        labels = np.arange(first, min(first + BATCH, images)) % len(CLASSES)
        for pixels, label in zip(render(labels, side, generator), labels.tolist(), strict=True):
            yield Image.fromarray(pixels), label


def render(labels: Int[np.ndarray, " B"], side: int, generator: np.random.Generator) -> UInt8[np.ndarray, "B H W 3"]:
    """Return an image of each class in `labels`."""
    count = len(labels)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side * 2 - 1
    radius, angle = per_image(generator.uniform(*SIZE, count)), per_image(generator.uniform(0, 2 * np.pi, count))
    shift_x, shift_y = map(per_image, generator.uniform(-SHIFT, SHIFT, (2, count)))
    shape_x, shape_y = (x - shift_x) / radius, (y - shift_y) / radius
    across, down = np.cos(angle) * shape_x + np.sin(angle) * shape_y, np.cos(angle) * shape_y - np.sin(angle) * shape_x
    inside = np.empty((count, side, side), np.float32)
    for label, shape in enumerate(SHAPES.values()):
        rows = labels == label
        inside[rows] = shape(across[rows], down[rows])
    alpha = np.clip(0.5 + inside * radius * side / 4, 0, 1)[..., None]  # an edge is two pixels wide
    ground, figure = sample_tinted_colors(count, generator)
    slope_x, slope_y = map(per_image, generator.uniform(-LIGHT, LIGHT, (2, count)))
    pixels = ground + (figure - ground) * alpha + (slope_x * x + slope_y * y)[..., None]
    pixels += GRAIN * generator.standard_normal(pixels.shape, np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def sample_tinted_colors(
    count: int, generator: np.random.Generator
) -> tuple[Float32[np.ndarray, "B 1 1 3"], Float32[np.ndarray, "B 1 1 3"]]:
    """Return the colors of backgrounds and shapes, either one the brighter."""
    ground = generator.uniform(*BRIGHTNESS, count)
    contrast = generator.choice([-1, 1], count) * generator.uniform(*CONTRAST, count)
    figure = np.where((ground + contrast >= 0) & (ground + contrast <= 255), ground + contrast, ground - contrast)
    tints = generator.uniform(-TINT, TINT, (2, count, 1, 1, 3))
    ground, figure = np.stack([ground, figure])[..., None, None, None] + tints
    return ground.astype(np.float32), figure.astype(np.float32)


def per_image(values: np.ndarray) -> Float32[np.ndarray, "B 1 1"]:
    return values.astype(np.float32)[:, None, None]
