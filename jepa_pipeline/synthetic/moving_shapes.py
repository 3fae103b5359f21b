"""Synthetic labeled videos of a shape that moves in one of eight directions, which is its class.

No single frame shows the direction, and all frames in random order show only its axis: shape, colors, background and speed
are independent of it, the shape wraps around at the borders, and its position halfway is uniform. Every frame has its own
unpredictable tint and noise: most of what changes from frame to frame is meaningless.
"""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from jepa_pipeline.synthetic.shapes import SHAPES, sample_colors

DIRECTIONS = ("east", "north-east", "north", "north-west", "west", "south-west", "south", "south-east")
SPEED = 0.7, 1.6
"""In pixels per frame."""

FLICKER, GRAIN = 30.0, 20.0
"""Standard deviations, in gray levels, of the noise per frame and channel and per pixel."""

RADIUS = 0.15, 0.25
"""Size of a shape relative to the side of a frame."""


def generate_moving_shape(direction: int, frames: int, side: int, generator: np.random.Generator) -> UInt8[np.ndarray, "T H W 3"]:
    """Return one video of a shape that moves in a direction, an index of DIRECTIONS."""
    name, radius, angle = generator.choice(list(SHAPES)), generator.uniform(*RADIUS) * side, generator.uniform(0, 2 * np.pi)
    positions = sample_path(direction, frames, side, generator)
    x, y = (
        ((np.arange(side) - at[:, None] + side / 2) % side - side / 2).astype(np.float32) / np.float32(radius) for at in positions.T
    )
    x, y = (np.broadcast_to(plane, (frames, side, side)).reshape(-1, side) for plane in (x[:, None], y[:, :, None]))
    inside = SHAPES[name](np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x)
    alpha = np.clip(0.5 + inside * radius / 2, 0, 1).reshape(frames, side, side, 1)  # an edge is two pixels wide
    tint, figure = sample_colors(generator)
    ground = tint + sample_texture(side, generator)
    flicker = generator.normal(0, FLICKER, (frames, 1, 1, 3)) + generator.normal(0, GRAIN, (frames, side, side, 3))
    return np.clip(ground + (figure - ground) * alpha + flicker, 0, 255).astype(np.uint8)


def sample_path(direction: int, frames: int, side: int, generator: np.random.Generator) -> Float[np.ndarray, "T 2"]:
    """Return the positions of the shape's center, x and y (down) in pixels, wrapped around at the borders."""
    angle, speed = direction * 2 * np.pi / len(DIRECTIONS), generator.uniform(*SPEED)
    steps = (np.arange(frames) - (frames - 1) / 2) * speed
    return (generator.uniform(0, side, 2) + steps[:, None] * [np.cos(angle), -np.sin(angle)]) % side


def sample_texture(side: int, generator: np.random.Generator) -> Float[np.ndarray, "H W 3"]:
    """Return blotches of a random size around 0 for half of the backgrounds, and 0 for the others."""
    cells = int(generator.integers(2, side // 2))
    noise = generator.normal(0, 1, (cells, cells)).astype(np.float32)
    blotches = np.asarray(Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC), np.float64)
    return blotches[..., None] * generator.uniform(0, 20, 3) * generator.integers(2)
