"""Crop, resize and mirror a whole batch on its device, as matrix products with the weights that workers use per image."""

from itertools import islice

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from jepa_pipeline.batch import DeferredCrops
from jepa_pipeline.config.crop import Resampling
from jepa_pipeline.data.augment import ColorOps, augment, unpack
from jepa_pipeline.data.raster import WIDEN
from jepa_pipeline.data.resample import DEFAULT_RESAMPLING, resize_matrix

CHUNK = 64
"""Images that are converted to floats at a time; of 640 pixels square they take 315 MB."""


def crop_views(deferred: DeferredCrops, resampling: Resampling = DEFAULT_RESAMPLING) -> list[Float[Tensor, "B C _ _"]]:
    """Return the views, with values in 0..255, without the host waiting for the device."""
    images, tensors = deferred.images.permute(0, 2, 3, 1), iter(unpack(deferred.colors))
    if images.dtype == torch.uint16:  # the same bytes under a type that CUDA can index, see to_floats
        images = images.view(torch.int16)
    parameters = zip(
        deferred.boxes,
        deferred.flipped,
        deferred.order,
        deferred.sizes,
        deferred.rows_first,
        deferred.hues_per_slot,
        strict=True,
    )
    views = []
    for boxes, flipped, order, size, rows_first, hues_per_slot in parameters:
        view = images.new_empty((len(images), images.shape[3], size, size), dtype=torch.float32)
        for rows, columns_first in ((order[:rows_first], False), (order[rows_first:], True)):
            for part in rows.split(CHUNK):
                pixels, extents, *crops = (t.index_select(0, part) for t in (images, deferred.extents, boxes, flipped))
                view.index_copy_(0, part, resized_crop(pixels, extents, crops[0], crops[1], size, columns_first, resampling))
        views.append(augment(view, ColorOps(hues_per_slot, *islice(tensors, len(ColorOps._fields) - 1))))
    return views


def resized_crop(
    images: Num[Tensor, "B H W C"],
    extents: Float[Tensor, "B 2"],
    boxes: Float[Tensor, "B 4"],
    flipped: Bool[Tensor, "B"],
    size: int,
    columns_first: bool,
    resampling: Resampling,
) -> Float[Tensor, "B C S S"]:
    """Return the boxes of the images, resized as resample.resized_crop does, with values in 0..255.

    With antialiasing Pillow clips 8 bits after each pass; 16 bits are floats to it.
    """
    pixels = to_floats(images.transpose(2, 3))
    batch, height, channels, width = pixels.shape
    left, top, right, bottom = boxes.unbind(1)
    centers = (torch.arange(size, dtype=torch.float32, device=images.device) + 0.5).expand(batch, -1)
    mirrored = torch.where(flipped[:, None], size - centers, centers)
    across = resize_matrix(left, right, extents[:, 1], mirrored, width, resampling).mT
    down = resize_matrix(top, bottom, extents[:, 0], centers, height, resampling)
    limits = (0, 255) if resampling.antialias and images.dtype == torch.uint8 else (-torch.inf, torch.inf)
    if columns_first:
        columns = torch.bmm(down, pixels.view(batch, height, channels * width)).clamp_(*limits)
        crop = torch.bmm(columns.view(batch, size * channels, width), across)
    else:
        rows = torch.bmm(pixels.view(batch, height * channels, width), across).clamp_(*limits)
        crop = torch.bmm(down, rows.view(batch, height, channels * size))
    return crop.view(batch, size, channels, size).transpose(1, 2).clamp_(0, 255)


def to_floats(pixels: Num[Tensor, "B H C W"]) -> Float[Tensor, "B H C W"]:
    """Return whole numbers of 8 bits, or of 16 bits stored as int16, as floats in 0..255."""
    floats = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    return floats if pixels.dtype == torch.uint8 else floats.remainder_(1 << 16).div_(WIDEN)
