"""Crop, resize and mirror as products of matrices: a device cuts a whole batch at once, as Pillow would each image."""

from itertools import islice

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from jepa_pipeline.batch import Uncut
from jepa_pipeline.data.augment import Colors, augment, unpack

AT_ONCE = 64
"""Images that are floats at a time; of 640 pixels square they take 315 MB."""


def cut(uncut: Uncut) -> list[Float[Tensor, "B 3 _ _"]]:
    """The views, of values 0..255, on the device on which the images are and without its host ever waiting for it."""
    images, tensors = uncut.images.permute(0, 2, 3, 1), iter(unpack(uncut.colors))
    crops = zip(uncut.boxes, uncut.flipped, uncut.order, uncut.sizes, uncut.rows_first, uncut.turned_per_slot, strict=True)
    views = []
    for boxes, flipped, order, size, rows_first, turned_per_slot in crops:
        view = images.new_empty((len(images), 3, size, size), dtype=torch.float32)
        for rows, columns_first in ((order[:rows_first], False), (order[rows_first:], True)):
            for part in rows.split(AT_ONCE):
                pixels, extents, *where = (tensor.index_select(0, part) for tensor in (images, uncut.extents, boxes, flipped))
                view.index_copy_(0, part, crop(pixels, extents, where[0], where[1], size, columns_first))
        views.append(augment(view, Colors(turned_per_slot, *islice(tensors, len(Colors._fields) - 1))))
    return views


def crop(
    images: UInt8[Tensor, "B H W 3"],
    extents: Float[Tensor, "B 2"],
    boxes: Float[Tensor, "B 4"],
    flipped: Bool[Tensor, "B"],
    size: int,
    columns_first: bool,
) -> Float[Tensor, "B 3 S S"]:
    """The boxes of the images, resized as Pillow's resize(box=...) does: in two steps, clipped after each."""
    pixels = images.transpose(2, 3).to(torch.float32, memory_format=torch.contiguous_format)
    batch, height, channels, width = pixels.shape
    left, top, right, bottom = boxes.unbind(1)
    middles = (torch.arange(size, dtype=torch.float32, device=images.device) + 0.5).expand(batch, -1)
    mirrored = torch.where(flipped[:, None], size - middles, middles)
    across = bicubic(left, right, extents[:, 1], mirrored, width).mT
    down = bicubic(top, bottom, extents[:, 0], middles, height)
    if columns_first:
        columns = torch.bmm(down, pixels.view(batch, height, channels * width)).clamp_(0, 255)
        cut = torch.bmm(columns.view(batch, size * channels, width), across)
    else:
        rows = torch.bmm(pixels.view(batch, height * channels, width), across).clamp_(0, 255)
        cut = torch.bmm(down, rows.view(batch, height, channels * size))
    return cut.view(batch, size, channels, size).transpose(1, 2).clamp_(0, 255)


def bicubic(
    starts: Float[Tensor, "B"], ends: Float[Tensor, "B"], extents: Float[Tensor, "B"], middles: Float[Tensor, "B S"], inputs: int
) -> Float[Tensor, "B S N"]:
    """Row i: what each of so many pixels weighs in the pixel with its middle at middles[i] of a resized range.

    Keys' kernel with a = -1/2, as wide as an output pixel where that is wider than one of the image. Pixels outside the
    range count, those outside the image do not.
    """
    scales = ((ends - starts) / middles.shape[1])[:, None]
    centers = starts[:, None] + middles * scales
    places = torch.arange(inputs, dtype=torch.float32, device=starts.device) + 0.5
    places = torch.where(places < extents[:, None], places, torch.inf)
    distances = (places[:, None] - centers[..., None]).abs_().div_(scales.clamp(min=1)[..., None])
    weights = keys(distances)
    return weights.div_(weights.sum(2, keepdim=True))


def keys(distances: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """The cubic convolution kernel (Keys 1981), its two pieces as one formula."""
    outer, inner = (2 - distances).clamp_(min=0), (1 - distances).clamp_(min=0)
    return (outer - 1).mul_(outer.square_()).mul_(0.5).add_((1 - 2 * inner).mul_(inner.square_()))
