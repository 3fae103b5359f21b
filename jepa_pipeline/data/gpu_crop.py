"""Crop, resize and mirror a whole batch on its device, as matrix products with the weights that Pillow uses per image."""

from itertools import islice

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from jepa_pipeline.batch import DeferredCrops
from jepa_pipeline.data.augment import ColorOps, augment, unpack

CHUNK = 64
"""Images that are converted to floats at a time; of 640 pixels square they take 315 MB."""


def crop_views(deferred: DeferredCrops) -> list[Float[Tensor, "B 3 _ _"]]:
    """Return the views, with values in 0..255, without the host waiting for the device."""
    images, tensors = deferred.images.permute(0, 2, 3, 1), iter(unpack(deferred.colors))
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
        view = images.new_empty((len(images), 3, size, size), dtype=torch.float32)
        for rows, columns_first in ((order[:rows_first], False), (order[rows_first:], True)):
            for part in rows.split(CHUNK):
                pixels, extents, *crops = (t.index_select(0, part) for t in (images, deferred.extents, boxes, flipped))
                view.index_copy_(0, part, resized_crop(pixels, extents, crops[0], crops[1], size, columns_first))
        views.append(augment(view, ColorOps(hues_per_slot, *islice(tensors, len(ColorOps._fields) - 1))))
    return views


def resized_crop(
    images: UInt8[Tensor, "B H W 3"],
    extents: Float[Tensor, "B 2"],
    boxes: Float[Tensor, "B 4"],
    flipped: Bool[Tensor, "B"],
    size: int,
    columns_first: bool,
) -> Float[Tensor, "B 3 S S"]:
    """Return the boxes of the images, resized as Pillow's resize(box=...) does: in two passes, clipped after each."""
    pixels = images.transpose(2, 3).to(torch.float32, memory_format=torch.contiguous_format)
    batch, height, channels, width = pixels.shape
    left, top, right, bottom = boxes.unbind(1)
    centers = (torch.arange(size, dtype=torch.float32, device=images.device) + 0.5).expand(batch, -1)
    mirrored = torch.where(flipped[:, None], size - centers, centers)
    across = bicubic_matrix(left, right, extents[:, 1], mirrored, width).mT
    down = bicubic_matrix(top, bottom, extents[:, 0], centers, height)
    if columns_first:
        columns = torch.bmm(down, pixels.view(batch, height, channels * width)).clamp_(0, 255)
        crop = torch.bmm(columns.view(batch, size * channels, width), across)
    else:
        rows = torch.bmm(pixels.view(batch, height * channels, width), across).clamp_(0, 255)
        crop = torch.bmm(down, rows.view(batch, height, channels * size))
    return crop.view(batch, size, channels, size).transpose(1, 2).clamp_(0, 255)


def bicubic_matrix(
    starts: Float[Tensor, "B"], ends: Float[Tensor, "B"], extents: Float[Tensor, "B"], centers: Float[Tensor, "B S"], inputs: int
) -> Float[Tensor, "B S N"]:
    """Return the matrices that resize the range from starts to ends of a row: [i, j] weighs input j in output i.

    The kernel is Keys' with a = -1/2, stretched to the width of an output pixel where that is wider than an input pixel.
    Pixels outside the range count, those outside the image (from extents on) do not.

    Args:
        starts: left or upper edge of the range.
        ends: right or lower edge.
        extents: width or height of the image without padding.
        centers: center of each output pixel, in output pixels.
        inputs: input pixels, with padding.
    """
    scales = ((ends - starts) / centers.shape[1])[:, None]
    input_centers = starts[:, None] + centers * scales
    pixels = torch.arange(inputs, dtype=torch.float32, device=starts.device) + 0.5
    pixels = torch.where(pixels < extents[:, None], pixels, torch.inf)  # infinitely far: weight 0
    distances = (pixels[:, None] - input_centers[..., None]).abs_().div_(scales.clamp(min=1)[..., None])
    weights = keys_kernel(distances)
    return weights.div_(weights.sum(2, keepdim=True))


def keys_kernel(distances: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Return the cubic convolution kernel (Keys 1981), its two pieces as one formula without branches."""
    outer, inner = (2 - distances).clamp_(min=0), (1 - distances).clamp_(min=0)
    return (outer - 1).mul_(outer.square_()).mul_(0.5).add_((1 - 2 * inner).mul_(inner.square_()))
