"""Color augmentation of views: jitter, grayscale, blur and solarization, for a whole batch at once on any device.

Values are in 0..255. The operations are the published ones (Grill et al. 2020, appendix B; torchvision's ColorJitter,
RandomGrayscale, GaussianBlur and RandomSolarize), but nothing is rounded between two of them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Num
from torch import Tensor

from jepa_pipeline.batch import Packed
from jepa_pipeline.config.crop import CropConfig, JitterConfig

NUMBERS_PER_VIEW = 13
"""Uniform random numbers per view: whether to jitter, four for the order, four for the amounts, whether to turn gray, whether
to blur, the blur's deviation, whether to solarize. Each has a fixed column, so that changing one probability changes nothing
else."""

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ALIGNMENT = 8
"""Bytes of the largest dtype that is packed; a tensor's memory must be aligned to its dtype."""


class ColorOps(NamedTuple):
    """The color operations on one view of each image of a batch.

    Jitter applies its four operations in four slots, in an order that differs between views. Brightness, contrast and
    saturation have one form: in a slot, a view becomes the weighted sum of itself, its mean gray and its grayscale, with
    the weights factors[slot]. In the slot of hue, the weights are (1, 0, 0), and its hue is shifted instead.

    Args:
        hues_per_slot: number of views whose hue is shifted in each slot; on the host, so that it never waits for the device.
        jittered: rows of the batch.
        factors: weights of the view, its mean gray and its grayscale.
        hue_rows: indices into jittered of the views whose hue is shifted, ordered by slot.
        hue_shifts: shift of each, as a share of the color circle.
        grayed: rows of the batch.
        blurred: rows of the batch.
        sigmas: standard deviation of each blur in pixels.
        solarized: rows of the batch.
    """

    hues_per_slot: list[int]
    jittered: Int64[Tensor, "J"]
    factors: Float[Tensor, "4 3 J"]
    hue_rows: Int64[Tensor, "Q"]
    hue_shifts: Float[Tensor, "Q"]
    grayed: Int64[Tensor, "R"]
    blurred: Int64[Tensor, "S"]
    sigmas: Float[Tensor, "S"]
    solarized: Int64[Tensor, "Z"]


def derive_color_ops(numbers: Float64[np.ndarray, "B N"], config: CropConfig) -> ColorOps:
    """Return the operations on views of this kind, given NUMBERS_PER_VIEW uniform numbers for each."""
    blur = config.blur
    blurred = np.flatnonzero(numbers[:, 10] < (blur.probability if blur else 0.0))
    low, high = blur.sigma if blur else (1.0, 1.0)
    return ColorOps(
        *derive_jitter(numbers[:, :9], config.jitter or JitterConfig(probability=0.0)),
        grayed=torch.from_numpy(np.flatnonzero(numbers[:, 9] < config.gray)),
        blurred=torch.from_numpy(blurred),
        sigmas=as_float32(low + (high - low) * numbers[blurred, 11]),
        solarized=torch.from_numpy(np.flatnonzero(numbers[:, 12] < config.solarize)),
    )


def derive_jitter(
    numbers: Float64[np.ndarray, "B N"], config: JitterConfig
) -> tuple[list[int], Int64[Tensor, "J"], Float[Tensor, "4 3 J"], Int64[Tensor, "Q"], Float[Tensor, "Q"]]:
    """Return the first five fields of ColorOps."""
    rows = np.flatnonzero(numbers[:, 0] < config.probability)
    order = numbers[rows, 1:5].argsort(1)
    amounts = 2 * numbers[rows, 5:9] - 1
    strengths = 1 + amounts * (config.brightness, config.contrast, config.saturation, 0.0)
    own = np.take_along_axis(strengths, order, 1).T
    factors = np.stack([own, (1 - own) * (order.T == CONTRAST), (1 - own) * (order.T == SATURATION)], 1)
    slot_of_hue = (order == HUE).argmax(1)
    hue_rows = slot_of_hue.argsort(kind="stable") if config.hue else rows[:0]
    shifts = config.hue * amounts[hue_rows, HUE]
    per_slot = np.bincount(slot_of_hue[hue_rows], minlength=4).tolist()
    return per_slot, torch.from_numpy(rows), as_float32(factors), torch.from_numpy(hue_rows), as_float32(shifts)


def as_float32(values: Float64[np.ndarray, "..."]) -> Float[Tensor, "..."]:
    return torch.tensor(values, dtype=torch.float32)


def pack(tensors: Sequence[Tensor]) -> Packed:
    """Pack small tensors into one; sent between processes or to a device, each would cost as much as a large one."""
    parts = [tensor.numpy().tobytes() for tensor in tensors]
    data = bytearray().join(part + bytes(ALIGNMENT - len(part) % ALIGNMENT) for part in parts)
    return Packed(torch.from_numpy(np.array(data, np.uint8)), [(tensor.dtype, list(tensor.shape)) for tensor in tensors])


def unpack(packed: Packed) -> list[Tensor]:
    """Return the packed tensors as views of the packed memory, on its device."""
    tensors, start = [], 0
    for dtype, shape in packed.specs:
        length = dtype.itemsize * int(np.prod(shape))
        tensors.append(packed.data[start : start + length].view(dtype).view(shape))
        start += length + ALIGNMENT - length % ALIGNMENT
    return tensors


