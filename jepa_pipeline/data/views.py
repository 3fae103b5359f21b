"""An image to a view of it: one crop and resize, perhaps mirrored."""

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from jepa_pipeline.config.data import RGB, ViewsConfig

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in whole pixels; right and bottom are outside."""

TRIES = 10


def random_resized_crop_box(size: tuple[int, int], config: ViewsConfig, generator: np.random.Generator) -> Box:
    """The box of a random crop of an image of size (width, height), in whole pixels.

    The algorithm of torchvision's RandomResizedCrop: area uniform in crop_scale, aspect log-uniform in crop_aspect, ten tries
    to fit, then the largest centred box within crop_aspect. It always draws the same count of numbers.
    """
    width, height = size
    areas = generator.uniform(*config.crop_scale, TRIES) * width * height
    narrow, wide = config.crop_aspect
    aspects = np.exp(generator.uniform(math.log(narrow), math.log(wide), TRIES))
    left, top = generator.random(2)
    for area, aspect in zip(areas.tolist(), aspects.tolist(), strict=True):
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return corner_box(int(left * (width - w + 1)), int(top * (height - h + 1)), w, h)
    w = min(width, max(1, round(height * wide)))
    h = min(height, max(1, round(width / narrow)))
    return corner_box((width - w) // 2, (height - h) // 2, w, h)


def corner_box(left: int, top: int, width: int, height: int) -> Box:
    return left, top, left + width, top + height


def random_view(
    image: Image.Image, config: ViewsConfig, image_size: int, generator: np.random.Generator
) -> UInt8[np.ndarray, "C H W"]:
    """A random resized crop of an RGB image, image_size pixels square, bicubic with antialiasing, mirrored with chance flip."""
    box = random_resized_crop_box(image.size, config, generator)
    pixels = resized(image, box, image_size)
    return pixels[:, :, ::-1] if generator.random() < config.flip else pixels


def centre_view(image: Image.Image, image_size: int) -> UInt8[np.ndarray, "C H W"]:
    """The centred square of an RGB image with the whole of its shorter side, image_size pixels square: the view of evaluation."""
    side = min(image.size)
    return resized(image, corner_box((image.width - side) // 2, (image.height - side) // 2, side, side), image_size)


def resized(image: Image.Image, box: Box, image_size: int) -> UInt8[np.ndarray, "C H W"]:
    view = image.resize((image_size, image_size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(view).transpose(2, 0, 1)


def normalize(pixels: UInt8[Tensor, "B C *T H W"], mean: RGB, std: RGB) -> Float[Tensor, "B C *T H W"]:
    """Pixels scaled to 0..1, less mean, over std, in fp32 on the device they are on; called after the transfer."""
    shift, scale = channel_factors(mean, std, pixels.device)
    shape = (-1, *[1] * (pixels.ndim - 2))
    return torch.addcmul(shift.view(shape), pixels, scale.view(shape))


@lru_cache(maxsize=8)
def channel_factors(mean: RGB, std: RGB, device: torch.device) -> tuple[Tensor, Tensor]:
    """Shift and scale of each channel, kept on the device so that no step waits for a copy."""
    with torch.inference_mode(False):
        return as_tensor((-m / s for m, s in zip(mean, std, strict=True)), device), as_tensor((1 / (255 * s) for s in std), device)


def as_tensor(values: Iterable[float], device: torch.device) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32, device=device)
