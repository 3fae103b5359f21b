"""Views are resized by the formulas of the papers' code: with antialiasing as Pillow does, without as torch and TensorFlow do."""

from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from test_views import SHAPES, both, noise, photograph
from torch.nn import functional as F

from jepa_pipeline.config.crop import Resampling
from jepa_pipeline.config.views import ViewsConfig
from jepa_pipeline.data.resample import resized_crop

NOISE = noise(90, 60)
PIXELS = torch.from_numpy(np.array(NOISE)).permute(2, 0, 1).float()


def test_antialiased_views_are_pillows_and_so_torchvisions():
    for name, resample in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        expected = np.asarray(NOISE.resize((32, 32), resample)).transpose(2, 0, 1)
        assert (resized_crop(NOISE, (0, 0, 90, 60), 32, Resampling(name, antialias=True)) == expected).all()


@pytest.mark.parametrize(
    ("box", "size"), [((0, 0, 90, 60), 32), ((7, 3, 83, 55), 32), ((20, 10, 40, 58), 16), ((0, 0, 90, 60), 128)]
)
def test_bilinear_views_without_antialiasing_are_torchs(box, size):
    """What V-JEPA calls; enlarged crops inside an image also see the pixels around them, as under every option."""
    left, top, right, bottom = box
    crop = PIXELS[None, :, top:bottom, left:right]
    expected = F.interpolate(crop, (size, size), mode="bilinear", align_corners=False)[0].numpy()
    view = resized_crop(NOISE, box, size, Resampling("bilinear", antialias=False))
    assert view.dtype == np.uint8 and np.abs(view - expected).max() <= 0.5 + 1e-3


def keys(distance: float) -> float:
    """The cubic convolution kernel, piece by piece."""
    if distance < 1:
        return 1.5 * distance**3 - 2.5 * distance**2 + 1
    return -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2 if distance < 2 else 0.0


def test_bicubic_views_without_antialiasing_are_sums_of_the_nearest_sixteen_pixels():
    """One output pixel after the other, in float64; TensorFlow 2 leaves out pixels beyond the border."""
    image, box, size = np.array(NOISE, np.float64), (4, 30, 80, 60), 12
    view = resized_crop(NOISE, box, size, Resampling("bicubic", antialias=False))
    for row, column in product(range(size), repeat=2):
        y, x = box[1] + (row + 0.5) * 30 / size, box[0] + (column + 0.5) * 76 / size
        down = np.array([keys(abs(pixel + 0.5 - y)) for pixel in range(60)])
        across = np.array([keys(abs(pixel + 0.5 - x)) for pixel in range(90)])
        expected = np.einsum("i,j,ijc->c", down / down.sum(), across / across.sum(), image).clip(0, 255)
        assert np.abs(view[:, row, column] - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_workers_and_device_resize_alike(interpolation, antialias):
    views = {"crops": [{"scale": (0.08, 1.0), "flip": 0.5}], "interpolation": interpolation, "antialias": antialias}
    for draw in (noise, photograph):
        (workers,), (device,) = both(ViewsConfig.model_validate(views), [draw(*shape) for shape in SHAPES])
        assert (workers - device).abs().max() < 1.2


def test_views_differ_between_the_options():
    made = {
        options: both(ViewsConfig(interpolation=options[0], antialias=options[1]), [noise(200, 150)])[0][0]
        for options in product(("bicubic", "bilinear"), (True, False))
    }
    assert len({view.numpy().tobytes() for view in made.values()}) == len(made)
