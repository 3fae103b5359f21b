"""Pictures, for the eye, of images of any channels."""

import torch
from jaxtyping import Num, UInt8
from torch import Tensor

from jepa_pipeline.config.pixel_format import RGB_CHANNELS


def to_picture(pixels: Num[Tensor, "C *T H W"]) -> UInt8[Tensor, "3 *T H W"]:
    """Return an image or clip as 8-bit RGB: as it is, or in false colors.

    These show the first three channels, or one channel as gray, with the least value black and the largest white.
    """
    if len(pixels) == RGB_CHANNELS and pixels.dtype == torch.uint8:
        return pixels
    shown = (pixels if len(pixels) >= RGB_CHANNELS else pixels[:1].expand(RGB_CHANNELS, *pixels.shape[1:]))[:RGB_CHANNELS].float()
    low, high = shown.aminmax()
    return ((shown - low) * (255 / (high - low).clamp(min=1e-6))).round().byte()
