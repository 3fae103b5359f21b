"""A view is torchvision's random resized crop, sampled from a generator that belongs to the sample."""

import numpy as np
import pytest
import torch
from PIL import Image
from streams import load_stream

import jepa_pipeline._torchvision  # noqa: F401  # before timm
import timm
from jepa_pipeline.config.crop import CropConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.views import IMAGENET_MEAN, IMAGENET_STD, ViewsConfig
from jepa_pipeline.data.gpu_crop import crop_views
from jepa_pipeline.data.resample import square_views
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.views import DeferredViews, ImageViews, center_view, normalize, random_resized_crop_box, random_view
from jepa_pipeline.data.writer import png_record, write_shards

GRADIENT = Image.fromarray(np.stack(np.broadcast_arrays(*np.ogrid[0:60, 0:90], 7), -1).astype(np.uint8))


def reference_box(size: tuple[int, int], config: CropConfig, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """The algorithm as torchvision documents it, one number at a time."""
    width, height = size
    for _ in range(10):
        area = width * height * generator.uniform(*config.scale)
        aspect = np.exp(generator.uniform(*np.log(config.aspect)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = generator.integers(0, height - h + 1), generator.integers(0, width - w + 1)
            return left, top, left + w, top + h
    low, high = config.aspect
    w, h = width, height
    if width / height < low:
        h = round(width / low)
    elif width / height > high:
        w = round(height * high)
    return (width - w) // 2, (height - h) // 2, (width - w) // 2 + w, (height - h) // 2 + h


@pytest.mark.parametrize("size", [(90, 60), (30, 100), (17, 17)])
def test_crops_are_distributed_as_the_reference(size: tuple[int, int]):
    config = CropConfig(scale=(0.2, 1.0))
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
    config = CropConfig(scale=(1.0, 1.0), aspect=(1.1, 1.2))
    expected = reference_box(size, config, np.random.default_rng(0))
    assert random_resized_crop_box(size, config, np.random.default_rng(0)) == expected


def test_a_view_is_the_crop_resized_once():
    config = CropConfig(scale=(0.3, 0.6))
    view = random_view(GRADIENT, config, 32, keyed_generator(0, Stream.VIEW, 0, 5))
    box = random_resized_crop_box(GRADIENT.size, config, keyed_generator(0, Stream.VIEW, 0, 5))
    expected = np.asarray(GRADIENT.crop(box).resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert view.shape == (3, 32, 32)
    assert view.dtype == np.uint8
    assert np.abs(view.astype(int) - expected).max() <= 2  # resize with a box also sees the pixels just outside it


def test_flips_are_keyed_and_leave_the_crop_alone():
    never, always = CropConfig(flip=0.0), CropConfig(flip=1.0)
    sometimes = CropConfig(flip=0.5)
    flipped = []
    for sample in range(200):
        views = [random_view(GRADIENT, c, 8, keyed_generator(0, Stream.VIEW, 0, sample)) for c in (never, always, sometimes)]
        assert (views[0][:, :, ::-1] == views[1]).all()
        flipped.append(bool((views[2] == views[1]).all()))
        assert flipped[-1] or (views[2] == views[0]).all()
    assert 70 < sum(flipped) < 130


def test_the_center_view_keeps_the_whole_shorter_side():
    view = center_view(GRADIENT, 60)
    assert (view == np.asarray(GRADIENT)[:, 15:75].transpose(2, 0, 1)).all()
    assert center_view(GRADIENT, 24).shape == (3, 24, 24)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (37, 91), (91, 37), (9, 5), (1, 30), (64, 64), (30, 33), (200, 2)])
@pytest.mark.parametrize("side", [24, 32, 37])
def test_evaluation_sees_what_users_of_an_export_see(size, side):
    """To the digit; noise, since nothing differs more where squares are cut before they are resized."""
    image, card = noise(*size), {"interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"}  # as timm_config writes it
    theirs = timm.data.create_transform((3, side, side), mean=(0, 0, 0), std=(1, 1, 1), **card)(image)
    assert ((255 * theirs).round().to(torch.uint8).numpy() == center_view(image, side)).all()


def test_an_endless_image_is_not_resized_as_a_whole(monkeypatch):
    """That would take 1.5 GB here, and more than any machine has for one row of as many pixels as are allowed."""
    columns = np.linspace(0, 255, 30_000, dtype=np.float32)
    image = Image.fromarray(np.broadcast_to(columns[None, :, None], (2, 30_000, 3)).astype(np.uint8))
    resize, asked = Image.Image.resize, []

    def record(image, size, *arguments, **options):
        asked.append(size)
        return resize(image, size, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", record)
    view, ends = center_view(image, 160), square_views(image, 160, 3)
    assert set(asked) == {(160, 160)} and (ends[1] == view).all()
    assert [view.min(), view.max(), ends[0].max(), ends[2].min()] == pytest.approx([127, 127, 0, 255], abs=1)


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 3, 6, 5, 4)])
def test_normalize_is_the_usual_formula_for_images_and_clips(shape: tuple[int, ...]):
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(-1, *[1] * (len(shape) - 2)) for v in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(normalize(pixels, IMAGENET_MEAN, IMAGENET_STD), (pixels / 255 - mean) / std)


