"""A view is torchvision's random resized crop, drawn from a generator that belongs to the sample."""

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_pipeline.config.data import IMAGENET_MEAN, IMAGENET_STD, ViewsConfig
from jepa_pipeline.data.random import Stream, keyed_generator
from jepa_pipeline.data.views import centre_view, normalize, random_resized_crop_box, random_view

GRADIENT = Image.fromarray(np.stack(np.broadcast_arrays(*np.ogrid[0:60, 0:90], 7), -1).astype(np.uint8))


def reference_box(size: tuple[int, int], config: ViewsConfig, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """The algorithm as torchvision documents it, one number at a time."""
    width, height = size
    for _ in range(10):
        area = width * height * generator.uniform(*config.crop_scale)
        aspect = np.exp(generator.uniform(*np.log(config.crop_aspect)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = generator.integers(0, height - h + 1), generator.integers(0, width - w + 1)
            return left, top, left + w, top + h
    low, high = config.crop_aspect
    w, h = width, height
    if width / height < low:
        h = round(width / low)
    elif width / height > high:
        w = round(height * high)
    return (width - w) // 2, (height - h) // 2, (width - w) // 2 + w, (height - h) // 2 + h


@pytest.mark.parametrize("size", [(90, 60), (30, 100), (17, 17)])
def test_crops_are_distributed_as_the_reference(size: tuple[int, int]):
    config = ViewsConfig(crop_scale=(0.2, 1.0))
    ours = np.array([random_resized_crop_box(size, config, keyed_generator(0, Stream.VIEW, 0, n)) for n in range(4000)])
    generator = np.random.default_rng(0)
    theirs = np.array([reference_box(size, config, generator) for _ in range(4000)])
    noise = np.sqrt((ours.var(0) + theirs.var(0)) / 4000)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * noise).all()
    assert np.abs(ours.std(0) / theirs.std(0) - 1).max() < 0.06
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 2:] <= size).all()
    assert (ours[:, 2:] > ours[:, :2]).all()


@pytest.mark.parametrize("size", [(400, 3), (3, 400), (1, 1), (300, 200)])
def test_an_image_no_crop_fits_gets_the_reference_fallback(size: tuple[int, int]):
    config = ViewsConfig(crop_scale=(1.0, 1.0), crop_aspect=(1.1, 1.2))
    expected = reference_box(size, config, np.random.default_rng(0))
    assert random_resized_crop_box(size, config, np.random.default_rng(0)) == expected


def test_a_view_is_the_crop_resized_once():
    config = ViewsConfig(crop_scale=(0.3, 0.6))
    view = random_view(GRADIENT, config, 32, keyed_generator(0, Stream.VIEW, 0, 5))
    box = random_resized_crop_box(GRADIENT.size, config, keyed_generator(0, Stream.VIEW, 0, 5))
    expected = np.asarray(GRADIENT.crop(box).resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert view.shape == (3, 32, 32)
    assert view.dtype == np.uint8
    assert np.abs(view.astype(int) - expected).max() <= 2  # resize with a box also sees the pixels just outside it


def test_flips_are_keyed_and_leave_the_crop_alone():
    never, always = ViewsConfig(flip=0.0), ViewsConfig(flip=1.0)
    sometimes = ViewsConfig(flip=0.5)
    flipped = []
    for sample in range(200):
        views = [random_view(GRADIENT, c, 8, keyed_generator(0, Stream.VIEW, 0, sample)) for c in (never, always, sometimes)]
        assert (views[0][:, :, ::-1] == views[1]).all()
        flipped.append(bool((views[2] == views[1]).all()))
        assert flipped[-1] or (views[2] == views[0]).all()
    assert 70 < sum(flipped) < 130


def test_the_centre_view_keeps_the_whole_shorter_side():
    view = centre_view(GRADIENT, 60)
    assert (view == np.asarray(GRADIENT)[:, 15:75].transpose(2, 0, 1)).all()
    assert centre_view(GRADIENT, 24).shape == (3, 24, 24)


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 3, 6, 5, 4)])
def test_normalize_is_the_usual_formula_for_images_and_clips(shape: tuple[int, ...]):
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(-1, *[1] * (len(shape) - 2)) for v in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(normalize(pixels, IMAGENET_MEAN, IMAGENET_STD), (pixels / 255 - mean) / std)
