"""Where a prediction fails: its error drawn over what it is of."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

COLOURS, OPACITY = "inferno", 0.6
PANEL, CAPTION = 160, 14
"""Pixels of a panel of an animation at least, and of the line above it."""

Span = tuple[float, float]
"""The errors of the darkest and of the brightest color."""
Frames = UInt8[np.ndarray, "T H W 3"]


class Shown(NamedTuple):
    """What was seen, and of each level the error at each token, NaN where nothing was asked for. An image is one frame."""

    frames: UInt8[np.ndarray, "T H W 3"]
    errors: list[Float[np.ndarray, "_ _ _"]]


def spans(shown: Sequence[Shown]) -> list[Span]:
    """The range of colors of each level, alike for all pictures: from the 2nd to the 98th percentile of its errors."""
    levels = zip(*(one.errors for one in shown), strict=True)
    found = [np.nanpercentile(np.concatenate([error.ravel() for error in errors]), (2, 98)) for errors in levels]
    return [(float(low), float(high)) for low, high in found]


def overlay(frames: Frames, error: Float[np.ndarray, "_ _ _"], span: Span) -> Frames:
    """The frames under the colors of an error, each token's over all its pixels; as they are where there is none."""
    sides = zip(error.shape, frames.shape, strict=False)
    places = [np.arange(pixels) * cells // pixels for cells, pixels in sides]
    heat = error[np.ix_(*places)]
    share = Normalize(*span, clip=True)(np.nan_to_num(heat))
    colors = 255 * colormaps[COLOURS](share)[..., :3]
    gray = frames.mean(-1, keepdims=True)
    mixed = (1 - OPACITY) * gray + OPACITY * colors
    return np.where(np.isfinite(heat)[..., None], mixed, frames).round().astype(np.uint8)


def panels(shown: Shown, ranges: Sequence[Span]) -> list[Frames]:
    """What was seen, then the errors of each level over it."""
    over = (overlay(shown.frames, error, span) for error, span in zip(shown.errors, ranges, strict=True))
    return [shown.frames, *over]


def draw_sheet(shown: Sequence[Shown], ranges: Sequence[Span], title: str) -> Figure:
    """A row an image: what it is, and the errors of each level over it, with their colors below."""
    columns = 1 + len(ranges)
    figure = Figure(figsize=(2.2 * columns, 2.0 * len(shown) + 1.2), layout="constrained")
    places = figure.subplots(len(shown), columns, squeeze=False)
    for row, one in zip(places, shown, strict=True):
        for axes, picture in zip(row, panels(one, ranges), strict=True):
            axes.imshow(picture[0], interpolation="nearest")
            axes.set_axis_off()
    for number, span in enumerate(ranges, start=1):
        places[0, number].set_title(f"level {number}: {said(span)}", fontsize=9)
        colors = ScalarMappable(Normalize(*span), COLOURS)
        figure.colorbar(colors, ax=list(places[:, number]), location="bottom", label="error", aspect=12)
    places[0, 0].set_title("input", fontsize=9)
    figure.suptitle(title, fontsize=9)
    return figure


def said(span: Span) -> str:
    return f"{span[0]:.3g} to {span[1]:.3g}"


def animate(path: Path, shown: Shown, ranges: Sequence[Span], past: int, fps: float) -> None:
    """Write a clip as a GIF: what it is, and the errors of each level over its future, side by side."""
    captions = [f"level {number}: {said(span)}" for number, span in enumerate(ranges, start=1)]
    height, width = shown.frames.shape[1:3]
    scale = max(1, -(-PANEL // width))
    pictures = []
    for time, row in enumerate(zip(*panels(shown, ranges), strict=True)):
        picture = Image.new("RGB", (len(row) * width * scale, height * scale + CAPTION))
        draw = ImageDraw.Draw(picture)
        now = f"frame {time + 1}, {'past' if time < past else 'future'}"
        for column, (panel, caption) in enumerate(zip(row, [now, *captions], strict=True)):
            large = Image.fromarray(panel).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            picture.paste(large, (column * width * scale, CAPTION))
            draw.text((column * width * scale + 2, 1), caption, fill="white")
        pictures.append(picture)
    pictures[0].save(path, format="GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0)
