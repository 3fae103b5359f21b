"""Images to views of them: a crop and resize, perhaps mirrored, perhaps changed in color."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Float64, Num, UInt8
from PIL import Image
from torch import Tensor

from jepa_pipeline.batch import Uncut
from jepa_pipeline.config.views import RGB, CropConfig, ViewsConfig
from jepa_pipeline.data.augment import NUMBERS, augment, choose_colors, pack

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in whole pixels; right and bottom are outside."""

TRIES = 10
AT_ONCE = 8
"""Views that a worker colors together; few enough for the cache."""


def random_resized_crop_box(size: tuple[int, int], config: CropConfig, generator: np.random.Generator) -> Box:
    """The box of a random crop of an image of size (width, height), in whole pixels.

    The algorithm of torchvision's RandomResizedCrop: area uniform in scale, aspect log-uniform in aspect, ten tries to
    fit, then the largest centered box within aspect. It always draws the same count of numbers.
    """
    width, height = size
    areas = generator.uniform(*config.scale, TRIES) * width * height
    narrow, wide = config.aspect
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


def random_crop(size: tuple[int, int], config: CropConfig, generator: np.random.Generator) -> tuple[Box, bool]:
    """The box of a random crop and whether it is mirrored."""
    return random_resized_crop_box(size, config, generator), generator.random() < config.flip


def random_view(
    image: Image.Image, config: CropConfig, image_size: int, generator: np.random.Generator
) -> UInt8[np.ndarray, "C H W"]:
    """A random resized crop of an RGB image, image_size pixels square, bicubic with antialiasing, mirrored with chance flip."""
    box, flipped = random_crop(image.size, config, generator)
    pixels = resized(image, box, image_size)
    return pixels[:, :, ::-1] if flipped else pixels


class WorkerViews:
    """The views of a micro-batch, cut from one image after the other and colored a few at a time, as uint8."""

    def __init__(self, config: ViewsConfig, image_size: int, count: int) -> None:
        self.added = 0
        self.views = [
            (kind, empty_pixels(count, size), np.zeros((count, NUMBERS)) if kind.colors else None)
            for kind, size in zip(config.kinds, config.sizes(image_size), strict=True)
        ]

    def add(self, image: Image.Image, generators: Sequence[np.random.Generator]) -> None:
        """The next image, with a generator for each view."""
        for (kind, pixels, numbers), generator in zip(self.views, generators, strict=True):
            pixels[self.added] = random_view(image, kind, pixels.shape[-1], generator)
            if numbers is not None:
                numbers[self.added] = generator.random(NUMBERS)
        self.added += 1

    def finish(self) -> tuple[list[UInt8[Tensor, "B C _ _"]], None]:
        """The views."""
        for kind, pixels, numbers in self.views:
            if numbers is not None:
                color(pixels, numbers, kind)
        return [torch.from_numpy(pixels) for _, pixels, _ in self.views], None


class TrainerViews:
    """A micro-batch of whole images with all that was drawn for its views, for the device to cut them. It draws as WorkerViews."""

    def __init__(self, config: ViewsConfig, image_size: int, count: int) -> None:
        self.kinds, self.sizes, self.largest_side = config.kinds, config.sizes(image_size), config.largest_side
        self.images: list[UInt8[np.ndarray, "_ _ 3"]] = []
        self.count, views = count, len(self.kinds)
        self.boxes, self.flipped = np.zeros((views, count, 4), np.float32), np.zeros((views, count), np.bool_)
        self.columns_first = np.zeros((views, count), np.bool_)
        self.numbers = np.ones((views, count, NUMBERS))

    def add(self, image: Image.Image, generators: Sequence[np.random.Generator]) -> None:
        """The next image, with a generator for each view."""
        row, small = len(self.images), shrunk(image, self.largest_side)
        for view, (kind, generator) in enumerate(zip(self.kinds, generators, strict=True)):
            box, self.flipped[view, row] = random_crop(image.size, kind, generator)
            self.boxes[view, row] = box if small is image else np.array(box) / (2 * image.size) * (2 * small.size)
            self.columns_first[view, row] = columns_first(small.size, self.sizes[view])
            if kind.colors:
                self.numbers[view, row] = generator.random(NUMBERS)
        self.images.append(np.asarray(small))

    def finish(self) -> tuple[list[Tensor], Uncut]:
        """No views, but all they are made of."""
        colors = [choose_colors(numbers, kind) for numbers, kind in zip(self.numbers, self.kinds, strict=True)]
        extents = torch.ones(self.count, 2)
        extents[: len(self.images)] = torch.tensor([image.shape[:2] for image in self.images])
        return [], Uncut(
            images=padded(self.images, self.count),
            extents=extents,
            boxes=torch.from_numpy(self.boxes),
            flipped=torch.from_numpy(self.flipped),
            sizes=self.sizes,
            order=torch.from_numpy(self.columns_first.argsort(axis=1, kind="stable")),
            rows_first=(self.count - self.columns_first.sum(1)).tolist(),
            colors=pack([tensor for view in colors for tensor in view[1:]]),
            turned_per_slot=[view.turned_per_slot for view in colors],
        )


def shrunk(image: Image.Image, largest_side: int) -> Image.Image:
    """The image, or a smaller one if its longer side is longer."""
    longer = max(image.size)
    if longer <= largest_side:
        return image
    width, height = (max(1, round(side * largest_side / longer)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def columns_first(size: tuple[int, int], image_size: int) -> bool:
    """Whether Pillow (13) resizes the columns of an image before its rows. It shows where a step overshoots and is clipped."""
    width, height = size
    return height > image_size and height - image_size > 2 * (width - image_size)


def padded(images: Sequence[UInt8[np.ndarray, "_ _ 3"]], count: int) -> UInt8[Tensor, "B 3 H W"]:
    """Images with black on the right and below, all as large as the largest, and black ones up to count."""
    height, width = (max(sides) for sides in zip(*(image.shape[:2] for image in images), strict=True))
    pixels = np.zeros((count, height, width, 3), np.uint8)
    for place, image in zip(pixels, images, strict=False):
        place[: image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)  # channels last, as they were decoded: to reorder them here takes long


def empty_pixels(count: int, image_size: int) -> UInt8[np.ndarray, "B C H W"]:
    return np.empty((count, 3, image_size, image_size), np.uint8)


def color(pixels: UInt8[np.ndarray, "B C H W"], numbers: Float64[np.ndarray, "B N"], config: CropConfig) -> None:
    """Change the colors of views in place."""
    with single_thread():
        for start in range(0, len(pixels), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            views = torch.from_numpy(pixels[rows])
            views.copy_(augment(views, choose_colors(numbers[rows], config)).round_())


@contextmanager
def single_thread() -> Iterator[None]:
    """As in a worker, so that sums are rounded as there."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def center_view(image: Image.Image, image_size: int) -> UInt8[np.ndarray, "C H W"]:
    """The centered square of an RGB image with the whole of its shorter side, image_size pixels square: the view of evaluation."""
    side = min(image.size)
    return resized(image, corner_box((image.width - side) // 2, (image.height - side) // 2, side, side), image_size)


def resized(image: Image.Image, box: Box, image_size: int) -> UInt8[np.ndarray, "C H W"]:
    view = image.resize((image_size, image_size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(view).transpose(2, 0, 1)


def normalize(pixels: Num[Tensor, "B C *T H W"], mean: RGB, std: RGB) -> Float[Tensor, "B C *T H W"]:
    """Pixels of 0..255 scaled to 0..1, less mean, over std, in fp32 on the device they are on; called after the transfer."""
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
