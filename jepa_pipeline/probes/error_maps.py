"""Error maps: the error of a prediction at each token, drawn over the input."""

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

COLORMAP, OPACITY = "inferno", 0.6
PANEL, CAPTION = 160, 14
"""Minimal width of a panel of an animation, and height of the caption above it, in pixels."""

ColorRange = tuple[float, float]
"""The errors of the darkest and of the brightest color."""
Frames = UInt8[np.ndarray, "T H W 3"]


class ErrorMap(NamedTuple):
    """The input, and per level the error at each token, NaN where nothing was predicted. An image is one frame."""

    frames: UInt8[np.ndarray, "T H W 3"]
    errors: list[Float[np.ndarray, "_ _ _"]]


def color_ranges(maps: Sequence[ErrorMap]) -> list[ColorRange]:
    """Return the color range of each level, from the 2nd to the 98th percentile of its errors in all maps."""
    levels = zip(*(error_map.errors for error_map in maps), strict=True)
    percentiles = [np.nanpercentile(np.concatenate([error.ravel() for error in errors]), (2, 98)) for errors in levels]
    return [(float(low), float(high)) for low, high in percentiles]


def overlay(frames: Frames, error: Float[np.ndarray, "_ _ _"], color_range: ColorRange) -> Frames:
    """Return gray frames under the colors of an error, each token's over all its pixels; unchanged where it is NaN."""
    sides = zip(error.shape, frames.shape, strict=False)
    cells_of_pixels = [np.arange(pixels) * cells // pixels for cells, pixels in sides]
    per_pixel = error[np.ix_(*cells_of_pixels)]
    share = Normalize(*color_range, clip=True)(np.nan_to_num(per_pixel))
    colors = 255 * colormaps[COLORMAP](share)[..., :3]
    gray = frames.mean(-1, keepdims=True)
    mixed = (1 - OPACITY) * gray + OPACITY * colors
    return np.where(np.isfinite(per_pixel)[..., None], mixed, frames).round().astype(np.uint8)


def panels(error_map: ErrorMap, ranges: Sequence[ColorRange]) -> list[Frames]:
    """Return the input, then the input with the errors of each level over it."""
    overlays = (overlay(error_map.frames, error, span) for error, span in zip(error_map.errors, ranges, strict=True))
    return [error_map.frames, *overlays]


def plot_error_maps(maps: Sequence[ErrorMap], ranges: Sequence[ColorRange], title: str) -> Figure:
    """Return a figure with a row per image: the input, and the errors of each level, with color bars below."""
    columns = 1 + len(ranges)
    figure = Figure(figsize=(2.2 * columns, 2.0 * len(maps) + 1.2), layout="constrained")
    grid = figure.subplots(len(maps), columns, squeeze=False)
    for row, error_map in zip(grid, maps, strict=True):
        for axes, panel in zip(row, panels(error_map, ranges), strict=True):
            axes.imshow(panel[0], interpolation="nearest")
            axes.set_axis_off()
    grid[0, 0].set_title("input", fontsize=9)
    for number, span in enumerate(ranges, start=1):
        grid[0, number].set_title(caption(number, span), fontsize=9)
        colors = ScalarMappable(Normalize(*span), COLORMAP)
        figure.colorbar(colors, ax=list(grid[:, number]), location="bottom", label="error", aspect=12)
    figure.suptitle(title, fontsize=9)
    return figure


def caption(level: int, color_range: ColorRange) -> str:
    return f"level {level}: {color_range[0]:.3g} to {color_range[1]:.3g}"


def save_animation(path: Path, error_map: ErrorMap, ranges: Sequence[ColorRange], past: int, fps: float) -> None:
    """Write a clip as a GIF: the input and the errors of each level over it, side by side. past: number of past frames."""
    captions = [caption(number, span) for number, span in enumerate(ranges, start=1)]
    height, width = error_map.frames.shape[1:3]
    scale = max(1, -(-PANEL // width))
    pictures = []
    for time, row in enumerate(zip(*panels(error_map, ranges), strict=True)):
        picture = Image.new("RGB", (len(row) * width * scale, height * scale + CAPTION))
        draw = ImageDraw.Draw(picture)
        frame = f"frame {time + 1}, {'past' if time < past else 'future'}"
        for column, (panel, text) in enumerate(zip(row, [frame, *captions], strict=True)):
            large = Image.fromarray(panel).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            picture.paste(large, (column * width * scale, CAPTION))
            draw.text((column * width * scale + 2, 1), text, fill="white")
        pictures.append(picture)
    # The format is given because the path may be a temporary one with another suffix.
    pictures[0].save(path, format="GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0)
