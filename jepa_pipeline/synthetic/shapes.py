"""Synthetic labeled images of ten shapes.

Each image shows a shape at a random size, angle and position, in random colors, dark on light or light on dark. The class
is in the arrangement of an outline's parts; single pixels say next to nothing about it.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

Plane = Float[np.ndarray, "*B H W"]
Shape = Callable[[Plane, Plane], Plane]


def box(x: Plane, y: Plane, half_width: float, half_height: float) -> Plane:
    return np.minimum(half_width - np.abs(x), half_height - np.abs(y))


def disc(x: Plane, y: Plane, radius: float) -> Plane:
    return radius - np.hypot(x, y)


def triangle(x: Plane, y: Plane) -> Plane:
    sides = [0.5 - (np.cos(angle) * x + np.sin(angle) * y) for angle in np.arange(3) * 2 * np.pi / 3]
    return np.min(sides, axis=0)


SHAPES: dict[str, Shape] = {
    "bar": lambda x, y: box(x, y, 0.95, 0.3),
    "crescent": lambda x, y: np.minimum(disc(x, y, 0.95), -disc(x - 0.5, y, 0.75)),
    "cross": lambda x, y: np.maximum(box(x, y, 0.28, 0.95), box(x, y, 0.95, 0.28)),
    "disc": lambda x, y: disc(x, y, 0.9),
    "pair": lambda x, y: np.maximum(disc(x - 0.55, y, 0.4), disc(x + 0.55, y, 0.4)),
    "ring": lambda x, y: np.minimum(disc(x, y, 0.94), -disc(x, y, 0.5)),
    "square": lambda x, y: box(x, y, 0.75, 0.75),
    "star": lambda x, y: 0.62 - np.hypot(x, y) * (1 - 0.42 * np.cos(5 * np.arctan2(y, x))),
    "tee": lambda x, y: np.maximum(box(x, y - 0.65, 0.9, 0.25), box(x, y + 0.1, 0.25, 0.85)),
    "triangle": triangle,
}
"""Shapes within the unit circle, each as a function that is positive inside."""

CLASSES = list(SHAPES)


def generate_shapes(images: int, side: int, seed: int) -> Iterator[tuple[Image.Image, int]]:
    """Yield images of side x side pixels with their class, an index of CLASSES; the classes alternate."""
    generator = np.random.default_rng(seed)
    for index in range(images):
        label = index % len(CLASSES)
        yield Image.fromarray(generate_shape(CLASSES[label], side, generator)), label


def generate_shape(name: str, side: int, generator: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """Return one image of a shape, side x side pixels."""
    y, x = np.mgrid[0:side, 0:side] / side * 2 - 1
    scale, angle, shift = generator.uniform(0.55, 0.85), generator.uniform(0, 2 * np.pi), generator.uniform(-0.2, 0.2, 2)
    x, y = (x - shift[0]) / scale, (y - shift[1]) / scale
    inside = SHAPES[name](np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x)
    alpha = np.clip(0.5 + inside * scale * side / 4, 0, 1)[..., None]  # an edge is two pixels wide
    ground, figure = sample_colors(generator)
    light = generator.uniform(-25, 25) * x[..., None] + generator.uniform(-25, 25) * y[..., None]
    noise = generator.normal(0, 6, (side, side, 3))
    return np.clip(ground + (figure - ground) * alpha + light + noise, 0, 255).astype(np.uint8)


def sample_colors(generator: np.random.Generator) -> Float[np.ndarray, "2 3"]:
    """Return the colors of background and shape, 70 to 130 gray levels apart, either one the lighter."""
    ground, contrast = generator.uniform(40, 215), generator.choice([-1, 1]) * generator.uniform(70, 130)
    figure = ground + contrast if 0 <= ground + contrast <= 255 else ground - contrast
    return np.array([[ground], [figure]]) + generator.uniform(-25, 25, (2, 3))
