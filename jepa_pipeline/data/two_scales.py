"""Labelled videos drawn on the spot with structure at two time scales: a small part darts in one of four directions, and behind it
a large soft light drifts slowly in one of four. The two have nothing to do with each other.

No single frame tells either: where part and light are in it is uniform. All else is alike in all videos, so that nothing lasts but
what moves. Every now and then the part is suddenly somewhere else, so that after a second its place is anybody's guess while its
direction is not. Every frame has its own grain, tint and shimmer, blotches as wide as the part, in which the light's drift from one
frame to the next is lost; over ten frames it is plain.
"""

import numpy as np
from jaxtyping import Float, Float32, UInt8

WAYS = {"east": (1, 0), "north": (0, -1), "west": (-1, 0), "south": (0, 1)}
"""The classes, fast and slow: the way of the part, or of the light, in x and y, y down."""

DART = 1.6, 2.2
"""Speed of the part, in pixels a frame."""

JUMP = 0.08
"""Chance of the part to be somewhere else in the next frame: it stays on its way for about a second."""

RADIUS = 4.0, 5.0
"""Of the part, in pixels."""

DRIFT = 0.4, 0.5
"""Speed of the light, in pixels a frame."""

SPREAD = 8.0
"""Deviation of the light, a Gaussian, in pixels."""

GROUND, PART, LIGHT = (120.0, 115.0, 110.0), (-85.0, -80.0, -75.0), (70.0, 65.0, 50.0)
"""In grey levels, red, green and blue: the ground, and what the part and the light add to it, in every video the same."""

FLICKER, SHIMMER, GRAIN = 5.0, 12.0, 8.0
"""Deviations, in grey levels, of each frame's tint, of its blotches and of each of its pixels."""

BLOTCHES = 6
"""Along a side."""


def draw_two_scales(fast: str, slow: str, frames: int, side: int, generator: np.random.Generator) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames of one video, side x side pixels, of a part and a light that go their WAYS."""
    x, y = distances(part_path(fast, frames, side, generator), side)
    part = np.clip(0.5 + (generator.uniform(*RADIUS) - np.sqrt(x**2 + y**2)) / 2, 0, 1)  # an edge is two pixels wide
    x, y = distances(light_path(slow, frames, side, generator), side)
    light = np.exp(-(x**2) / (2 * SPREAD**2)) * np.exp(-(y**2) / (2 * SPREAD**2))
    amounts = np.stack([np.ones_like(part), part, light], axis=-1).reshape(frames, -1, 3)
    pixels = generator.standard_normal((frames, side * side, 3), np.float32)
    pixels *= GRAIN
    pixels += amounts @ np.array([GROUND, PART, LIGHT], np.float32)
    pixels += generator.normal(0, FLICKER, (frames, 1, 3)).astype(np.float32)
    pixels += draw_shimmer(frames, side, generator)
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8).reshape(frames, side, side, 3)


def part_path(direction: str, frames: int, side: int, generator: np.random.Generator) -> Float[np.ndarray, "T 2"]:
    """Places of the part's middle, x and y in pixels, y down; what is beyond a side comes back on the other."""
    stretch = np.cumsum(generator.random(frames) < JUMP)
    starts = generator.uniform(0, side, (frames + 1, 2))[stretch]  # a new one for every stretch between two jumps
    return (starts + generator.uniform(*DART) * np.arange(frames)[:, None] * WAYS[direction]) % side


def light_path(direction: str, frames: int, side: int, generator: np.random.Generator) -> Float[np.ndarray, "T 2"]:
    """Places of the light's middle, as those of the part."""
    start, speed = generator.uniform(0, side, 2), generator.uniform(*DRIFT)
    return (start + speed * np.arange(frames)[:, None] * WAYS[direction]) % side


def distances(places: Float[np.ndarray, "T 2"], side: int) -> tuple[Float32[np.ndarray, "T 1 W"], Float32[np.ndarray, "T H 1"]]:
    """Of every column in x and of every row in y from a place in each frame, the shorter way round."""
    x, y = (((np.arange(side) - at[:, None] + side / 2) % side - side / 2).astype(np.float32) for at in places.T)
    return x[:, None], y[:, :, None]


def draw_shimmer(frames: int, side: int, generator: np.random.Generator) -> Float32[np.ndarray, "T N 1"]:
    """What the blotches of each frame add to its pixels: random values on a coarse grid, and what lies between them."""
    where = np.linspace(0, BLOTCHES - 1, side, dtype=np.float32)
    share = np.maximum(0, 1 - np.abs(where[:, None] - np.arange(BLOTCHES, dtype=np.float32)))  # of each value in each pixel
    values = SHIMMER * generator.standard_normal((frames, BLOTCHES, BLOTCHES), np.float32)
    return (share @ values @ share.T).reshape(frames, -1, 1)
