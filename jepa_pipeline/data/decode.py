"""The bytes of an image file of any format to an image in the form that a run takes."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from jepa_pipeline.config.pixel_format import MAX_CHANNELS, RGB8, RGB_CHANNELS, PixelFormat
from jepa_pipeline.data import array, tiff
from jepa_pipeline.data.image import check_size, decode, decode_stored, scale
from jepa_pipeline.data.raster import WIDEN, Levels, Raster
from jepa_pipeline.data.sample import MAX_PIXELS, DecodeError


class OtherFormat(DecodeError):
    """An image of another number of channels, or of more bits, than are wanted."""

    def __init__(self, what: str, cure: str) -> None:
        super().__init__(what)
        self.cure = cure


class Inspected(NamedTuple):
    """An image file as it is stored and as RGB.

    Attributes:
        extension: of its format in a shard.
        rgb: the image as 8-bit RGB; None if it has neither one nor three channels, and a format that cannot mean RGB.
        stored: its channels and their bits as they are stored.
        raster: the same pixels as they are stored; None if those are the ones of `rgb`.
        brightest: of a 16-bit image that becomes RGB, the brightest level of the 8-bit ones.
    """

    extension: str
    rgb: Image.Image | None
    stored: PixelFormat
    raster: Raster | None
    brightest: int | None

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height."""
        return self.raster.size if self.rgb is None and self.raster else self.rgb.size  # pyright: ignore[reportOptionalMemberAccess]


def decode_image(data: bytes, max_pixels: float = MAX_PIXELS, form: PixelFormat = RGB8) -> Image.Image | Raster:
    """Return an image, upright, in the form that is wanted: 8-bit RGB as Pillow's, others as Raster.

    Raises:
        DecodeError: it cannot be read, or has another number of channels or more bits.
        MissingPackage: one that a TIFF image takes.
    """
    if form != RGB8:
        return fit(read_raster(data, max_pixels), form)
    return to_rgb_image(read_raster(data, max_pixels)) if is_array(data) else decode(data, max_pixels).image


def is_array(data: bytes) -> bool:
    """Return whether a file holds an array of channels that may mean anything: TIFF or .npy."""
    return data.startswith((array.MAGIC, *tiff.MAGIC))


def read_raster(data: bytes, max_pixels: float = MAX_PIXELS) -> Raster:
    """Return an image with the channels and bits with which it is stored.

    Raises:
        DecodeError: it cannot be read.
        MissingPackage: one that a TIFF image takes.
    """
    if data.startswith(array.MAGIC):
        raster = to_raster(array.read_npy(data))
        check_size(*raster.size, max_pixels)
        return raster
    return to_raster(tiff.read_tiff(data, max_pixels) if data.startswith(tiff.MAGIC) else decode_stored(data, max_pixels))


def inspect_image(data: bytes, max_pixels: float = MAX_PIXELS) -> Inspected:
    """Return an image as it is stored and, where it can be, as RGB. Raises what decode_image does."""
    if not is_array(data):
        rgb, extension, brightest, stored = decode(data, max_pixels)
        return Inspected(extension, rgb, stored, None if stored == RGB8 else read_raster(data, max_pixels), brightest)
    raster = read_raster(data, max_pixels)
    rgb = to_rgb_image(raster) if has_rgb(raster.form) else None
    brightest = int(np.asarray(rgb).max()) if rgb is not None and raster.form.bits > 8 else None
    return Inspected("npy" if data.startswith(array.MAGIC) else "tif", rgb, raster.form, raster, brightest)


def to_raster(values: Levels) -> Raster:
    """Return an array "H W C" as an image.

    Raises:
        DecodeError: it has too many channels.
    """
    channels = values.shape[2]
    if channels > MAX_CHANNELS:
        raise DecodeError(f"it has {channels} channels, but an image has 1 to {MAX_CHANNELS}")
    return Raster(np.ascontiguousarray(values.transpose(2, 0, 1)))


def fit(raster: Raster, form: PixelFormat) -> Raster:
    """Return an image in the form that is wanted: one of 8 bits exactly as one of 16, and gray for RGB three times.

    Raises:
        OtherFormat: it has another number of channels, or more bits.
    """
    found = raster.form
    if found.channels != form.channels and (found.channels, form.channels) != (1, RGB_CHANNELS):
        bits = " data.bits=16" if form.bits < found.bits and found.channels != RGB_CHANNELS else ""
        raise OtherFormat(
            f"it has {found}, but this run or encoder takes {form.name_channels()}",
            f"train with data.channels={found.channels}{bits} (and views.mean and views.std of as many values), or use images of "
            f"{PixelFormat(form.channels).name_channels()}",
        )
    if found.bits > form.bits:
        raise OtherFormat(
            f"it has {found}, but this run or encoder takes {form}", "train with data.bits=16, or convert it to 8 bits"
        )
    pixels = raster.pixels.astype(np.uint16) * WIDEN if found.bits < form.bits else raster.pixels
    return Raster(np.broadcast_to(pixels, (form.channels, *pixels.shape[1:])))


def has_rgb(form: PixelFormat) -> bool:
    """Return whether images of a form are gray or RGB."""
    return form.channels in (1, RGB_CHANNELS)


def to_rgb_image(raster: Raster) -> Image.Image:
    """Return gray or RGB as an 8-bit RGB image.

    Raises:
        OtherFormat: it has another number of channels.
    """
    bits = raster.form.bits
    rgb = fit(raster, PixelFormat(RGB_CHANNELS, bits)).pixels.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(rgb if bits == 8 else scale(rgb, bits)))