def augment(pixels: Num[Tensor, "B C H W"], ops: ColorOps) -> Float[Tensor, "B C H W"]:
    """Return the views with their colors changed, in fp32; float views are changed in place."""
    pixels = pixels.float()
    change_rows(pixels, ops.jittered, lambda views: jitter(views, ops))
    change_rows(pixels, ops.grayed, lambda views: to_grayscale(views).expand_as(views))
    change_rows(pixels, ops.blurred, lambda views: blur(views, ops.sigmas))
    change_rows(pixels, ops.solarized, solarize)
    return pixels


def change_rows(pixels: Tensor, rows: Int64[Tensor, "R"], operation: Callable[[Tensor], Tensor]) -> None:
    if len(rows):
        pixels.index_copy_(0, rows, operation(pixels.index_select(0, rows)))


def jitter(pixels: Float[Tensor, "J 3 H W"], ops: ColorOps) -> Float[Tensor, "J 3 H W"]:
    """Change brightness, contrast, saturation and hue of views in place, each view in its own order."""
    ends = np.cumsum(ops.hues_per_slot).tolist()
    for factors, end, count in zip(ops.factors, ends, ops.hues_per_slot, strict=True):
        own, of_mean, of_gray = factors[..., None, None, None]
        gray = to_grayscale(pixels)
        blend = torch.addcmul(mean_gray(gray) * of_mean, gray, of_gray)
        torch.addcmul(blend, pixels, own, out=pixels).clamp_(0, 255)
        shifts = ops.hue_shifts[end - count : end]
        change_rows(pixels, ops.hue_rows[end - count : end], lambda views, shifts=shifts: adjust_hue(views, shifts))
    return pixels


def to_grayscale(pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
    """Return the luma of ITU-R BT.601, with torchvision's digits."""
    red, green, blue = pixels.split(1, dim=1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def mean_gray(gray: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 1 1 1"]:
    """Return the mean of the gray values, each rounded."""
    # sums of whole numbers are exact, so that they do not depend on the order in which a device adds
    total = gray.round().sum(-1, keepdim=True).sum(-2, keepdim=True, dtype=torch.float64)
    return (total / (gray.shape[-1] * gray.shape[-2])).float()


def adjust_hue(pixels: Float[Tensor, "B 3 H W"], shifts: Float[Tensor, "B"]) -> Float[Tensor, "B 3 H W"]:
    """Shift the hue (of HSV) of views in place, by shares of the color circle."""
    red, green, blue = pixels.unbind(1)
    value = pixels.amax(1)
    chroma = value - pixels.amin(1)
    divisor = chroma.clamp(min=torch.finfo(torch.float32).tiny)
    if_green, if_blue = (blue - red).div_(divisor).add_(2), (red - green).div_(divisor).add_(4)
    hue = torch.where(value == red, (green - blue).div_(divisor), torch.where(value == green, if_green, if_blue))
    hue.add_(6 * shifts[:, None, None])  # in sixths of the circle
    # HSV to RGB with one formula per channel: f(n) = V - C max(0, min(k, 4 - k, 1)), k = (n + hue) mod 6, n = 5, 3, 1
    for channel, offset in enumerate((5, 3, 1)):
        k = torch.remainder(hue + offset, 6)
        share = torch.minimum(k, 4 - k).clamp_(0, 1)
        torch.addcmul(value, chroma, share, value=-1, out=pixels[:, channel])
    return pixels


def blur(pixels: Float[Tensor, "B C S S"], sigmas: Float[Tensor, "B"]) -> Float[Tensor, "B C S S"]:
    """Return views convolved with Gaussians of these deviations in pixels, with reflected borders."""
    batch, channels, size, _ = pixels.shape
    weights = gaussian_matrix(sigmas, size)
    rows = torch.bmm(pixels.view(batch, channels * size, size), weights.mT)
    return torch.matmul(weights[:, None], rows.view(pixels.shape))


def gaussian_matrix(sigmas: Float[Tensor, "B"], size: int) -> Float[Tensor, "B N N"]:
    """Return the matrices that blur a row of `size` pixels: [i, j] weighs input j and its reflections in output i."""
    # the weight at distance `none` is 0: for reflections that do not exist
    none, last = 2 * size - 1, size - 1
    distances = torch.arange(none + 1, device=sigmas.device)
    heights = (distances / sigmas[:, None]).square_().mul_(-0.5).exp_()
    heights = torch.threshold_(heights, 1e-12, 0)  # denormal products are slow and do not matter
    heights.select(1, none).zero_()
    index = distances[:size]
    direct, left = (index[:, None] - index).abs(), index[:, None] + index
    right = (2 * last - left).masked_fill_(index == last, none)  # reflection does not repeat the edge pixel
    left.masked_fill_(index == 0, none)
    weights = torch.stack([heights.index_select(1, distance.flatten()) for distance in (direct, left, right)]).sum(0)
    weights = weights.view(-1, size, size)
    return weights.div_(weights.sum(2, keepdim=True))


def solarize(pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Return views with values of 128 and above inverted."""
    # as a minimum it is continuous: a value that rounds differently on another device does not jump
    return torch.minimum(pixels, 255 - pixels)
