"""Compressed bytes to an RGB image."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from jepa_pipeline.config.pixel_format import PixelFormat
from jepa_pipeline.data.image_container import Stripped, find_orientation, strip_metadata
from jepa_pipeline.data.sample import MAX_PIXELS, DecodeError, TooLarge

EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
"""Formats that are read, by Pillow's names, and the extension of each in a shard."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that makes an image upright, by its EXIF orientation."""

WITH_ALPHA = (4, 6)
"""Color types of PNG files with gray and alpha, or with RGB and alpha."""
DEEP = 16
"""Bits of the deepest channels."""
SCAN = b"\xff\xda"
"""Marker of a scan of a JPEG file; among coded pixels a zero follows each 0xff."""

# check_pixels refuses such images with an error, so Pillow's warning about them would only repeat it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Decoded(NamedTuple):
    """An upright RGB image; the extension of its format; of one with 16 bits per channel, its brightest level of the 8-bit ones;
    and its channels and their bits as they are stored.
    """

    image: Image.Image
    extension: str
    brightest: int | None
    stored: PixelFormat


def decode(data: bytes, max_pixels: float = MAX_PIXELS) -> Decoded:
    """Return a JPEG, PNG or WebP image as RGB, upright, and what its file says of it.

    The orientation in EXIF or XMP is applied, transparency is composited on white, 16 bits are scaled to 8, and of an
    animation the first frame is taken. No other metadata is read, so that none can make an image unusable.

    Raises:
        DecodeError: it is not JPEG, PNG or WebP, truncated, damaged, or has more pixels than Image.MAX_IMAGE_PIXELS.
        TooLarge: it takes more than max_pixels to be decoded.
    """
    with opened(data, max_pixels) as (image, stripped):
        extension, stored = EXTENSIONS[image.format or ""], stored_form(image, stripped)
        rgb, brightest = deep_to_rgb(image, stripped) if stripped.bits == DEEP else (to_rgb(image), None)
        method = UPRIGHT.get(find_orientation(stripped.exif, stripped.xmp))
        return Decoded(rgb if method is None else rgb.transpose(method), extension, brightest, stored)


def decode_stored(data: bytes, max_pixels: float = MAX_PIXELS) -> UInt8[np.ndarray, "H W C"] | UInt16[np.ndarray, "H W C"]:
    """Return a JPEG, PNG or WebP image with the channels and bits with which it is stored, upright; palettes as RGB.

    Raises:
        DecodeError, TooLarge: as decode does.
    """
    with opened(data, max_pixels) as (image, stripped):
        values = read_channels(image, stripped.data) if stripped.bits == DEEP else np.asarray(to_stored(image))
        values = values if values.ndim == 3 else values[..., None]
        return turn_upright(values, find_orientation(stripped.exif, stripped.xmp))


@contextmanager
def opened(data: bytes, max_pixels: float) -> Iterator[tuple[Image.Image, Stripped]]:
    """Yield an image whose pixels are loaded, and its file without metadata; all that Pillow raises becomes a DecodeError."""
    stripped = strip_metadata(data)
    try:
        with Image.open(BytesIO(stripped.data), formats=tuple(EXTENSIONS)) as image:
            check_pixels(image, stripped.data, max_pixels)
            image.load()
            yield image, stripped
    except DecodeError:
        raise
    except Image.UnidentifiedImageError as error:
        raise DecodeError("it is not a JPEG, PNG or WebP image, nor a TIFF image or an .npy array") from error
    except Exception as error:  # on damaged bytes Pillow's readers raise almost anything
        raise DecodeError(f"{error or type(error).__name__}") from error


def stored_form(image: Image.Image, stripped: Stripped) -> PixelFormat:
    """Return the channels of an image and their bits as they are stored; those of a palette are of its colors."""
    if stripped.bits == DEEP:
        transparent = stripped.data[25] in WITH_ALPHA
        return PixelFormat((1 if is_gray(stripped.data) else 3) + transparent, DEEP)
    return PixelFormat(len(to_stored_mode(image.mode)))


def to_stored_mode(mode: str) -> str:
    """Return the mode in which the channels of an image are as they are stored."""
    return {"1": "L", "P": "RGB", "PA": "RGB", "YCbCr": "RGB"}.get(mode, mode)


def to_stored(image: Image.Image) -> Image.Image:
    mode = to_stored_mode(image.mode)
    return image if image.mode == mode else image.convert(mode)


