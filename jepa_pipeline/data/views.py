"""Images to views: a crop and resize, optionally mirrored and changed in color."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Float64, Num
from PIL import Image
from torch import Tensor

from jepa_pipeline.batch import DeferredCrops
from jepa_pipeline.config.crop import CropConfig, Resampling
from jepa_pipeline.config.pixel_format import RGB8, PerChannel, PixelFormat
from jepa_pipeline.config.views import ViewsConfig
from jepa_pipeline.data.augment import NUMBERS_PER_VIEW, augment, derive_color_ops, pack
from jepa_pipeline.data.raster import WIDEN, Box, Levels, Raster, as_array
from jepa_pipeline.data.resample import DEFAULT_RESAMPLING, resized_crop, square_views

TRIES = 10
"""Boxes that are tried before the fallback, as in torchvision."""
LARGEST_SIDE = 640
"""Pixels to which the longer side of an image is shrunk before it is sent to the device that crops it."""
COLOR_CHUNK = 8
"""Views that a worker changes in color at once; few enough for the CPU's cache."""


def random_resized_crop_box(size: tuple[int, int], config: CropConfig, generator: np.random.Generator) -> Box:
    """Return the box of a random crop of an image of size (width, height), in whole pixels.

    The algorithm of torchvision's RandomResizedCrop: area uniform in scale, aspect ratio log-uniform in aspect, ten tries to
    fit, then the largest centered box within aspect. Unlike there, the count of numbers drawn does not depend on the tries.
    """
    width, height = size
    areas = generator.uniform(*config.scale, TRIES) * width * height
    narrow, wide = config.aspect
    aspects = np.exp(generator.uniform(math.log(narrow), math.log(wide), TRIES))
    left, top = generator.random(2)
    for area, aspect in zip(areas.tolist(), aspects.tolist(), strict=True):
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return make_box(int(left * (width - w + 1)), int(top * (height - h + 1)), w, h)
    w = min(width, max(1, round(height * wide)))
    h = min(height, max(1, round(width / narrow)))
    return make_box((width - w) // 2, (height - h) // 2, w, h)


def make_box(left: int, top: int, width: int, height: int) -> Box:
    return left, top, left + width, top + height


def sample_crop(size: tuple[int, int], config: CropConfig, generator: np.random.Generator) -> tuple[Box, bool]:
    """Return the box of a random crop and whether it is mirrored."""
    return random_resized_crop_box(size, config, generator), generator.random() < config.flip


def random_view(
    image: Image.Image | Raster,
    config: CropConfig,
    image_size: int,
    generator: np.random.Generator,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> Levels:
    """Return a random resized crop of an image, "C H W", image_size pixels square, mirrored with probability flip."""
    box, flipped = sample_crop(image.size, config, generator)
    pixels = resized_crop(image, box, image_size, resampling)
    return pixels[:, :, ::-1] if flipped else pixels


class ImageViews:
    """The views of a batch of images in their form, cropped by a worker one image at a time, then changed in color."""

    def __init__(self, config: ViewsConfig, image_size: int, batch_size: int, form: PixelFormat = RGB8) -> None:
        self.added, self.resampling = 0, config.resampling
        self.views = [
            (kind, allocate_pixels(batch_size, size, form), np.zeros((batch_size, NUMBERS_PER_VIEW)) if kind.colors else None)
            for kind, size in zip(config.kinds, config.sizes(image_size), strict=True)
        ]

    def add(self, image: Image.Image | Raster, generators: Sequence[np.random.Generator]) -> None:
        """Add the views of the next image, with one generator per view."""
        for (kind, pixels, numbers), generator in zip(self.views, generators, strict=True):
            pixels[self.added] = random_view(image, kind, pixels.shape[-1], generator, self.resampling)
            if numbers is not None:
                numbers[self.added] = generator.random(NUMBERS_PER_VIEW)
        self.added += 1

    def finish(self) -> tuple[list[Num[Tensor, "B C _ _"]], None]:
        """Return the views, and no deferred crops."""
        for kind, pixels, numbers in self.views:
            if numbers is not None:
                change_colors(pixels, numbers, kind)
        return [torch.from_numpy(pixels) for _, pixels, _ in self.views], None


class DeferredViews:
    """A batch of whole images with the parameters of their views, for the device to crop.

    It draws the same numbers as ImageViews.
    """

    def __init__(self, config: ViewsConfig, image_size: int, batch_size: int) -> None:
        self.kinds, self.sizes, self.largest_side = config.kinds, config.sizes(image_size), LARGEST_SIDE
        self.images: list[Levels] = []
        self.batch_size, views = batch_size, len(self.kinds)
        self.boxes, self.flipped = np.zeros((views, batch_size, 4), np.float32), np.zeros((views, batch_size), np.bool_)
        self.columns_first = np.zeros((views, batch_size), np.bool_)
        self.numbers = np.ones((views, batch_size, NUMBERS_PER_VIEW))  # above every probability: no color changes

    def add(self, image: Image.Image | Raster, generators: Sequence[np.random.Generator]) -> None:
        """Add the next image and sample its views, with one generator per view."""
        row, small = len(self.images), shrink(image, self.largest_side)
        for view, (kind, generator) in enumerate(zip(self.kinds, generators, strict=True)):
            box, self.flipped[view, row] = sample_crop(image.size, kind, generator)
            # (width, height) twice, to scale left, top, right and bottom
            self.boxes[view, row] = box if small is image else np.array(box) / (2 * image.size) * (2 * small.size)
            self.columns_first[view, row] = resizes_columns_first(small.size, self.sizes[view])
            if kind.colors:
                self.numbers[view, row] = generator.random(NUMBERS_PER_VIEW)
        self.images.append(as_array(small))

    def finish(self) -> tuple[list[Tensor], DeferredCrops]:
        """Return no views, and the deferred crops."""
        colors = [derive_color_ops(numbers, kind) for numbers, kind in zip(self.numbers, self.kinds, strict=True)]
        extents = torch.ones(self.batch_size, 2)
        extents[: len(self.images)] = torch.tensor([image.shape[:2] for image in self.images])
        return [], DeferredCrops(
            images=pad_images(self.images, self.batch_size),
            extents=extents,
            boxes=torch.from_numpy(self.boxes),
            flipped=torch.from_numpy(self.flipped),
            sizes=self.sizes,
            order=torch.from_numpy(self.columns_first.argsort(axis=1, kind="stable")),
            rows_first=(self.batch_size - self.columns_first.sum(1)).tolist(),
            colors=pack([tensor for view in colors for tensor in view[1:]]),
            hues_per_slot=[view.hues_per_slot for view in colors],
        )


def shrink(image: Image.Image | Raster, largest_side: int) -> Image.Image | Raster:
    """Return the image, made smaller if its longer side exceeds largest_side."""
    longer = max(image.size)
    if longer <= largest_side:
        return image
    width, height = (max(1, round(side * largest_side / longer)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def resizes_columns_first(size: tuple[int, int], image_size: int) -> bool:
    """Return whether Pillow (13) resizes the columns of an image before its rows.

    The order shows where the first pass overshoots 0..255 and is clipped.
    """
    width, height = size
    return height > image_size and height - image_size > 2 * (width - image_size)


def pad_images(images: Sequence[Levels], count: int) -> Num[Tensor, "B C H W"]:
    """Stack images, "H W C" each, padded with black on the right and below to the largest, and fill up with black ones to count."""
    height, width = (max(sides) for sides in zip(*(image.shape[:2] for image in images), strict=True))
    pixels = np.zeros((count, height, width, images[0].shape[2]), images[0].dtype)
    for row, image in zip(pixels, images, strict=False):
        row[: image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)  # a view: the bytes stay channels-last, since reordering is slow


def allocate_pixels(count: int, image_size: int, form: PixelFormat = RGB8) -> Levels:
    return np.empty((count, form.channels, image_size, image_size), form.dtype)


def change_colors(pixels: Levels, numbers: Float64[np.ndarray, "B N"], config: CropConfig) -> None:
    """Change the colors of views in place."""
    with single_thread():
        for start in range(0, len(pixels), COLOR_CHUNK):
            rows = slice(start, start + COLOR_CHUNK)
            views, ops = torch.from_numpy(pixels[rows]), derive_color_ops(numbers[rows], config)
            if views.dtype == torch.uint8:
                views.copy_(augment(views, ops).round_())
            else:  # colors are changed in 0..255
                views.copy_(augment(views / WIDEN, ops).mul_(WIDEN).round_())


@contextmanager
def single_thread() -> Iterator[None]:
    """Use one thread, as workers do, so that sums round the same without workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def center_view(image: Image.Image | Raster, image_size: int) -> Levels:
    """Return the view of evaluation, "C H W", the center of an image; see square_views."""
    return square_views(image, image_size)[0]


def normalize(pixels: Num[Tensor, "B C *T H W"], mean: PerChannel, std: PerChannel) -> Float[Tensor, "B C *T H W"]:
    """Return pixels scaled to 0..1, less mean, over std, in fp32; called on the device, after the transfer.

    1 is 65535 in pixels of 16 bits (uint16), and 255 in those of 8 bits and in floats.
    """
    deep = pixels.dtype == torch.uint16
    shift, scale = channel_factors(mean, std, pixels.device, 65535 if deep else 255)
    shape = (-1, *[1] * (pixels.ndim - 2))
    return torch.addcmul(shift.view(shape), pixels.float() if deep else pixels, scale.view(shape))


@lru_cache(maxsize=8)  # kept on the device, so that no step waits for a copy
def channel_factors(mean: PerChannel, std: PerChannel, device: torch.device, largest: int) -> tuple[Tensor, Tensor]:
    # cached tensors made in inference mode could not be used in training afterwards
    with torch.inference_mode(False):
        shifts, scales = (-m / s for m, s in zip(mean, std, strict=True)), (1 / (largest * s) for s in std)
        return as_tensor(shifts, device), as_tensor(scales, device)


def as_tensor(values: Iterable[float], device: torch.device) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32, device=device)
