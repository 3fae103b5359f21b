"""Images of any number of channels keep every level, from any format, on the way to the encoder."""

import re
import struct
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageOps
from test_image import png

from jepa_pipeline.batch import Batch
from jepa_pipeline.checks.data import check_data, decode_sample
from jepa_pipeline.commands.check_config import check_config
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.parse import load_overrides
from jepa_pipeline.config.pixel_format import RGB8, PixelFormat
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.views import ViewsConfig
from jepa_pipeline.data.channel_stats import compute_raster_stats, mean_and_std
from jepa_pipeline.data.dataset import read_decoded
from jepa_pipeline.data.decode import decode_image, inspect_image
from jepa_pipeline.data.gpu_crop import crop_views
from jepa_pipeline.data.loader import build_batch_sampler, train_loader
from jepa_pipeline.data.manifest import Manifest, StoredPixels
from jepa_pipeline.data.media import check_stored
from jepa_pipeline.data.media_files import MediaFiles
from jepa_pipeline.data.media_folder import MediaFile
from jepa_pipeline.data.picture import to_picture
from jepa_pipeline.data.prepare import prepare
from jepa_pipeline.data.raster import Raster
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.sample import DecodeError, TooLarge
from jepa_pipeline.data.shard_report import ShardReport
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.data.tar_samples import TarSample
from jepa_pipeline.data.views import DeferredViews, ImageViews, center_view, normalize
from jepa_pipeline.data.writer import image_record, write_shards
from jepa_pipeline.training.setup import hash_data

SIDES = (20, 28)
DEEP = np.random.default_rng(0).integers(0, 1 << 16, (*SIDES, 16), np.uint16)
"""Every level of 16 bits may occur, also those that differ in the lower byte alone."""
SHALLOW = (DEEP >> 8).astype(np.uint8)


def npy(values: np.ndarray) -> bytes:
    stream = BytesIO()
    np.save(stream, values, allow_pickle=True)
    return stream.getvalue()


def by_pillow(values: np.ndarray, form: str, mode: str | None = None, **options: object) -> bytes:
    stream, image = BytesIO(), Image.fromarray(values)
    (image if mode is None else Image.frombytes(mode, values.shape[1::-1], values.tobytes())).save(stream, form, **options)
    return stream.getvalue()


def by_tifffile(values: np.ndarray, **options: object) -> bytes:
    stream = BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


