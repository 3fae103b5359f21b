"""Synthetic labeled videos with structure at two time scales: a small dot moves fast in one of four directions, and the color of
the scene slowly rotates around the color circle at one of four speeds, independently.

No single frame shows either: the dot's position and the scene's hue are uniform in every frame. Now and then the dot jumps, so
that after a second its position is unpredictable but its direction is not. The hue is so noisy that its change from one frame
to the next is lost; over ten frames it is plain.
"""

import numpy as np
from jaxtyping import Float, Float32, UInt8

DOT_DIRECTIONS = {"east": (1, 0), "north": (0, -1), "west": (-1, 0), "south": (0, 1)}
"""The fast classes: the direction of the dot in x and y (down)."""

HUE_SPEEDS = {"backward twice": -2, "backward": -1, "forward": 1, "forward twice": 2}
"""The slow classes: the speed and direction of the hue, in units of HUE_STEP."""

DOT_SPEED = 2.0, 2.6
"""In pixels per frame."""

JUMP_PROBABILITY = 0.08
"""Per frame: the dot stays on its path for about a second."""

DOT_RADIUS = 4.0, 5.0
"""In pixels."""

HUE_STEP, HUE_NOISE = 4.0, 25.0
"""In degrees: the change of hue per frame at speed 1, and the standard deviation of each frame's noise."""

GRAY, SATURATION, DOT = 128.0, 55.0, -80.0
"""In gray levels: the scene's mean, the distance of its color from gray, and what the dot adds to all channels."""

HUE_AXES = np.array([[2.0, -1.0, -1.0], [0.0, 3**0.5, -(3**0.5)]]) / 6**0.5
"""Red, green and blue of two axes orthogonal to gray and to each other."""

FLICKER, GRAIN = 5.0, 8.0
"""Standard deviations, in gray levels, of the noise per frame and channel and per pixel."""


def generate_two_scales(
    fast: str, slow: str, frames: int, side: int, generator: np.random.Generator
) -> UInt8[np.ndarray, "T H W 3"]:
    """Return one video of a dot with one of DOT_DIRECTIONS on a background with one of HUE_SPEEDS."""
    x, y = wrapped_distances(sample_dot_path(fast, frames, side, generator), side)
    dot = np.clip(0.5 + (generator.uniform(*DOT_RADIUS) - np.sqrt(x**2 + y**2)) / 2, 0, 1)  # an edge is two pixels wide
    angle = sample_hues(slow, frames, generator)
    scene = (
        GRAY + SATURATION * np.stack([np.cos(angle), np.sin(angle)], axis=1) @ HUE_AXES + generator.normal(0, FLICKER, (frames, 3))
    )
    pixels = generator.standard_normal((frames, side, side, 3), np.float32)
    pixels *= GRAIN
    pixels += scene[:, None, None].astype(np.float32)
    pixels += np.float32(DOT) * dot[..., None]
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)


def sample_dot_path(direction: str, frames: int, side: int, generator: np.random.Generator) -> Float[np.ndarray, "T 2"]:
    """Return the positions of the dot's center, x and y (down) in pixels, wrapped around at the borders."""
    segment = np.cumsum(generator.random(frames) < JUMP_PROBABILITY)
    starts = generator.uniform(0, side, (frames + 1, 2))[segment]  # a new one after every jump
    return (starts + generator.uniform(*DOT_SPEED) * np.arange(frames)[:, None] * DOT_DIRECTIONS[direction]) % side


def sample_hues(speed: str, frames: int, generator: np.random.Generator) -> Float[np.ndarray, " T"]:
    """Return the hue of the scene in each frame, in radians."""
    degrees = generator.uniform(0, 360) + HUE_STEP * HUE_SPEEDS[speed] * np.arange(frames)
    return np.radians(degrees + generator.normal(0, HUE_NOISE, frames))


def wrapped_distances(
    positions: Float[np.ndarray, "T 2"], side: int
) -> tuple[Float32[np.ndarray, "T 1 W"], Float32[np.ndarray, "T H 1"]]:
    """Return the distance of every column in x and every row in y from a position in each frame, the shorter way around."""
    x, y = (((np.arange(side) - at[:, None] + side / 2) % side - side / 2).astype(np.float32) for at in positions.T)
    return x[:, None], y[:, :, None]
