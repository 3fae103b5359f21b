"""TIFF images, with Pillow where it keeps every channel and bit, else with tifffile."""

import logging
import warnings
from io import BytesIO
from math import prod

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import TiffImageFile

from jepa_pipeline.config.errors import first_line
from jepa_pipeline.config.pixel_format import MAX_CHANNELS
from jepa_pipeline.data.array import channels_last, check_levels
from jepa_pipeline.data.image import check_size, to_stored, turn_upright
from jepa_pipeline.data.sample import DecodeError, MissingPackage

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF files of either byte order."""
WHITE_IS_ZERO = 0
"""Photometric interpretation of negatives, which are inverted."""
ASSOCIATED_ALPHA = 1
"""Extra channel by which the colors were multiplied."""
COLORS = (WHITE_IS_ZERO, 1, 2, 5)
"""Photometric interpretations whose values are those of channels: gray of either sense, RGB and inks."""
FIRST_AXIS = ("SYX", "CYX")
"""Axes, in tifffile's letters, of an array whose file says that the first one holds the channels; "YXS" says it of the last."""

# Pillow says that it does not keep an image in a log or a warning for each, and then tifffile reads it.
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)


def read_tiff(data: bytes, max_pixels: float) -> np.ndarray:
    """Return the first image of a TIFF file as "H W C", upright, palettes as RGB.

    Pages of one size are an array, whose channels channels_last finds: those of an image may each be a page.

    Raises:
        DecodeError: it is damaged, has too many pixels, or values of another type than 8 or 16 bits without a sign.
        MissingPackage: one that it takes.
    """
    try:
        with Image.open(BytesIO(data), formats=("TIFF",)) as image:
            check_size(*image.size, max_pixels)
            if isinstance(image, TiffImageFile) and keeps_all(image):
                return read_by_pillow(image)
    except UnidentifiedImageError:  # among them those of five channels and more
        pass
    except DecodeError:
        raise
    except Exception as error:  # on damaged bytes Pillow's readers raise almost anything
        raise DecodeError(f"{error or type(error).__name__}") from error
    return read_by_tifffile(data, max_pixels)


def keeps_all(image: TiffImageFile) -> bool:
    """Return whether Pillow gives all channels and bits of an image: it cuts colors of 16 bits to 8, drops channels behind the
    third, divides colors by their alpha, and takes the sign of 8 bits for a bit.
    """
    tags = image.tag_v2
    channels, bits = tags.get(Base.SamplesPerPixel, 1), {*tags.get(Base.BitsPerSample, (1,))}
    if image.n_frames > 1 or {*tags.get(Base.SampleFormat, (1,))} != {1}:
        return False
    if image.mode.startswith("I;16"):
        return channels == 1
    if image.mode in ("1", "L", "P"):
        return channels == 1 and max(bits) <= 8
    if image.mode not in ("RGB", "RGBA", "CMYK", "YCbCr") or ASSOCIATED_ALPHA in tags.get(Base.ExtraSamples, ()):
        return False
    return channels == len(image.getbands()) and bits == {8}


def read_by_pillow(image: TiffImageFile) -> np.ndarray:
    inverted = image.mode.startswith("I;16") and image.tag_v2.get(Base.PhotometricInterpretation) == WHITE_IS_ZERO
    image.load()  # which turns it upright
    values = np.asarray(to_stored(image))
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    values = values if values.ndim == 3 else values[..., None]
    return np.invert(values) if inverted else values


def read_by_tifffile(data: bytes, max_pixels: float) -> np.ndarray:
    try:
        from tifffile import TiffFile
    except ImportError:
        raise MissingPackage(
            "this TIFF image has channels or bits that Pillow does not keep, and reading it takes the package tifffile: "
            "`pip install tifffile`"
        ) from None
    try:
        with TiffFile(BytesIO(data)) as file:
            series = file.series[0]
            page = series.keyframe
            if page.photometric not in COLORS:
                raise DecodeError(f"its photometric interpretation is {int(page.photometric)}: convert it to gray or RGB")
            check_size(page.imagewidth, max(page.imagelength, prod(series.shape) // (page.imagewidth * MAX_CHANNELS)), max_pixels)
            check_levels(np.dtype(series.dtype))
            values = series.asarray()
            values = np.moveaxis(values, 0, -1) if series.axes in FIRST_AXIS else values
            values = values if series.axes in (*FIRST_AXIS, "YXS") else channels_last(values)
            orientation = page.tags.valueof(Base.Orientation, default=1)
            inverted = page.photometric == WHITE_IS_ZERO
    except DecodeError:
        raise
    except Exception as error:  # as Pillow's
        if "imagecodecs" in str(error):
            raise MissingPackage(
                f"{first_line(error)}: `pip install imagecodecs`, or compress the TIFF images with deflate"
            ) from error
        raise DecodeError(f"{error or type(error).__name__}") from error
    return turn_upright(np.invert(values) if inverted else values, orientation)
