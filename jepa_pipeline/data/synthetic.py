"""Labelled images drawn on the spot, for a first run with nothing to download.

Each image is one of ten patterns at a random size, angle, place and pair of colours, under uneven light and noise. The class is a
matter of how parts continue one another, so raw pixels tell little about it.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

Field = Float[np.ndarray, "H W"]
Pattern = Callable[[Field, Field, np.random.Generator], Field]


def wave(phase: Field) -> Field:
    return np.sin(2 * np.pi * phase)


def blobs(u: Field, v: Field, generator: np.random.Generator) -> Field:
    """A sum of a few waves of all directions: spots without order."""
    angles, shifts = generator.uniform(0, 2 * np.pi, 8), generator.uniform(0, 1, 8)
    waves = [wave(np.cos(angle) * u + np.sin(angle) * v + shift) for angle, shift in zip(angles, shifts, strict=True)]
    return np.sum(waves, axis=0) / 2


def radius(u: Field, v: Field) -> Field:
    return np.hypot(u, v)


def turn(u: Field, v: Field) -> Field:
    return np.arctan2(v, u) / (2 * np.pi)


PATTERNS: dict[str, Pattern] = {
    "blobs": blobs,
    "bricks": lambda u, v, _: np.maximum(wave(v) ** 8, wave(u / 2 + np.floor(2 * v) / 4) ** 8) * 2 - 1,
    "checks": lambda u, v, _: wave(u) * wave(v) * 2,
    "dots": lambda u, v, _: wave(u) + wave(v) - 1,
    "plaid": lambda u, v, _: np.maximum(wave(u), wave(v)) * 2 - 1,
    "rays": lambda u, v, generator: wave(generator.integers(4, 9) * turn(u, v)) * 2,
    "rings": lambda u, v, _: wave(radius(u, v)) * 2,
    "spiral": lambda u, v, generator: wave(radius(u, v) + generator.choice([-2, -1, 1, 2]) * turn(u, v)) * 2,
    "stripes": lambda u, v, _: wave(u) * 2,
    "zigzag": lambda u, v, _: wave(u + np.abs(v % 1 - 0.5)) * 2,
}


def draw_pattern(name: str, side: int, generator: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """One image of a pattern, side x side pixels."""
    y, x = np.mgrid[0:side, 0:side] / side - generator.uniform(0.2, 0.8, (2, 1, 1))
    angle, cycles = generator.uniform(0, 2 * np.pi), generator.uniform(2.5, 5.0)
    u, v = cycles * (np.cos(angle) * x + np.sin(angle) * y), cycles * (np.cos(angle) * y - np.sin(angle) * x)
    ink = 1 / (1 + np.exp(-2 * PATTERNS[name](u, v, generator)))[..., None]
    dark, light = generator.uniform(0, 255, (2, 3))
    while np.abs(dark - light).max() < 80:
        dark, light = generator.uniform(0, 255, (2, 3))
    shade = 1 + generator.uniform(-0.4, 0.4) * x[..., None] + generator.uniform(-0.4, 0.4) * y[..., None]
    noise = generator.normal(0, 12, (side, side, 3))
    return np.clip((dark + (light - dark) * ink) * shade + noise, 0, 255).astype(np.uint8)
