"""Images of any number of channels, of 8 or 16 bits, as arrays; photos are Pillow's RGB images instead, which it resizes faster."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8, UInt16
from PIL import Image

from jepa_pipeline.config.pixel_format import PixelFormat

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in whole pixels; right and bottom are excluded."""
FloatBox = tuple[float, float, float, float]
Levels = UInt8[np.ndarray, "..."] | UInt16[np.ndarray, "..."]
WIDEN = 257
"""Factor from a value of 8 bits to the one of 16 that stands for the same share of the range: 65535 / 255."""


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

    def resize(
        self,
        size: tuple[int, int],
        method: Image.Resampling,
        box: Box | FloatBox | None = None,
    ) -> "Raster":
        """Return the image, or a box of it, resized by Pillow, one channel after the other; values of 16 bits as floats."""
        deep = self.form.bits > 8
        channels = [
            np.asarray(Image.fromarray(channel.astype(np.float32) if deep else channel).resize(size, method, box=box))
            for channel in self.pixels
        ]
        return Raster(to_levels(np.stack(channels), self.form) if deep else np.stack(channels))


def to_levels(values: Float32[np.ndarray, "..."], form: PixelFormat) -> Levels:
    """Return values rounded to the whole numbers of a form."""
    return np.rint(values).clip(0, form.largest).astype(form.dtype)


def as_array(image: Image.Image | Raster) -> Levels:
    """Return the pixels of an image, "H W C"."""
    return image.pixels.transpose(1, 2, 0) if isinstance(image, Raster) else np.asarray(image)