def turn_upright(
    values: UInt8[np.ndarray, "H W C"] | UInt16[np.ndarray, "H W C"], orientation: int
) -> UInt8[np.ndarray, "_ _ C"] | UInt16[np.ndarray, "_ _ C"]:
    """Return an image as UPRIGHT turns Pillow's, by its EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values


def check_pixels(image: Image.Image, data: bytes, max_pixels: float) -> None:
    scans = data.count(SCAN) if image.format == "JPEG" else 1  # a progressive one decodes all pixels in each
    check_size(*image.size, max_pixels, scans)


def check_size(width: int, height: int, max_pixels: float, scans: int = 1) -> None:
    """Raise DecodeError if an image has too many pixels."""
    limit, pixels = Image.MAX_IMAGE_PIXELS, width * height
    if limit is not None and pixels > limit:
        raise DecodeError(f"it has {width}x{height} pixels, more than the limit of {limit}")
    if pixels * scans > max_pixels:
        raise TooLarge(f"it has {width}x{height} pixels{f' in {scans} scans' if scans > 1 else ''}", max_pixels)


def to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:  # palettes may be transparent too, so the mode does not tell
        pixels = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, pixels).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def deep_to_rgb(image: Image.Image, stripped: Stripped) -> tuple[Image.Image, int]:
    """Return a PNG image with 16 bits per channel as RGB, and its brightest level of the 8-bit ones.

    Pillow clips gray instead of scaling it, keeps the upper byte of colors, and compares a transparent color with that. Cameras
    and microscopes store 12 bits or so without scaling them up, which would leave 16 levels; where sBIT tells their number, they
    are scaled by it.
    """
    colors = 1 if is_gray(stripped.data) else 3
    bits, alpha_bits = (
        max((n for n in told if 1 <= n <= DEEP), default=DEEP)  # others are an error of the writer
        for told in (stripped.significant_bits[:colors], stripped.significant_bits[colors:])
    )
    transparent = image.info.get("transparency")
    if not image.mode.startswith("I") and min(bits, alpha_bits) == DEEP and transparent is None:
        return to_rgb(image), brightest_level(image)
    channels = read_channels(image, stripped.data)
    values, alpha = channels[..., :colors], channels[..., colors:]
    unscaled, alpha_unscaled = is_unscaled(values, bits), alpha.size > 0 and is_unscaled(alpha, alpha_bits)
    if image.mode.startswith("RGB") and not unscaled and not alpha_unscaled and transparent is None:
        return to_rgb(image), brightest_level(image)
    by_upper_byte = image.mode.startswith("RGB") and not unscaled
    levels = (values >> 8).astype(np.uint8) if by_upper_byte else scale(values, bits if unscaled else DEEP)
    rgb = Image.fromarray(np.broadcast_to(levels, (*levels.shape[:2], 3)).copy())
    if alpha.size:
        rgb.putalpha(Image.fromarray(scale(alpha[..., 0], alpha_bits if alpha_unscaled else DEEP)))
    elif transparent is not None:
        rgb.putalpha(Image.fromarray(np.where((values == np.array(transparent)).all(-1), 0, 255).astype(np.uint8)))
    return to_rgb(rgb), int(levels.max())


def is_gray(png: bytes) -> bool:
    """Return whether the header of a PNG file says that it has one channel, and perhaps transparency."""
    return png[25] in (0, 4)


def brightest_level(image: Image.Image) -> int:
    opaque = image if image.mode == "RGB" else image.convert("RGBA").convert("RGB")
    return int(np.asarray(opaque).max())


def scale(values: UInt16[np.ndarray, "*shape"], bits: int) -> UInt8[np.ndarray, "*shape"]:
    """Return values of a number of bits as those of 8."""
    largest = (1 << bits) - 1
    return np.clip((values.astype(np.float32) / (largest / 255)).round(), 0, 255).astype(np.uint8)


def read_channels(image: Image.Image, data: bytes) -> UInt16[np.ndarray, "H W C"]:
    """Return the channels of a 16-bit PNG image, of which Pillow has loaded the upper bytes, or all of gray alone."""
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if is_gray(data):
        both = read_raw(data, "RGBA")  # the four bytes of gray and alpha
        return both[..., ::2].astype(np.uint16) << 8 | both[..., 1::2]
    return np.asarray(image).astype(np.uint16) << 8 | read_raw(data, f"{image.mode};16L")  # the lower bytes


def read_raw(data: bytes, mode: str) -> UInt8[np.ndarray, "H W C"]:
    """Return the bytes of a PNG image as they are in one of Pillow's raw modes."""
    with Image.open(BytesIO(data), formats=("PNG",)) as image:
        image.tile = [tile._replace(args=mode) for tile in image.tile]
        return np.asarray(image)


def is_unscaled(channels: UInt16[np.ndarray, "*shape"], bits: int) -> bool:
    """Return whether values of fewer than 16 significant bits fill the lower bits; PNG wants the upper ones filled.

    Small values that were scaled up have nothing below the significant bits but a one from rounding.
    """
    below = (1 << (DEEP - bits)) - 1
    return 0 < bits < DEEP and int(channels.max()) < 1 << bits and int((channels & below).max()) > 1
