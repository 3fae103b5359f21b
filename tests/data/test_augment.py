"""Each color operation equals torchvision's, with numbers of its own for every view of a batch, at the configured rate."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

import jepa_pipeline._torchvision  # noqa: F401  # before torchvision
from jepa_pipeline.config.crop import BlurConfig, CropConfig, JitterConfig
from jepa_pipeline.config.views import ViewsConfig
from jepa_pipeline.data import augment
from jepa_pipeline.data.augment import NUMBERS_PER_VIEW, ColorOps, derive_color_ops, pack, unpack
from jepa_pipeline.data.gpu_crop import crop_views
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.views import DeferredViews, normalize

NO_ROWS = torch.zeros(0, dtype=torch.int64)
NOTHING = ColorOps([0] * 4, NO_ROWS, torch.zeros(4, 3, 0), NO_ROWS, torch.zeros(0), NO_ROWS, NO_ROWS, torch.zeros(0), NO_ROWS)
FACTORS = [0.0, 0.3, 1.0, 1.7]


@pytest.fixture
def pixels() -> torch.Tensor:
    """Four views: noise, slow colors, grays, and pure colors among which two channels are often equal."""
    noise = torch.randint(256, (3, 20, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    slow = torch.stack((*torch.meshgrid(torch.arange(20) * 12, torch.arange(24) * 10, indexing="ij"), torch.full((20, 24), 77)))
    return torch.stack([noise, slow.byte(), noise[:1].expand(3, -1, -1), noise // 128 * 255])


def jittered(pixels: torch.Tensor, row: int, factors: list[float]) -> torch.Tensor:
    """Jitter in one slot, toward black (row 0), the mean gray (1) or the grayscale (2)."""
    weights = torch.zeros(4, 3, 4)
    weights[:, 0] = 1
    weights[2, 0] = torch.tensor(factors)
    if row:
        weights[2, row] = 1 - weights[2, 0]
    return augment.augment(pixels, NOTHING._replace(jittered=torch.arange(4), factors=weights))


@pytest.mark.parametrize(
    ("row", "reference"),
    [(0, functional.adjust_brightness), (1, functional.adjust_contrast), (2, functional.adjust_saturation)],
    ids=["brightness", "contrast", "saturation"],
)
def test_blends_are_torchvisions(pixels, row, reference):
    """torchvision truncates its results for bytes, and the grays before it takes their mean."""
    ours = jittered(pixels, row, FACTORS)
    exact = torch.stack([255 * reference(view / 255, factor) for view, factor in zip(pixels, FACTORS, strict=True)])
    assert (ours - exact).abs().max() < (0.05 if row == 1 else 1e-3)
    bytes_ = torch.stack([reference(view, factor) for view, factor in zip(pixels, FACTORS, strict=True)])
    assert (ours - bytes_).abs().max() < 2


def test_hue_is_torchvisions(pixels):
    shifts = torch.tensor([-0.5, 0.13, 0.3, -0.07])
    weights = torch.zeros(4, 3, 4)
    weights[:, 0] = 1
    colors = NOTHING._replace(
        jittered=torch.arange(4), factors=weights, hue_rows=torch.arange(4), hue_shifts=shifts, hues_per_slot=[1, 0, 2, 1]
    )
    ours = augment.augment(pixels, colors)
    exact = torch.stack([255 * functional.adjust_hue(view / 255, float(shift)) for view, shift in zip(pixels, shifts, strict=True)])
    torch.testing.assert_close(ours, exact, atol=0.01, rtol=0)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_torchvisions_with_a_kernel_as_wide_as_the_view(pixels, sigma):
    square = pixels[..., :20]
    ours = augment.augment(square, NOTHING._replace(blurred=torch.tensor([0, 1, 3]), sigmas=torch.full((3,), sigma)))
    exact = torch.stack([functional.gaussian_blur(view.float(), [39, 39], [sigma, sigma]) for view in square])
    exact[2] = square[2]
    torch.testing.assert_close(ours, exact, atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [1, 2])
def test_tiny_views_can_be_blurred(size):
    views = torch.full((2, 3, size, size), 7.0)
    blurred = augment.augment(views.clone(), NOTHING._replace(blurred=torch.arange(2), sigmas=torch.tensor([1e-20, 9.0])))
    torch.testing.assert_close(blurred, views)


def test_gray_and_solarized_views_are_torchvisions(pixels):
    colors = NOTHING._replace(grayed=torch.tensor([1, 3]), solarized=torch.tensor([0, 1]))
    ours = augment.augment(pixels, colors)
    assert torch.equal(ours[0], functional.solarize(pixels[0], 128).float())
    gray = 255 * functional.rgb_to_grayscale(pixels / 255, num_output_channels=3)
    torch.testing.assert_close(ours[1], torch.where(gray[1] > 127.5, 255 - gray[1], gray[1]), atol=1e-3, rtol=0)
    assert torch.equal(ours[2], pixels[2].float())
    torch.testing.assert_close(ours[3], gray[3], atol=1e-3, rtol=0)


def test_a_jitter_is_torchvisions_four_calls_in_the_sampled_order(pixels):
    config = CropConfig(jitter=JitterConfig(probability=1.0, brightness=0.4, contrast=0.5, saturation=0.6, hue=0.2))
    numbers = np.random.default_rng(3).random((4, NUMBERS_PER_VIEW))
    ours = augment.augment(pixels, derive_color_ops(numbers, config))
    calls = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation, functional.adjust_hue)
    orders = set()
    for view, row, result in zip(pixels / 255, numbers, ours, strict=True):
        amounts = 2 * row[5:9] - 1
        for call in row[1:5].argsort():
            view = calls[call](view, float(0.2 * amounts[3] if call == 3 else 1 + (0.4, 0.5, 0.6)[call] * amounts[call]))
        orders.add(tuple(row[1:5].argsort()))
        assert (255 * view - result).abs().max() < 0.1
    assert len(orders) == 4


def test_rates_and_strengths_are_as_configured():
    config = CropConfig(
        jitter=JitterConfig(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
        gray=0.2,
        blur=BlurConfig(probability=0.3, sigma=(0.5, 1.5)),
        solarize=0.1,
    )
    count = 20000
    numbers = np.stack([keyed_generator(0, Stream.VIEW, 0, sample).random(NUMBERS_PER_VIEW) for sample in range(count)])
    colors = derive_color_ops(numbers, config)
    for rows, share in zip((colors.jittered, colors.grayed, colors.blurred, colors.solarized), (0.8, 0.2, 0.3, 0.1), strict=True):
        assert len(rows) / count == pytest.approx(share, abs=4 * (share * (1 - share) / count) ** 0.5)
    assert colors.sigmas.min() >= 0.5 and colors.sigmas.max() <= 1.5 and colors.sigmas.mean() == pytest.approx(1, abs=0.02)
    assert colors.hue_shifts.abs().max() <= 0.1 and colors.hue_shifts.std() == pytest.approx(0.2 / 12**0.5, rel=0.03)
    assert np.array(colors.hues_per_slot) / len(colors.jittered) == pytest.approx([0.25] * 4, abs=0.02)
    own, mean, gray = colors.factors.unbind(1)
    assert (mean.count_nonzero(1) / own.shape[1]).tolist() == pytest.approx([0.25] * 4, abs=0.02)
    assert (1 - own)[gray != 0].abs().max() <= 0.2 + 1e-6
    assert (1 - own)[gray == 0].abs().max() == pytest.approx(0.4, abs=0.001)


def test_packed_tensors_come_back_as_they_were():
    tensors = [torch.arange(3), torch.zeros(4, 3, 0), torch.rand(4, 3, 5), NO_ROWS, torch.tensor([True, False, True])]
    for before, after in zip(tensors, unpack(pack(tensors)), strict=True):
        assert before.dtype == after.dtype
        assert torch.equal(before, after)


@pytest.fixture
def no_sync():
    """The modes in which a wait is an error."""
    spec = spec_from_file_location("no_sync", Path(__file__).parents[1] / "training/test_no_sync.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_views_are_made_without_waiting_for_the_device(no_sync):
    config = ViewsConfig.model_validate(
        {"crops": [{"count": 2, "jitter": {"hue": 0.1, "contrast": 0.4}, "gray": 0.5, "blur": {}, "solarize": 0.5, "flip": 0.5}]}
    )
    views = DeferredViews(config, 16, 12)
    for sample in range(12):
        image = Image.new("RGB", (10 + sample, 50 - 3 * sample), (sample, 200, 9))
        views.add(image, [keyed_generator(0, Stream.VIEW, 0, sample, view) for view in range(2)])
    _, uncut = views.finish()
    assert all(0 < first < 12 for first in uncut.rows_first)
    normalize(torch.zeros(1, 3, 1, 1), config.mean, config.std)  # constants are made once
    with no_sync.NoWaitingOperators(), no_sync.NoCopies():
        pixels = [normalize(view, config.mean, config.std) for view in crop_views(uncut)]
    assert [view.shape for view in pixels] == [(12, 3, 16, 16)] * 2
