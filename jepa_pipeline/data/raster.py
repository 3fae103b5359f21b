"""Images of any number of channels, of 8 or 16 bits, as arrays; photos are Pillow's RGB images instead, which it resizes faster."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8, UInt16
from PIL import Image

from jepa_pipeline.config.pixel_format import MAX_CHANNELS, RGB8, RGB_CHANNELS, PixelFormat
from jepa_pipeline.data.image import scale
from jepa_pipeline.data.sample import DecodeError

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in whole pixels; right and bottom are excluded."""
Levels = UInt8[np.ndarray, "*shape"] | UInt16[np.ndarray, "*shape"]
WIDEN = 257
"""Factor from a value of 8 bits to the one of 16 that stands for the same share of the range: 65535 / 255."""


class OtherFormat(DecodeError):
    """An image of another number of channels, or of more bits, than are wanted."""

    def __init__(self, what: str, cure: str) -> None:
        super().__init__(what)
        self.cure = cure


class Raster(NamedTuple):
    """An upright image, "C H W"."""

    pixels: UInt8[np.ndarray, "C H W"] | UInt16[np.ndarray, "C H W"]

    @property
    def form(self) -> PixelFormat:
        """Return the number of channels and their bits."""
        return PixelFormat(len(self.pixels), 8 if self.pixels.dtype == np.uint8 else 16)

    @property
    def width(self) -> int:
        return self.pixels.shape[2]

    @property
    def height(self) -> int:
        return self.pixels.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height, as Pillow's images have them."""
        return self.width, self.height

    def resize(self, size: tuple[int, int], method: Image.Resampling, box: Box | None = None) -> "Raster":
        """Return the image, or a box of it, resized by Pillow, one channel after the other; values of 16 bits as floats."""
        deep = self.form.bits > 8
        channels = [
            np.asarray(Image.fromarray(channel.astype(np.float32) if deep else channel).resize(size, method, box=box))
            for channel in self.pixels
        ]
        return Raster(to_levels(np.stack(channels), self.form) if deep else np.stack(channels))


def to_levels(values: Float32[np.ndarray, "*shape"], form: PixelFormat) -> Levels:
    """Return values rounded to the whole numbers of a form."""
    return np.rint(values).clip(0, form.largest).astype(form.dtype)


def as_array(image: Image.Image | Raster) -> Levels:
    """Return the pixels of an image, "H W C"."""
    return image.pixels.transpose(1, 2, 0) if isinstance(image, Raster) else np.asarray(image)


def to_raster(values: Levels) -> Raster:
    """Return an array "H W C" as an image.

    Raises:
        DecodeError: it has too many channels.
    """
    channels = values.shape[2]
    if channels > MAX_CHANNELS:
        raise DecodeError(f"it has {channels} channels, but an image has 1 to {MAX_CHANNELS}")
    return Raster(np.ascontiguousarray(values.transpose(2, 0, 1)))


def channels_last(values: np.ndarray) -> np.ndarray:
    """Return an array "H W", "H W C" or "C H W" as "H W C": the channels are the shorter of the first and the last axis, and the
    last where both are as long.

    Raises:
        DecodeError: it has another number of axes, or none of some pixels.
    """
    if values.ndim not in (2, 3) or not values.size:
        raise DecodeError(f"its array has the shape {values.shape}, but that of an image is (H, W), (H, W, C) or (C, H, W)")
    if values.ndim == 2:
        return values[..., None]
    return values if values.shape[2] <= values.shape[0] else values.transpose(1, 2, 0)


def check_levels(dtype: np.dtype) -> None:
    """Raise DecodeError unless values are whole numbers of 8 or 16 bits, of either byte order."""
    if dtype.kind != "u" or dtype.itemsize > 2:
        raise DecodeError(f"its values are of the type {dtype.name}, but an image has uint8 or uint16: convert it")


def fit(raster: Raster, form: PixelFormat) -> Raster:
    """Return an image in the form that is wanted: one of 8 bits exactly as one of 16, and gray for RGB three times.

    Raises:
        OtherFormat: it has another number of channels, or more bits.
    """
    found = raster.form
    if found.channels != form.channels and (found.channels, form.channels) != (1, RGB_CHANNELS):
        raise OtherFormat(
            f"it has {found}, but this run or encoder takes {form.channels}",
            f"train with data.channels={found.channels} (and views.mean and views.std of as many values), or use images of "
            f"{PixelFormat(form.channels).name_channels()}",
        )
    if found.bits > form.bits:
        raise OtherFormat(f"it has {found}, but this run or encoder takes 8", "train with data.bits=16, or convert it to 8 bits")
    pixels = raster.pixels.astype(np.uint16) * WIDEN if found.bits < form.bits else raster.pixels
    return Raster(np.broadcast_to(pixels, (form.channels, *pixels.shape[1:])))


def has_rgb(form: PixelFormat) -> bool:
    """Return whether images of a form are gray or RGB."""
    return form.channels in (1, RGB_CHANNELS)


def to_rgb_image(raster: Raster) -> Image.Image:
    """Return gray or RGB as an RGB image of 8 bits.

    Raises:
        OtherFormat: it has another number of channels.
    """
    pixels = raster.pixels if raster.form.bits == 8 else scale(raster.pixels, raster.form.bits)
    return Image.fromarray(np.ascontiguousarray(fit(Raster(pixels), RGB8).pixels.transpose(1, 2, 0)))
