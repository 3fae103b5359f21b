"""Labeled videos drawn on the spot with structure at two time scales: a small part darts in one of four directions, and the color
of the scene slowly goes round the color circle at one of four rates. The two have nothing to do with each other.

No single frame tells either: where the part is and what color the scene has are uniform in every frame. Every now and then the
part is suddenly somewhere else, so that after a second its place is anybody's guess while its direction is not. The color trembles
so much that its way from one frame to the next is lost; over ten frames it is plain.
"""

import numpy as np
from jaxtyping import Float, Float32, UInt8

WAYS = {"east": (1, 0), "north": (0, -1), "west": (-1, 0), "south": (0, 1)}
"""The fast classes: the way of the part in x and y, y down."""

TURNS = {"backward twice": -2, "backward": -1, "forward": 1, "forward twice": 2}
"""The slow classes: how fast the color goes round, and which way."""

DART = 2.0, 2.6
"""Speed of the part, in pixels a frame."""

JUMP = 0.08
"""Chance of the part to be somewhere else in the next frame: it stays on its way for about a second."""

RADIUS = 4.0, 5.0
"""Of the part, in pixels."""

TURN, TREMBLE = 4.0, 25.0
"""In degrees of the color circle: of one turn a frame, and the deviation of each frame's color from its way."""

GREY, COLOUR, PART = 128.0, 55.0, -80.0
"""In gray levels: the scene's mean, how far its color lies from gray, and what the part adds to all channels."""

CIRCLE = np.array([[2.0, -1.0, -1.0], [0.0, 3**0.5, -(3**0.5)]]) / 6**0.5
"""Red, green and blue of two axes at right angles to gray and to each other."""

FLICKER, GRAIN = 5.0, 8.0
"""Deviations, in gray levels, of each frame's tint and of each of its pixels."""


def draw_two_scales(fast: str, slow: str, frames: int, side: int, generator: np.random.Generator) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames of one video, side x side pixels, of a part that goes one of WAYS before a color that makes one of TURNS."""
    x, y = distances(part_path(fast, frames, side, generator), side)
    part = np.clip(0.5 + (generator.uniform(*RADIUS) - np.sqrt(x**2 + y**2)) / 2, 0, 1)  # an edge is two pixels wide
    angle = color_path(slow, frames, generator)
    scene = GREY + COLOUR * np.stack([np.cos(angle), np.sin(angle)], axis=1) @ CIRCLE + generator.normal(0, FLICKER, (frames, 3))
    pixels = generator.standard_normal((frames, side, side, 3), np.float32)
    pixels *= GRAIN
    pixels += scene[:, None, None].astype(np.float32)
    pixels += np.float32(PART) * part[..., None]
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)


def part_path(direction: str, frames: int, side: int, generator: np.random.Generator) -> Float[np.ndarray, "T 2"]:
    """Places of the part's middle, x and y in pixels, y down; what is beyond a side comes back on the other."""
    stretch = np.cumsum(generator.random(frames) < JUMP)
    starts = generator.uniform(0, side, (frames + 1, 2))[stretch]  # a new one for every stretch between two jumps
    return (starts + generator.uniform(*DART) * np.arange(frames)[:, None] * WAYS[direction]) % side


def color_path(turn: str, frames: int, generator: np.random.Generator) -> Float[np.ndarray, "T"]:
    """Where on the color circle the scene is, in radians."""
    way = generator.uniform(0, 360) + TURN * TURNS[turn] * np.arange(frames)
    return np.radians(way + generator.normal(0, TREMBLE, frames))


def distances(places: Float[np.ndarray, "T 2"], side: int) -> tuple[Float32[np.ndarray, "T 1 W"], Float32[np.ndarray, "T H 1"]]:
    """Of every column in x and of every row in y from a place in each frame, the shorter way round."""
    x, y = (((np.arange(side) - at[:, None] + side / 2) % side - side / 2).astype(np.float32) for at in places.T)
    return x[:, None], y[:, :, None]