FILES = {
    "png gray": lambda: (by_pillow(SHALLOW[..., 0], "PNG"), SHALLOW[..., :1]),
    "png gray 16": lambda: (by_pillow(DEEP[..., 0], "PNG"), DEEP[..., :1]),
    "png gray and alpha": lambda: (by_pillow(SHALLOW[..., :2], "PNG", "LA"), SHALLOW[..., :2]),
    "png rgb": lambda: (by_pillow(SHALLOW[..., :3], "PNG"), SHALLOW[..., :3]),
    "png rgba": lambda: (by_pillow(SHALLOW[..., :4], "PNG"), SHALLOW[..., :4]),
    "webp rgba": lambda: (by_pillow(SHALLOW[..., :4], "WEBP", lossless=True, exact=True), SHALLOW[..., :4]),
    "tiff gray": lambda: (by_pillow(SHALLOW[..., 0], "TIFF"), SHALLOW[..., :1]),
    "tiff gray 16": lambda: (by_pillow(DEEP[..., 0], "TIFF"), DEEP[..., :1]),
    "tiff gray 16 of the other byte order": lambda: (by_pillow(DEEP[..., 0].byteswap(), "TIFF", "I;16B"), DEEP[..., :1]),
    "tiff rgb": lambda: (by_pillow(SHALLOW[..., :3], "TIFF", compression="tiff_lzw"), SHALLOW[..., :3]),
    "tiff rgba": lambda: (by_pillow(SHALLOW[..., :4], "TIFF"), SHALLOW[..., :4]),
    "tiff inks": lambda: (by_pillow(SHALLOW[..., :4], "TIFF", "CMYK"), SHALLOW[..., :4]),
    "tiff negative": lambda: (by_tifffile(~SHALLOW[..., 0], photometric="miniswhite"), SHALLOW[..., :1]),
    "tiff negative 16": lambda: (by_tifffile(~DEEP[..., 0], photometric="miniswhite"), DEEP[..., :1]),
    "tiff rgb 16": lambda: (by_tifffile(DEEP[..., :3], photometric="rgb"), DEEP[..., :3]),
    "tiff rgb and another": lambda: (by_tifffile(SHALLOW[..., :4], photometric="rgb", extrasamples=[0]), SHALLOW[..., :4]),
    "tiff five of 8": lambda: (by_tifffile(SHALLOW[..., :5], photometric="minisblack", planarconfig="contig"), SHALLOW[..., :5]),
    "tiff five behind colors": lambda: (by_tifffile(SHALLOW[..., :5], photometric="rgb", extrasamples=[0, 0]), SHALLOW[..., :5]),
    "tiff twelve": lambda: (by_tifffile(DEEP[..., :12], photometric="minisblack", planarconfig="contig"), DEEP[..., :12]),
    "tiff twelve apart": lambda: (
        by_tifffile(DEEP.transpose(2, 0, 1)[:12], photometric="minisblack", planarconfig="separate", compression="zlib"),
        DEEP[..., :12],
    ),
    "tiff a page each": lambda: (by_tifffile(DEEP.transpose(2, 0, 1)[:12]), DEEP[..., :12]),
    "tiff a page for each row": lambda: (by_tifffile(DEEP[..., :12].copy()), DEEP[..., :12]),
    "tiff two pages": lambda: (by_tifffile(SHALLOW.transpose(2, 0, 1)[:2]), SHALLOW[..., :2]),
    "big tiff of the other byte order": lambda: (
        by_tifffile(DEEP[..., :12], photometric="minisblack", planarconfig="contig", bigtiff=True, byteorder=">"),
        DEEP[..., :12],
    ),
    "tiff of one small image with many channels": lambda: (
        by_tifffile(DEEP[:8, :8, :12].copy(), photometric="minisblack", planarconfig="contig"),
        DEEP[:8, :8, :12],
    ),
    "npy H W": lambda: (npy(DEEP[..., 0]), DEEP[..., :1]),
    "npy H W C": lambda: (npy(DEEP), DEEP),
    "npy C H W": lambda: (npy(DEEP.transpose(2, 0, 1).copy()), DEEP),
    "npy of columns": lambda: (npy(np.asfortranarray(SHALLOW)), SHALLOW),
    "npy of the other byte order": lambda: (npy(DEEP[..., :2].astype(">u2")), DEEP[..., :2]),
    "npy of equal sides": lambda: (npy(SHALLOW[:16, :16]), SHALLOW[:16, :16]),
    **{f"png {n} of 16": lambda n=n: (png(DEEP[..., :n]), DEEP[..., :n]) for n in (2, 3, 4)},
}


@pytest.mark.parametrize("name", FILES)
def test_every_channel_and_level_is_read(name: str):
    data, values = FILES[name]()
    stored = PixelFormat(values.shape[2], 8 if values.dtype == np.uint8 else 16)
    found = inspect_image(data)
    assert found.stored == stored and found.size == values.shape[1::-1]
    whole = decode_image(data, form=PixelFormat(stored.channels, 16))
    widened = values.astype(np.uint16) * (257 if stored.bits == 8 else 1)
    assert isinstance(whole, Raster) and whole.pixels.dtype == np.uint16
    assert (whole.pixels == widened.transpose(2, 0, 1)).all()
    mean, square = compute_raster_stats(whole)
    assert np.allclose(mean, (widened / 65535).mean((0, 1)), rtol=1e-12, atol=0)
    assert np.allclose(square, ((widened / 65535) ** 2).mean((0, 1)), rtol=1e-12, atol=0)
    if stored.bits == 8 and stored.channels != 3:
        assert (decode_image(data, form=stored).pixels == values.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("name", ["tiff gray 16", "npy H W", "tiff rgb", "png gray 16", "npy C H W"])
def test_three_channels_of_eight_bits_are_rgb_as_ever(name: str):
    data, values = FILES[name]()
    if values.shape[2] > 3:
        with pytest.raises(DecodeError, match=r"it has 16 channels of 16 bits, but this run or encoder takes 3"):
            decode_image(data)
        return
    levels = values if values.dtype == np.uint8 else np.round(values / 257)
    assert (np.asarray(decode_image(data)) == levels).all()


def test_gray_and_palettes_become_three_channels_of_sixteen_bits_too():
    gray = decode_image(by_pillow(DEEP[..., 0], "PNG"), form=PixelFormat(3, 16))
    assert (gray.pixels == DEEP[..., 0]).all() and gray.pixels.shape == (3, *SIDES)
    colors = Image.fromarray(SHALLOW[..., :3]).quantize(16)
    stream = BytesIO()
    colors.save(stream, "PNG")
    found = decode_image(stream.getvalue(), form=PixelFormat(3, 16))
    assert (found.pixels == np.asarray(colors.convert("RGB")).transpose(2, 0, 1).astype(np.uint16) * 257).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_to_stored_channels(orientation: int):
    image, exif, stream = Image.fromarray(SHALLOW[..., 0]), Image.Exif(), BytesIO()
    exif[0x0112] = orientation
    image.save(stream, "PNG", exif=exif)
    with Image.open(BytesIO(stream.getvalue())) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened))
    assert (decode_image(stream.getvalue(), form=PixelFormat(1, 8)).pixels == upright).all()
    deep = by_tifffile(DEEP[..., :5], photometric="minisblack", planarconfig="contig", extratags=[(274, 3, 1, orientation, True)])
    turned = decode_image(deep, form=PixelFormat(5, 16)).pixels
    assert turned.shape[1:] == upright.shape
    assert ((turned[0] >> 8) == upright).all()


