"""Labeled videos drawn on the spot: a shape that moves in one of eight directions, which is its class.

No single frame tells the direction, nor do all of them in a random order tell more than its axis: shape, colors, ground and
speed have nothing to do with it, the shape leaves on one side and comes back on the other, and where it is halfway is uniform.
Every frame has its own tint and grain, which nothing predicts: most of what changes from frame to frame means nothing.
"""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from jepa_pipeline.synthetic.shapes import SHAPES, draw_tints

DIRECTIONS = ("east", "north-east", "north", "north-west", "west", "south-west", "south", "south-east")
SPEED = 0.7, 1.6
"""In pixels a frame."""

FLICKER, GRAIN = 30.0, 20.0
"""Deviations, in gray levels, of each frame's tint and of each of its pixels."""

RADIUS = 0.15, 0.25
"""Of a shape, over the side of a frame."""


def draw_moving(direction: int, frames: int, side: int, generator: np.random.Generator) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames of one video, side x side pixels, of a shape that moves in a direction, an index of DIRECTIONS."""
    name, radius, angle = generator.choice(list(SHAPES)), generator.uniform(*RADIUS) * side, generator.uniform(0, 2 * np.pi)
    places = path(direction, frames, side, generator)
    x, y = (
        ((np.arange(side) - at[:, None] + side / 2) % side - side / 2).astype(np.float32) / np.float32(radius) for at in places.T
    )
    x, y = (np.broadcast_to(plane, (frames, side, side)).reshape(-1, side) for plane in (x[:, None], y[:, :, None]))
    inside = SHAPES[name](np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x)
    ink = np.clip(0.5 + inside * radius / 2, 0, 1).reshape(frames, side, side, 1)  # an edge is two pixels wide
    tint, figure = draw_tints(generator)
    ground = tint + draw_texture(side, generator)
    flicker = generator.normal(0, FLICKER, (frames, 1, 1, 3)) + generator.normal(0, GRAIN, (frames, side, side, 3))
    return np.clip(ground + (figure - ground) * ink + flicker, 0, 255).astype(np.uint8)


def path(direction: int, frames: int, side: int, generator: np.random.Generator) -> Float[np.ndarray, "T 2"]:
    """Places of the shape's middle, x and y in pixels, y down; what is beyond a side comes back on the other."""
    angle, speed = direction * 2 * np.pi / len(DIRECTIONS), generator.uniform(*SPEED)
    steps = (np.arange(frames) - (frames - 1) / 2) * speed
    return (generator.uniform(0, side, 2) + steps[:, None] * [np.cos(angle), -np.sin(angle)]) % side


def draw_texture(side: int, generator: np.random.Generator) -> Float[np.ndarray, "H W 3"]:
    """Blotches of a random size around 0; of every other ground none."""
    cells = int(generator.integers(2, side // 2))
    noise = generator.normal(0, 1, (cells, cells)).astype(np.float32)
    blotches = np.asarray(Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC), np.float64)
    return blotches[..., None] * generator.uniform(0, 20, 3) * generator.integers(2)
