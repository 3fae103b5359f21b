"""Arrays as images: which axis holds the channels, and NumPy's files of one array."""

from io import BytesIO
from math import prod

import numpy as np
from numpy.lib import format as npy_format

from jepa_pipeline.data.sample import DecodeError

MAGIC = npy_format.MAGIC_PREFIX
HEADERS = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
"""Reader of the header, by the version of the file; version 3 is for names that are not ASCII, which an image has none of."""


def read_npy(data: bytes) -> np.ndarray:
    """Return the array of an .npy file as "H W C"; see channels_last.

    Raises:
        DecodeError: it is damaged, or its array is none of an image.
    """
    stream = BytesIO(data)
    try:
        shape, fortran_order, dtype = HEADERS[npy_format.read_magic(stream)](stream)
    except (ValueError, KeyError) as error:
        raise DecodeError(f"its header is not that of an .npy file of version 1 or 2 ({error})") from error
    if dtype.hasobject:
        raise DecodeError("it holds Python objects, which are never loaded: save an array of uint8 or uint16")
    check_levels(dtype)
    start, size = stream.tell(), prod(shape) * dtype.itemsize  # compared before memory is taken: a header may state any shape
    if start + size != len(data):
        raise DecodeError(f"it has {len(data) - start} bytes behind its header, which states {shape} of {dtype.name}")
    values = np.frombuffer(data, dtype, prod(shape), start).reshape(shape, order="F" if fortran_order else "C")
    return channels_last(values.astype(dtype.newbyteorder("="), copy=False))


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
