"""Resizing of crops: Pillow's filters with antialiasing, or interpolation between the nearest pixels without."""

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from PIL import Image
from torch import Tensor

from jepa_pipeline.config.crop import Interpolation, Resampling
from jepa_pipeline.config.pixel_format import RGB8
from jepa_pipeline.data.raster import Box, Levels, Raster, as_array, to_levels

DEFAULT_RESAMPLING = Resampling("bicubic", antialias=True)
"""As the defaults of `views.interpolation` and `views.antialias`."""

LONGEST = 100
"""Side of an image, in its other side, up to which it is resized as a whole for evaluation; the memory for more could be any."""

PILLOW_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
TAPS = {"bicubic": 4, "bilinear": 2}
"""Pixels along each axis between which a kernel interpolates."""


def resized_crop(image: Image.Image | Raster, box: Box, image_size: int, resampling: Resampling = DEFAULT_RESAMPLING) -> Levels:
    """Return a box of an image, "C H W", resized to image_size x image_size; pixels just outside the box count at its edges."""
    if resampling.antialias:
        return as_array(image.resize((image_size, image_size), PILLOW_FILTERS[resampling.interpolation], box=box)).transpose(
            2, 0, 1
        )
    left, top, right, bottom = box
    columns, column_weights = nearest_pixels(left, right, image_size, image.width, resampling.interpolation)
    rows, row_weights = nearest_pixels(top, bottom, image_size, image.height, resampling.interpolation)
    first = columns.min()
    pixels = as_array(image)[:, first : columns.max() + 1]
    down = interpolate(pixels, rows, row_weights)  # S W C
    view = interpolate(np.ascontiguousarray(down.swapaxes(0, 1)), columns - first, column_weights)  # S S C, columns first
    return to_levels(view, image.form if isinstance(image, Raster) else RGB8).transpose(2, 1, 0)


def square_views(image: Image.Image | Raster, image_size: int, count: int = 1) -> list[Levels]:
    """Return the views of evaluation, "C H W": the shorter side resized to image_size, then squares along the longer one.

    A single square is the center; several are evenly spaced from end to end. Resizing comes before cutting, and fractions are cut
    off or rounded, as in timm and torchvision, so that users of an exported encoder see the pixels that its probes saw.
    """
    width, height = (int(image_size * side / min(image.size)) for side in image.size)
    shares = np.linspace(0, 1, count).tolist() if count > 1 else [0.5]
    corners = [(round(share * (width - image_size)), round(share * (height - image_size))) for share in shares]
    if max(width, height) <= LONGEST * image_size:
        resized = as_array(image.resize((width, height), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        return [resized[:, top : top + image_size, left : left + image_size] for left, top in corners]
    # Where squares are cut out while resizing, some values differ by rounding.
    scale, square = min(image.size) / image_size, (image_size, image_size)
    boxes = [(left * scale, top * scale, (left + image_size) * scale, (top + image_size) * scale) for left, top in corners]
    views = [
        image.resize(square, Image.Resampling.BICUBIC, box=(left, top, min(right, image.width), min(bottom, image.height)))
        for left, top, right, bottom in boxes
    ]
    return [as_array(view).transpose(2, 0, 1) for view in views]


def interpolate(
    pixels: Levels | Float32[np.ndarray, "N M C"],
    indices: Int64[np.ndarray, "S K"],
    weights: Float32[np.ndarray, "S K"],
) -> Float32[np.ndarray, "S M C"]:
    """Return weighted sums of rows."""
    taps = zip(indices.T, weights.T[..., None, None], strict=True)
    return sum(pixels[index] * weight for index, weight in taps)  # pyright: ignore[reportReturnType]


def nearest_pixels(
    start: int, end: int, count: int, inputs: int, interpolation: Interpolation
) -> tuple[Int64[np.ndarray, "S K"], Float32[np.ndarray, "S K"]]:
    """Return the pixels between which each output pixel is interpolated, and their weights; none is outside the image."""
    centers = start + (np.arange(count) + 0.5) * (end - start) / count
    taps = TAPS[interpolation]
    indices = np.floor(centers - 0.5).astype(np.int64)[:, None] + np.arange(1 - taps // 2, 1 + taps // 2)
    distances = torch.from_numpy(np.abs(indices + 0.5 - centers[:, None]))
    weights = KERNELS[interpolation](distances).numpy() * ((indices >= 0) & (indices < inputs))
    return indices.clip(0, inputs - 1), (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def resize_matrix(
    starts: Float[Tensor, "B"],
    ends: Float[Tensor, "B"],
    extents: Float[Tensor, "B"],
    centers: Float[Tensor, "B S"],
    inputs: int,
    resampling: Resampling,
) -> Float[Tensor, "B S N"]:
    """Return the matrices that resize the range from starts to ends of a row: [i, j] weighs input j in output i.

    With antialiasing the kernel is stretched to the width of an output pixel where that is wider than an input pixel. Pixels
    outside the range count, those outside the image (from extents on) do not.

    Args:
        starts: left or upper edge of the range.
        ends: right or lower edge.
        extents: width or height of the image without padding.
        centers: center of each output pixel, in output pixels.
        inputs: input pixels, with padding.
        resampling: kernel, and whether it is stretched.
    """
    scales = ((ends - starts) / centers.shape[1])[:, None]
    input_centers = starts[:, None] + centers * scales
    pixels = torch.arange(inputs, dtype=torch.float32, device=starts.device) + 0.5
    pixels = torch.where(pixels < extents[:, None], pixels, torch.inf)  # infinitely far: weight 0
    distances = (pixels[:, None] - input_centers[..., None]).abs_()
    if resampling.antialias:
        distances = distances.div_(scales.clamp(min=1)[..., None])
    weights = KERNELS[resampling.interpolation](distances)
    return weights.div_(weights.sum(2, keepdim=True))


def keys_kernel(distances: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Return the cubic convolution kernel (Keys 1981) with a = -1/2, its two pieces as one formula without branches."""
    outer, inner = (2 - distances).clamp_(min=0), (1 - distances).clamp_(min=0)
    return (outer - 1).mul_(outer.square_()).mul_(0.5).add_((1 - 2 * inner).mul_(inner.square_()))


def triangle_kernel(distances: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Return the kernel of bilinear interpolation."""
    return (1 - distances).clamp_(min=0)


KERNELS = {"bicubic": keys_kernel, "bilinear": triangle_kernel}