def lying_npy() -> bytes:
    header = repr({"descr": "|u1", "fortran_order": False, "shape": (1 << 20, 1 << 20, 16)}).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(100)


REFUSED = {
    "floats": (lambda: npy(DEEP.astype(np.float32)), "type float32, but an image has uint8 or uint16"),
    "signs": (lambda: npy(DEEP.astype(np.int16)), "type int16"),
    "32 bits": (lambda: npy(DEEP.astype(np.uint32)), "type uint32"),
    "objects": (lambda: npy(np.array([{"a": 1}], dtype=object)), "Python objects, which are never loaded"),
    "one axis": (lambda: npy(DEEP[0, :, 0]), r"the shape \(28,\), but that of an image is"),
    "four axes": (lambda: npy(DEEP[None]), "the shape"),
    "no pixels": (lambda: npy(DEEP[:0]), "the shape"),
    "17 channels": (lambda: npy(np.zeros((20, 20, 17), np.uint8)), "it has 17 channels, but an image has 1 to 16"),
    "a cut array": (lambda: npy(DEEP)[:-7], "bytes behind its header"),
    "a cut header": (lambda: npy(DEEP)[:40], "its header is not that of an .npy file"),
    "a header that lies": (lying_npy, "it has 100 bytes behind its header"),
    "signed tiff": (lambda: by_tifffile(DEEP[..., 0].astype(np.int8)), "type int8"),
    "float tiff": (lambda: by_tifffile(DEEP[..., 0].astype(np.float32)), "type float32"),
    "pages with palettes": (
        lambda: by_tifffile(SHALLOW.transpose(2, 0, 1)[:2], photometric="palette", colormap=np.zeros((3, 256), np.uint16)),
        "its photometric interpretation is 3",
    ),
    "a cut tiff": (lambda: by_tifffile(DEEP, photometric="minisblack", planarconfig="contig", compression="zlib")[:3000], ""),
    "a tiff without pages": (lambda: by_tifffile(SHALLOW)[:4] + bytes(4), ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_refused_with_its_reason(name: str):
    write, reason = REFUSED[name]
    with pytest.raises(DecodeError, match=reason):
        decode_image(write(), form=PixelFormat(16, 16))


def test_a_large_image_is_refused_before_its_pixels_take_memory():
    data = by_tifffile(DEEP, photometric="minisblack", planarconfig="contig")
    with pytest.raises(TooLarge, match="28x20"):
        decode_image(data, max_pixels=100.0, form=PixelFormat(16, 16))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    data = by_tifffile(DEEP, photometric="minisblack", planarconfig="contig")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UserError, match=r"`pip install tifffile`") as error:
        decode_image(data, form=PixelFormat(16, 16))
    assert not isinstance(error.value, DecodeError)  # which would be skipped as damage


def test_a_missing_package_is_said_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Wherever images are read: from a folder, from shards, when shards are built, and when they are checked."""
    data = by_tifffile(DEEP[..., :5], photometric="minisblack", planarconfig="contig")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/deep.tif").write_bytes(data)
    write_shards([image_record("key", data, None)], tmp_path / "shards", classes=None, made={})
    files, shards = MediaFiles(tmp_path / "photos"), Shards(tmp_path / "shards", form=PixelFormat(5, 16))
    file, sample = MediaFile(tmp_path / "photos/deep.tif", None), TarSample("key", {}, None, None, data)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    for read, name in (
        (lambda: read_decoded(np.asarray, files, 0, 0), "photos/deep.tif"),
        (lambda: decode_sample(files, 0, 0), "photos/deep.tif"),
        (lambda: prepare(tmp_path / "photos", None, None, ("0", file)), "photos/deep.tif"),
        (lambda: read_decoded(np.asarray, shards, 0, 0), "sample number 0 of .*shard-000000.tar"),
        (lambda: ShardReport("shard-000000.tar").add(sample, "images"), "sample key of shard-000000.tar"),
    ):
        with pytest.raises(UserError, match=rf"{name}: this TIFF image has .*`pip install tifffile`"):
            read()


@pytest.mark.parametrize(
    ("values", "form", "reason", "cure"),
    [
        (DEEP[..., :4], PixelFormat(3, 16), "4 channels of 16 bits, but this run or encoder takes 3", "train with data.channels=4"),
        (
            SHALLOW[..., :3],
            PixelFormat(1, 16),
            "3 channels of 8 bits, but this run or encoder takes 1",
            "train with data.channels=3",
        ),
        (DEEP[..., :4], PixelFormat(1, 8), "4 channels of 16 bits", "train with data.channels=4 data.bits=16"),
        (SHALLOW[..., :1], PixelFormat(4, 8), "1 channel of 8 bits, but this run or encoder takes 4", "images of 4 channels"),
        (
            DEEP[..., :4],
            PixelFormat(4, 8),
            "4 channels of 16 bits, but this run or encoder takes 4 channels of 8 bits",
            "data.bits=16",
        ),
    ],
)
def test_another_number_of_channels_is_named_with_the_cure(values: np.ndarray, form: PixelFormat, reason: str, cure: str):
    with pytest.raises(DecodeError, match=reason) as error:
        decode_image(npy(values), form=form)
    assert cure in (error.value.cure or "")


FORMS = [PixelFormat(1, 16), PixelFormat(3, 16), PixelFormat(4, 8), PixelFormat(12, 16)]


def rasters(form: PixelFormat) -> list[Raster]:
    """Images of several sizes, smooth and noisy, dark and over the whole range."""
    generator, images = np.random.default_rng(1), []
    for height, width in [(40, 52), (90, 30), (33, 33), (24, 70)]:
        ramp = np.linspace(0, 1, width) * np.linspace(0.2, 1, height)[:, None]
        noise = generator.random((form.channels, height, width))
        images.append(Raster(((0.5 * ramp + 0.5 * noise) * form.largest).round().astype(form.dtype)))
    return images


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_workers_and_device_make_the_same_views(form: PixelFormat, antialias: bool):
    config = ViewsConfig.model_validate(
        {"crops": [{"flip": 0.5}, {"image_size": 16, "blur": {"probability": 0.7}}], "antialias": antialias}
    )
    images = rasters(form)
    ours, deferred = ImageViews(config, 24, len(images), form), DeferredViews(config, 24, len(images))
    for number, image in enumerate(images):
        for views in (ours, deferred):
            views.add(image, [keyed_generator(0, Stream.VIEW, 0, number, view) for view in range(2)])
    views, crops = ours.finish()[0], deferred.finish()[1]
    assert all(view.dtype == getattr(torch, form.dtype) for view in (*views, crops.images))
    for view, crop in zip(views, crop_views(crops, config.resampling), strict=True):
        assert crop.shape == view.shape == (len(images), form.channels, *crop.shape[2:])
        if form.bits == 8:  # as for RGB, because Pillow rounds after each of two passes
            assert (view.float() - crop.round()).abs().max() <= 1
        else:  # 5 levels of 16 bits
            assert (view.float() / 257 - crop).abs().max() <= 0.02


def test_levels_that_eight_bits_cannot_tell_apart_survive_a_crop():
    faint = Raster(np.tile(np.linspace(1000, 1255, 64).round().astype(np.uint16), (1, 64, 1)))
    view = center_view(faint, 64)
    assert (view == faint.pixels).all() and len(np.unique(view)) > 60
    small = center_view(faint, 32).astype(float)
    assert np.abs(small[0, 8, 1:-1] - faint.pixels[0, 0].reshape(32, 2).mean(1)[1:-1]).max() <= 1


def test_rgb_has_the_same_view_in_either_number_of_bits():
    coarse = Image.fromarray(np.random.default_rng(5).integers(0, 256, (5, 4, 3), np.uint8))
    data = by_pillow(np.asarray(coarse.resize((40, 50), Image.Resampling.BICUBIC)), "PNG")
    eight, sixteen = (center_view(decode_image(data, form=form), 24).astype(float) for form in (RGB8, PixelFormat(3, 16)))
    assert np.abs(sixteen / 257 - eight).max() <= 1.01  # Pillow rounds after each of two passes


def test_values_are_scaled_by_the_largest_of_their_bits():
    ramp = torch.arange(0, 65536, 257, dtype=torch.int32).to(torch.uint16).view(1, 2, 8, 16)
    mean, std = (0.25, 0.5), (0.1, 0.2)
    expected = (ramp.double() / 65535 - torch.tensor(mean).view(1, 2, 1, 1)) / torch.tensor(std).view(1, 2, 1, 1)
    assert torch.allclose(normalize(ramp, mean, std).double(), expected, atol=1e-5)
    eight = (ramp.int() // 257).to(torch.uint8)
    assert torch.allclose(normalize(eight, mean, std).double(), expected, atol=1e-5)
    assert normalize(ramp[:, :, -1:, -1:], (0.0, 0.0), (1.0, 1.0)).max() == 1


def test_statistics_are_exact_over_the_range_of_sixteen_bits():
    faint = [np.full((8, 9, 2), n, np.uint16) for n in (3, 5)]
    total = np.array([compute_raster_stats(decode_image(npy(image), form=PixelFormat(2, 16))) for image in faint]).sum(0)
    mean, std = mean_and_std(total, 2, digits=12)
    assert mean == pytest.approx([4 / 65535] * 2, abs=1e-12) and std == pytest.approx([1 / 65535] * 2, abs=1e-10)


def config_of(folder: Path, **data: object) -> RunConfig:
    encoder = {"image_size": 32, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
    channels = data.get("channels", 3)
    return load_overrides(
        RunConfig,
        [
            "name=x",
            f"data={ {'train': str(folder), **data} }".replace("'", ""),
            f"views={{crops: [{{flip: 0.5}}], mean: {[0.5] * channels}, std: {[0.25] * channels}}}",
            f"method={{name: ijepa, encoder: {encoder}}}".replace("'", ""),
            "optim={batch_size_global: 8, total_samples: 40, lr: 1.0e-3}",
        ],
    )


def stream(config: RunConfig, world: int = 1) -> list[Batch]:
    samplers = [build_batch_sampler(config.optim, rank, world) for rank in range(world)]
    loaders = [train_loader(config.data, config.views, config.method, [], sampler, seed=0) for sampler in samplers]
    return [batch for parts in zip(*loaders, strict=True) for batch in parts]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 4 channels, of 8 and of 16 bits."""
    images = [(SHALLOW if n % 2 else DEEP)[..., n % 8 : n % 8 + 4] for n in range(20)]
    folder = tmp_path_factory.mktemp("mixed") / "set"
    write_shards((image_record(f"k{n:02d}", npy(image), None) for n, image in enumerate(images)), folder, classes=None, made={})
    return folder


@pytest.mark.parametrize(("workers", "world"), [(0, 2), (2, 1), (1, 4)])
def test_any_world_and_any_workers_read_the_same_stream_of_mixed_bits(mixed: Path, workers: int, world: int):
    ours = stream(config_of(mixed, channels=4, workers=0))
    theirs = stream(config_of(mixed, channels=4, workers=workers), world)
    assert [key for batch in ours for key in batch.keys] == [key for batch in theirs for key in batch.keys]
    pixels = [torch.cat([batch.views[0] for batch in batches]) for batches in (ours, theirs)]
    assert pixels[0].dtype == torch.uint16 and torch.equal(*pixels)
    assert pixels[0].element_size() == 2  # bytes of a value


def test_a_sample_of_other_channels_is_skipped_and_named(tmp_path: Path):
    images = [DEEP[..., : 4 + (n == 7)] for n in range(20)]
    write_shards((image_record(f"k{n:02d}", npy(i), None) for n, i in enumerate(images)), tmp_path / "set", classes=None, made={})
    damaged = [entry for batch in stream(config_of(tmp_path / "set", channels=4, workers=0)) for entry in batch.damaged]
    assert {entry.sample for entry in damaged} == {7}
    assert "k07" in damaged[0].reason and "it has 5 channels of 16 bits" in damaged[0].reason
    assert "data.channels=5" in damaged[0].reason


def test_a_set_without_any_image_of_the_right_channels_is_refused_at_once(mixed: Path):
    with pytest.raises(
        UserError, match=r"holds 4 channels of 8 and 16 bits \(20 images\), but .* takes 12 channels.*data.channels=4"
    ):
        stream(config_of(mixed, channels=12))


def manifest_of(extension: str, *parts: tuple[int, int, int]) -> Manifest:
    """The manifest of images: their channels, their number, and those of 16 bits."""
    stored = [
        StoredPixels(channels=channels, images=images, deep=deep, mean=(0.5,) * channels, std=(0.2,) * channels)
        for channels, images, deep in parts
    ]
    return Manifest.model_construct(extensions=(extension,), stored=tuple(stored))


@pytest.mark.parametrize(
    ("extension", "parts", "form", "cure"),
    [
        ("png", [(1, 9, 9)], PixelFormat(1, 8), "1 channel of 8 bits: .*or train with data.bits=16$"),
        ("npy", [(4, 9, 9)], PixelFormat(4, 8), "4 channels of 8 bits: .*or train with data.bits=16$"),
        ("npy", [(4, 9, 9)], PixelFormat(1, 8), "1 channel of 8 bits: .*data.channels=4 and data.bits=16"),
        ("npy", [(4, 9, 0)], PixelFormat(1, 8), "1 channel of 8 bits: .*data.channels=4 and views.mean"),
        ("tif", [(4, 9, 0)], RGB8, "3 channels of 8 bits: .*data.channels=4 and views.mean"),
        ("npy", [(2, 9, 9), (5, 3, 0)], RGB8, "data.channels=2 and data.bits=16"),
        ("png", [(4, 9, 0)], PixelFormat(3, 16), "3 channels of 16 bits: .*data.channels=4 and views.mean"),
        ("png", [(3, 9, 9)], PixelFormat(1, 8), "data.channels=3 and views.mean"),
        ("png", [(4, 9, 9)], RGB8, None),
        ("png", [(1, 9, 9)], RGB8, None),
        ("png", [(1, 9, 0)], PixelFormat(3, 16), None),
        ("npy", [(4, 9, 8)], PixelFormat(4, 8), None),
        ("npy", [(4, 9, 9), (1, 1, 0)], PixelFormat(1, 8), None),
        ("npy", [], PixelFormat(1, 8), None),
    ],
)
def test_a_manifest_without_any_image_that_fits_is_refused(extension: str, parts: list, form: PixelFormat, cure: str | None):
    if cure is None:
        check_stored("set", manifest_of(extension, *parts), form)
        return
    with pytest.raises(UserError, match=rf"^set holds .* bits \(9 images\).* takes .*{cure}"):
        check_stored("set", manifest_of(extension, *parts), form)


def test_bits_that_no_image_has_are_refused_before_the_run_and_at_its_start(tmp_path: Path):
    """By `jepa config check`, `jepa doctor` and a run, with one sentence that names the key."""
    write_shards((image_record(f"k{n}", npy(DEEP[..., :1]), None) for n in range(8)), tmp_path / "set", classes=None, made={})
    config = config_of(tmp_path / "set", channels=1, bits=8)
    sentence = r"holds 1 channel of 16 bits \(8 images\), but this run or encoder takes 1 channel of 8 bits: .*data.bits=16"
    for look in (check_config, lambda config: hash_data(config.data, config.method), stream):
        with pytest.raises(UserError, match=sentence):
            look(config)
    (result,) = [result for result in check_data(config, quick=True) if result.level == "fail"]
    assert re.search(sentence, f"{result.text}: {result.cure}")
    check_config(config_of(tmp_path / "set", channels=1))


def test_pictures_of_any_channels():
    rgb = torch.arange(48, dtype=torch.uint8).view(3, 4, 4)
    assert to_picture(rgb) is rgb
    for channels in (1, 2, 4, 12):
        picture = to_picture(torch.arange(channels * 16, dtype=torch.int32).to(torch.uint16).view(channels, 4, 4))
        assert picture.shape == (3, 4, 4) and picture.min() == 0 and picture.max() == 255
        assert torch.equal(picture[0], picture[2]) == (channels < 3)