JITTER = {"probability": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
EVERYTHING = {"scale": (0.08, 1.0), "flip": 0.5, "jitter": JITTER, "gray": 0.2, "blur": {}, "solarize": 0.2}
SHAPES = [(50, 37), (33, 50), (20, 15), (17, 90), (120, 9), (24, 24), (1, 40), (40, 1), (1, 1), (5, 5), (200, 150), (70, 200)]


def noise(width: int, height: int) -> Image.Image:
    """Black and white in each channel: nothing overshoots more where it is resized."""
    pixels = np.random.default_rng((width, height)).integers(0, 2, (height, width, 3), np.uint8)
    return Image.fromarray(255 * pixels)


def photograph(width: int, height: int) -> Image.Image:
    """Colors that change as slowly as a photograph's."""
    return noise(1 + width // 6, 1 + height // 6).resize((width, height), Image.Resampling.BICUBIC)


def make(maker: type[ImageViews] | type[DeferredViews], config: ViewsConfig, images: list[Image.Image], size: int = 24):
    views = maker(config, size, len(images))
    for sample, image in enumerate(images):
        views.add(image, [keyed_generator(0, Stream.VIEW, 3, sample, view) for view in range(len(config.kinds))])
    return views.finish()


def both(config: ViewsConfig, images: list[Image.Image], size: int = 24):
    """Return the views as the workers and as the training device make them."""
    (workers, _), (nothing, uncut) = (make(maker, config, images, size) for maker in (ImageViews, DeferredViews))
    assert nothing == []
    return workers, crop_views(uncut, config.resampling)


ONE_BY_ONE = {
    "crop": ({}, 1.2),
    "flip": ({"flip": 0.5}, 1.2),
    "brightness": ({"jitter": {"brightness": 0.4}}, 2.2),
    "contrast": ({"jitter": {"contrast": 0.4}}, 2.2),
    "saturation": ({"jitter": {"saturation": 0.4}}, 2.5),
    "hue": ({"jitter": {"hue": 0.1}}, 4),
    "jitter": ({"jitter": JITTER}, 6),
    "gray": ({"gray": 0.5}, 1.7),
    "blur": ({"blur": {"probability": 1.0}}, 1.7),
    "solarize": ({"solarize": 0.5}, 1.2),
    "everything": (EVERYTHING, 6),
}


@pytest.mark.parametrize("draw", [noise, photograph])
@pytest.mark.parametrize(("kind", "limit"), ONE_BY_ONE.values(), ids=ONE_BY_ONE.keys())
def test_workers_and_device_make_the_same_views(draw, kind, limit: float):
    """Within a gray level, because Pillow rounds once more; jitter multiplies rounded values by up to 1.4, repeatedly."""
    images = [draw(*shape) for shape in SHAPES for _ in range(3)]
    (workers,), (trainer,) = both(ViewsConfig.model_validate({"crops": [{"scale": (0.08, 1.0), **kind}]}), images)
    difference = (workers - trainer).abs()
    assert difference.max() < limit
    assert difference.mean() < 0.5
    assert (difference > 2).float().mean() < 2e-3


def test_batches_larger_than_a_chunk(monkeypatch: pytest.MonkeyPatch):
    images, config = [noise(*shape) for shape in SHAPES], ViewsConfig.model_validate({"crops": [EVERYTHING]})
    uncut = make(DeferredViews, config, images)[1]
    whole = crop_views(uncut)[0]
    monkeypatch.setattr("jepa_pipeline.data.gpu_crop.CHUNK", 5)
    torch.testing.assert_close(crop_views(uncut)[0], whole, atol=0.01, rtol=0)


def test_large_images_are_shrunk_first_and_cropped_at_the_same_place(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jepa_pipeline.data.views.LARGEST_SIDE", 150)
    images = [photograph(300, 200), photograph(100, 301), photograph(150, 150)]
    config = ViewsConfig(crops=(CropConfig(scale=(0.3, 1.0)),))
    uncut = make(DeferredViews, config, images)[1]
    assert uncut.images.shape == (3, 3, 150, 150)
    assert uncut.extents.tolist() == [[100, 150], [150, 50], [150, 150]]
    workers, trainer = both(config, images)
    assert (workers[0] - trainer[0]).abs().mean() < 1.5
    assert (workers[0][2] - trainer[0][2]).abs().max() < 1.2


def test_views_of_several_kinds_have_their_sizes_and_order():
    config = ViewsConfig(
        crops=(CropConfig(count=2, flip=0.5), CropConfig(count=3, image_size=10, scale=(0.1, 0.3)), CropConfig(image_size=31))
    )
    workers, trainer = both(config, [photograph(60, 40), photograph(30, 70)])
    assert [tuple(view.shape) for view in workers] == [(2, 3, size, size) for size in (24, 24, 10, 10, 10, 31)]
    for ours, theirs in zip(workers, trainer, strict=True):
        assert (ours - theirs).abs().max() < 1.2
    assert not torch.equal(workers[0], workers[1])


def test_a_view_does_not_depend_on_the_batch_it_is_in():
    """Crops are equal to the last bit; colors may round to the next gray level, because sums depend on the batch."""
    images = [photograph(*shape) for shape in SHAPES]
    for kind, share in (({"flip": 0.5}, 0.0), (EVERYTHING, 1e-4)):
        config = ViewsConfig.model_validate({"crops": [{**kind, "count": 2}]})
        (_, many), few = make(ImageViews, config, images)[0], [make(ImageViews, config, images[:n])[0][1] for n in (1, 3, 9)]
        for views in few:
            difference = (views.float() - many[: len(views)]).abs()
            assert difference.max() <= 1
            assert (difference > 0).float().mean() <= share


def test_the_first_view_and_its_crop_do_not_depend_on_other_settings():
    image = photograph(70, 50)
    alone = make(ImageViews, ViewsConfig(crops=(CropConfig(flip=0.5),)), [image])[0][0]
    more = ViewsConfig.model_validate({"crops": [{"flip": 0.5, "count": 2, "solarize": 1e-12, "jitter": {"probability": 0.0}}]})
    assert torch.equal(make(ImageViews, more, [image])[0][0], alone)
    generator = keyed_generator(0, Stream.VIEW, 3, 0)
    assert (random_view(image, CropConfig(flip=0.5), 24, generator) == alone[0].numpy()).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    images = [photograph(*SHAPES[n % len(SHAPES)]) for n in range(24)]
    records = (png_record(f"k{n:02d}", image, n % 2) for n, image in enumerate(images))
    place = tmp_path_factory.mktemp("shards") / "set"
    write_shards(records, place, classes=("a", "b"), made={})
    return place


def run(folder, workers: int) -> RunConfig:
    """A run of a method that takes one view, given three."""
    config = RunConfig.model_validate(
        {
            "name": "test",
            "data": {"train": folder, "workers": workers},
            "method": {"name": "ijepa", "encoder": {"image_size": 16, "patch_size": 1, "embed_dim": 8, "depth": 1, "num_heads": 1}},
            "optim": {"batch_size_global": 8, "total_samples": 48},
        }
    )
    views = {"crops": [{**EVERYTHING, "count": 2}, {"image_size": 6, "jitter": JITTER}]}
    return config.model_copy(update={"views": ViewsConfig.model_validate(views)})


@pytest.mark.parametrize("uncut", [False, True])
def test_workers_do_not_change_views(folder, uncut: bool):
    alone, team, later = (
        [crop_views(batch.deferred_crops) if batch.deferred_crops else batch.views for batch in loader]
        for loader in (
            load_stream(run(folder, 0), [], crop_on_device=uncut),
            load_stream(run(folder, 2), [], crop_on_device=uncut),
            load_stream(run(folder, 0), [], start_samples=16, crop_on_device=uncut),
        )
    )
    assert len(alone) == len(team) == 6
    for first, second in [*zip(alone, team, strict=True), *zip(alone[2:], later, strict=True)]:
        assert [tuple(view.shape) for view in first] == [(8, 3, 16, 16), (8, 3, 16, 16), (8, 3, 6, 6)]
        assert all(map(torch.equal, first, second))


def test_deferred_batches_hold_decoded_images_and_no_views(folder):
    batch = next(iter(load_stream(run(folder, 0), [], crop_on_device=True)))
    assert batch.views == [] and len(batch.keys) == 8
    assert batch.deferred_crops.images.dtype == torch.uint8
    assert batch.deferred_crops.images.shape == (8, 3, *batch.deferred_crops.extents.amax(0).int().tolist())
    assert batch.deferred_crops.sizes == [16, 16, 6]


def test_normalize_accepts_floats_and_bytes():
    pixels = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    assert torch.equal(*(normalize(values, IMAGENET_MEAN, IMAGENET_STD) for values in (pixels, pixels.float())))
