"""How a view changes in color: jitter, gray, blur and solarization, of a whole batch at once on any device.

Values are of 0..255. What is drawn are the published augmentations (Grill et al. 2020, appendix B; torchvision's ColorJitter,
RandomGrayscale, GaussianBlur and RandomSolarize), but nothing is rounded between two of them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Num
from torch import Tensor

from jepa_pipeline.batch import Packed
from jepa_pipeline.config.views import CropConfig, JitterConfig

NUMBERS = 13
"""Uniform random numbers of a view: is it jittered, four for the order, four for the amounts, is it gray, is it blurred, the
deviation, is it solarized. A fixed place for each, so that a change of one probability leaves all else as it was."""

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
ALIGNMENT = 8
"""Bytes of the largest dtype that is packed."""


class Colors(NamedTuple):
    """What changes in one view of each image of a batch. The host knows which, so the device is never asked.

    Jitter takes four slots in an order that differs from view to view. In a slot a view becomes the sum of itself, its mean
    gray and its gray, times slots[slot]; in one of the four its hue turns instead.

    turned_per_slot: how many hues turn in each slot; jittered, greyed, blurred, solarized: rows of the batch;
    turned: places among the jittered, in the order of the slots; turns: of the color circle; sigmas: in pixels.
    """

    turned_per_slot: list[int]
    jittered: Int64[Tensor, "J"]
    slots: Float[Tensor, "4 3 J"]
    turned: Int64[Tensor, "Q"]
    turns: Float[Tensor, "Q"]
    greyed: Int64[Tensor, "R"]
    blurred: Int64[Tensor, "S"]
    sigmas: Float[Tensor, "S"]
    solarized: Int64[Tensor, "Z"]


def choose_colors(numbers: Float64[np.ndarray, "B N"], config: CropConfig) -> Colors:
    """What these uniform numbers, NUMBERS for each view, mean for views of this kind."""
    blur = config.blur
    blurred = np.flatnonzero(numbers[:, 10] < (blur.probability if blur else 0.0))
    low, high = blur.sigma if blur else (1.0, 1.0)
    return Colors(
        *choose_jitter(numbers[:, :9], config.jitter or JitterConfig(probability=0.0)),
        greyed=torch.from_numpy(np.flatnonzero(numbers[:, 9] < config.gray)),
        blurred=torch.from_numpy(blurred),
        sigmas=as_floats(low + (high - low) * numbers[blurred, 11]),
        solarized=torch.from_numpy(np.flatnonzero(numbers[:, 12] < config.solarize)),
    )


def choose_jitter(
    numbers: Float64[np.ndarray, "B N"], config: JitterConfig
) -> tuple[list[int], Int64[Tensor, "J"], Float[Tensor, "4 3 J"], Int64[Tensor, "Q"], Float[Tensor, "Q"]]:
    """The first five fields of Colors."""
    rows = np.flatnonzero(numbers[:, 0] < config.probability)
    order = numbers[rows, 1:5].argsort(1)
    amounts = 2 * numbers[rows, 5:9] - 1
    factors = 1 + amounts * (config.brightness, config.contrast, config.saturation, 0.0)
    own = np.take_along_axis(factors, order, 1).T
    slots = np.stack([own, (1 - own) * (order.T == CONTRAST), (1 - own) * (order.T == SATURATION)], 1)
    slot_of_hue = (order == HUE).argmax(1)
    turned = slot_of_hue.argsort(kind="stable") if config.hue else rows[:0]
    turns = config.hue * amounts[turned, HUE]
    per_slot = np.bincount(slot_of_hue[turned], minlength=4).tolist()
    return per_slot, torch.from_numpy(rows), as_floats(slots), torch.from_numpy(turned), as_floats(turns)


def as_floats(values: Float64[np.ndarray, "..."]) -> Float[Tensor, "..."]:
    return torch.tensor(values, dtype=torch.float32)


def pack(tensors: Sequence[Tensor]) -> Packed:
    """Many small tensors as one; between processes and to a device each would cost as much as a large one."""
    parts = [tensor.numpy().tobytes() for tensor in tensors]
    data = bytearray().join(part + bytes(ALIGNMENT - len(part) % ALIGNMENT) for part in parts)
    return Packed(torch.from_numpy(np.array(data, np.uint8)), [(tensor.dtype, list(tensor.shape)) for tensor in tensors])


def unpack(packed: Packed) -> list[Tensor]:
    """The tensors, on the device on which they are, sharing its memory."""
    tensors, start = [], 0
    for dtype, shape in packed.kinds:
        length = dtype.itemsize * int(np.prod(shape))
        tensors.append(packed.data[start : start + length].view(dtype).view(shape))
        start += length + ALIGNMENT - length % ALIGNMENT
    return tensors


def augment(pixels: Num[Tensor, "B 3 H W"], colors: Colors) -> Float[Tensor, "B 3 H W"]:
    """The views with their colors changed, in fp32; floats are changed in place. Views that no step touches are not read."""
    pixels = pixels.float()
    change(pixels, colors.jittered, lambda views: jitter(views, colors))
    change(pixels, colors.greyed, lambda views: gray(views).expand_as(views))
    change(pixels, colors.blurred, lambda views: blur(views, colors.sigmas))
    change(pixels, colors.solarized, solarize)
    return pixels


def change(pixels: Tensor, rows: Int64[Tensor, "R"], operation: Callable[[Tensor], Tensor]) -> None:
    if len(rows):
        pixels.index_copy_(0, rows, operation(pixels.index_select(0, rows)))


def jitter(pixels: Float[Tensor, "J 3 H W"], colors: Colors) -> Float[Tensor, "J 3 H W"]:
    """Views with brightness, contrast, saturation and hue changed, each in its own order; in place."""
    ends = np.cumsum(colors.turned_per_slot).tolist()
    for slot, end, count in zip(colors.slots, ends, colors.turned_per_slot, strict=True):
        own, mean, colorless = slot[..., None, None, None]
        grays = gray(pixels)
        reference = torch.addcmul(mean_grey(grays) * mean, grays, colorless)
        torch.addcmul(reference, pixels, own, out=pixels).clamp_(0, 255)
        turns = colors.turns[end - count : end]
        change(pixels, colors.turned[end - count : end], lambda views, turns=turns: turn_hue(views, turns))
    return pixels


def gray(pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
    """Luma of ITU-R BT.601, with torchvision's digits."""
    red, green, blue = pixels.split(1, dim=1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def mean_grey(grays: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 1 1 1"]:
    """Mean of the grays in whole levels: their sum has no rounding, so that it is the same in any order of adding."""
    total = grays.round().sum(-1, keepdim=True).sum(-2, keepdim=True, dtype=torch.float64)
    return (total / (grays.shape[-1] * grays.shape[-2])).float()


def turn_hue(pixels: Float[Tensor, "B 3 H W"], turns: Float[Tensor, "B"]) -> Float[Tensor, "B 3 H W"]:
    """Views with the hue of HSV turned by these shares of the color circle."""
    red, green, blue = pixels.unbind(1)
    most = pixels.amax(1)
    chroma = most - pixels.amin(1)
    divisor = chroma.clamp(min=torch.finfo(torch.float32).tiny)
    of_green, of_blue = (blue - red).div_(divisor).add_(2), (red - green).div_(divisor).add_(4)
    sixths = torch.where(most == red, (green - blue).div_(divisor), torch.where(most == green, of_green, of_blue))
    sixths.add_(6 * turns[:, None, None])
    for channel, offset in enumerate((5, 3, 1)):
        place = torch.remainder(sixths + offset, 6)
        share = torch.minimum(place, 4 - place).clamp_(0, 1)
        torch.addcmul(most, chroma, share, value=-1, out=pixels[:, channel])
    return pixels


def blur(pixels: Float[Tensor, "B 3 S S"], sigmas: Float[Tensor, "B"]) -> Float[Tensor, "B 3 S S"]:
    """Views convolved with Gaussians of these deviations in pixels, mirrored at the edges."""
    batch, channels, size, _ = pixels.shape
    weights = gaussian(sigmas, size)
    rows = torch.bmm(pixels.view(batch, channels * size, size), weights.mT)
    return torch.matmul(weights[:, None], rows.view(pixels.shape))


def gaussian(sigmas: Float[Tensor, "B"], size: int) -> Float[Tensor, "B N N"]:
    """Row i: what each of so many pixels weighs in the blurred pixel i, itself and its mirror images beyond both edges."""
    far, last = 2 * size - 1, size - 1
    gaps = torch.arange(far + 1, device=sigmas.device)
    heights = (gaps / sigmas[:, None]).square_().mul_(-0.5).exp_()
    heights = torch.threshold_(heights, 1e-12, 0)  # products with numbers too small to matter take long
    heights.select(1, far).zero_()
    places = gaps[:size]
    itself, left = (places[:, None] - places).abs(), places[:, None] + places
    right = (2 * last - left).masked_fill_(places == last, far)
    left.masked_fill_(places == 0, far)
    weights = torch.stack([heights.index_select(1, gap.flatten()) for gap in (itself, left, right)]).sum(0)
    weights = weights.view(-1, size, size)
    return weights.div_(weights.sum(2, keepdim=True))


def solarize(pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Views with the values of 128 and above inverted. As a minimum it has no jump that a rounded value could fall on."""
    return torch.minimum(pixels, 255 - pixels)
