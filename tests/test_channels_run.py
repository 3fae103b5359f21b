"""Gray of 16 bits, four channels and twelve go from files to shards, a run, a probe and both exports with the right values."""

import json
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tars import pack

from jepa_pipeline.checks.data import check_data
from jepa_pipeline.checks.recipe import Node, check_memory, estimate_micro_batch_bytes
from jepa_pipeline.commands.build_shards import build
from jepa_pipeline.commands.check_shards import check
from jepa_pipeline.commands.energy import energy
from jepa_pipeline.commands.export import check_parity, export
from jepa_pipeline.commands.index_shards import index
from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.commands.preview import preview_views
from jepa_pipeline.commands.probe import probe
from jepa_pipeline.commands.shard_stats import stats
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.pixel_format import PixelFormat
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.dataset import EvalImages
from jepa_pipeline.data.manifest import Manifest, read_manifest
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.data.unfinished import Progress
from jepa_pipeline.data.views import normalize
from jepa_pipeline.data.writer import Record, image_record, write_shards
from jepa_pipeline.interop.timm_format import load_timm
from jepa_pipeline.models.weights import load_encoder, read_card
from jepa_pipeline.results.probe_report import load_reports

SIDE, IMAGES = 24, {"train": 20, "test": 10}
JEPA = [
    "method={name: ijepa, encoder: {image_size: 24, patch_size: 4, embed_dim: 24, depth: 1, num_heads: 2}}",
    "method.predictor={embed_dim: 16, depth: 1, num_heads: 2}",
    "method.masks={num_targets: 2, target_scale: [0.15, 0.25], context_keep: 0.3}",
]
SIMCLR = [
    "method={name: simclr, projector: {hidden: [16], out: 8}}",
    "method.encoder={timm: resnet18, image_size: 24, small_stem: false, args: {channels: [8, 8, 8, 8]}}",
    "views.crops=[{count: 2, image_size: 24, flip: 0.5, blur: {}}]",
]
RUN = ["optim={batch_size_global: 10, total_samples: 20}", "data.workers=0", "trainer.accelerator=cpu"]


def faint(number: int, channels: int) -> np.ndarray:
    """Two classes that differ by 100 of 65535 levels, which 8 bits do not tell apart: the left or the right half is brighter."""
    values = np.full((SIDE, SIDE, channels), 1000, np.uint16) + np.arange(channels, dtype=np.uint16)
    values[:, slice(0, 12) if number % 2 else slice(12, SIDE)] += 100
    values[number % SIDE] += 3
    return values


def strong(number: int, channels: int) -> np.ndarray:
    generator = np.random.default_rng(number)
    return (generator.integers(0, 100, (SIDE, SIDE, channels)) + 100 * (number % 2)).astype(np.uint8)


def build_gray(folder: Path) -> None:
    """Gray PNG and TIFF files of 16 bits, by `jepa shards build`."""
    for part, count in IMAGES.items():
        for n in range(count):
            path = folder / "files" / part / f"class{n % 2}" / f"{n:02d}.{'png' if n % 4 < 2 else 'tif'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(faint(n, 1)[..., 0]).save(path)
        build(folder / "files" / part, folder / part, workers=1)


def index_four(folder: Path) -> None:
    """Tars of RGBA files of 8 bits, by `jepa shards index`."""
    for part, count in IMAGES.items():
        members: dict[str, bytes] = {}
        for n in range(count):
            Image.fromarray(strong(n, 4)).save(folder / "one.png")
            members |= {f"{n:02d}.png": (folder / "one.png").read_bytes(), f"{n:02d}.cls": str(n % 2).encode()}
        index([str(pack(folder / part / "a.tar", members))], workers=1)


def build_twelve(folder: Path) -> None:
    """Arrays of 16 bits in both layouts, by `jepa shards build`."""
    for part, count in IMAGES.items():
        for n in range(count):
            path = folder / "files" / part / f"class{n % 2}" / f"{n:02d}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, faint(n, 12) if n % 3 else faint(n, 12).transpose(2, 0, 1))
        build(folder / "files" / part, folder / part, workers=1)


SETS = {
    "gray": (1, build_gray, JEPA, faint, 65535),
    "four": (4, index_four, SIMCLR, strong, 255),
    "twelve": (12, build_twelve, [*JEPA, "views.device=trainer"], faint, 65535),
}


@pytest.fixture(scope="module", params=SETS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """The name of a set, its folder, and the run that was trained on it."""
    channels, make, method, *_ = SETS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    make(folder)
    stored = check(folder / "train", workers=1).parts[0].stored[0]
    overrides = [f"data.channels={channels}", f"views.mean={list(stored.mean)}", f"views.std={list(stored.std)}"]
    if request.param == "four":
        overrides.append("data.bits=8")
    run = pretrain(recipe(folder, *overrides, *method))
    return request.param, folder, run


def recipe(folder: Path, *overrides: str) -> RunConfig:
    path = folder / "recipe.yaml"
    path.write_text(f"name: run\noutput: {folder}\ndata: {{train: {folder / 'train'}}}\n")
    return load_config(path, [*RUN, *overrides])


def test_the_statistics_are_those_of_the_channels(trained: tuple[str, Path, Path]):
    name, folder, run = trained
    channels, _, _, draw, largest = SETS[name]
    images = np.stack([draw(n, channels) for n in range(IMAGES["train"])]) / largest
    (part,) = check(folder / "train", workers=1).parts
    (stored,) = part.stored
    assert (stored.channels, stored.images, stored.deep) == (channels, len(images), len(images) if largest > 255 else 0)
    assert np.allclose(stored.mean, images.mean((0, 1, 2)), atol=1e-12, rtol=0)
    assert np.allclose(stored.std, images.std((0, 1, 2)), atol=1e-9, rtol=0)
    built = stats(folder / "train", workers=1)[0].stored
    assert built == (() if name == "four" else part.stored)  # `index` decodes nothing
    card = read_card(run)
    assert (card.mean, card.std, card.encoder.in_channels) == (stored.mean, stored.std, channels)
    config = load_config(run)
    assert config.method.encoder.in_channels == config.data.channels == channels


def test_the_encoder_is_given_the_values_of_the_files(trained: tuple[str, Path, Path]):
    name, folder, run = trained
    channels, _, _, draw, largest = SETS[name]
    card = read_card(run)
    images = EvalImages(Shards(folder / "test").in_form(card.pixel_format), SIDE)
    batch = images.__getitems__([0, 7])
    assert batch.views[0].dtype == (torch.uint8 if card.bits == 8 else torch.uint16)
    numbers = [int(key.rpartition("_")[2]) for key in batch.keys]
    values = np.stack([draw(n, channels) for n in numbers]).transpose(0, 3, 1, 2)
    assert (batch.views[0].numpy() == values).all()
    shape = (1, channels, 1, 1)
    expected = (values / largest - np.reshape(card.mean, shape)) / np.reshape(card.std, shape)
    assert np.allclose(normalize(batch.views[0], card.mean, card.std).numpy(), expected, atol=1e-3)


def test_a_probe_sees_differences_that_eight_bits_would_lose(trained: tuple[str, Path, Path]):
    name, folder, run = trained
    probe(run, folder, config=ProbeConfig(workers=0, k=(1,), batch_size=8, iterations=20))
    (report,) = load_reports(run / "probes")
    accuracy = {row.encoder: row.top1 for row in report.rows if row.protocol == "knn"}
    assert accuracy["pixels"] == 1.0 and {"target", "online"} & accuracy.keys()
    sides = {row.settings["side"] for row in report.rows if row.encoder == "pixels"}
    assert sides == {min(SIDE, int(32 * min(1, 3 / SETS[name][0]) ** 0.5))}


def test_both_exports_are_the_same_encoder(trained: tuple[str, Path, Path]):
    name, _, run = trained
    channels = SETS[name][0]
    for form in ("jepa", "timm"):
        out = export(run, form)
        assert check_parity(out, form) <= 1e-5
        assert load_file(out / "parity" / "outputs.safetensors")["pixels"].shape == (4, channels, SIDE, SIDE)
    config = json.loads((out / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [channels, SIDE, SIDE]
    assert len(config["pretrained_cfg"]["mean"]) == channels
    ours, theirs = load_encoder(run).timm_module().state_dict(), load_timm(out).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)  # timm would leave a first layer of 4 channels untrained
    words = f"{channels} channel{'s' if channels > 1 else ''}"
    assert words in (out / "README.md").read_text() and words in read_card(run).encoder.describe()
    assert f'"B {channels} H W"' in (out.parent / "jepa" / "README.md").read_text()


def test_the_energy_or_the_views_can_be_drawn(trained: tuple[str, Path, Path], tmp_path: Path):
    name, folder, run = trained
    if name == "four":
        picture = preview_views(load_config(run), tmp_path / "views.png")
        assert np.asarray(Image.open(picture).convert("L")).std() > 5
    if name == "twelve":
        report = energy(run, folder, samples=6, pictures=2, out=tmp_path)
        assert report.samples == 6 and len(report.pictures) == 1


def test_the_checks_count_the_channels(trained: tuple[str, Path, Path]):
    name, _, run = trained
    config, channels = load_config(run), SETS[name][0]
    results = {result.name: result for result in check_data(config, quick=False)}
    assert results["samples"].level == "ok"
    views = 2 if name == "four" else 1
    values = 10 * channels * SIDE * SIDE * views
    assert estimate_micro_batch_bytes(config, 1) == values * (1 if name == "four" else 2)
    enough = Node("a node", 1, 1, values * (5 if name == "four" else 6), has_gpu=False)
    assert check_memory(config, enough) == []
    assert check_memory(config, enough._replace(memory=enough.memory - 1))


def test_an_encoder_is_not_probed_on_other_channels(trained: tuple[str, Path, Path], shards: Path):
    name, _, run = trained
    with pytest.raises(UserError, match=f"holds 3 channels of 8 bits .* takes {PixelFormat(SETS[name][0]).name_channels()}"):
        probe(run, shards)


def test_a_set_that_mixes_channels_and_bits_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "files").mkdir()
    for n, values in enumerate([strong(0, 4), strong(1, 1)[..., 0], faint(2, 1)[..., 0], strong(3, 3)]):
        Image.fromarray(values).save(tmp_path / "files" / f"{n}.png")
    build(tmp_path / "files", tmp_path / "set", workers=1)
    report = check(tmp_path / "set", workers=1)
    assert not report.problems
    (warning,) = [sentence for sentence in report.warnings if "differ in channels or bits" in sentence]
    assert "1 channel of 8 and 16 bits (2 images), 3 channels of 8 bits (1 images), 4 channels of 8 bits (1 images)" in warning
    assert read_manifest(tmp_path / "set").stored == report.parts[0].stored
    assert "channels: 1 channel of 8 and 16 bits (2 images)" in capsys.readouterr().out


def test_an_interrupted_build_ends_with_the_same_statistics(tmp_path: Path):
    def records(stop: int | None = None) -> Iterator[Record]:
        for n in range(4):
            if n == stop:
                raise KeyboardInterrupt
            stream = BytesIO()
            np.save(stream, np.full((600, 600, 2 + n % 2), n, np.uint16))  # more than 1 MB, so that each has a shard
            yield image_record(f"{n}", stream.getvalue(), None)

    def write(samples: Iterator[Record], folder: Path, progress: Progress | None = None) -> Manifest:
        return write_shards(samples, folder, classes=None, made={}, shard_size=1, progress=progress)

    whole = write(records(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        write(records(stop=3), tmp_path / "cut", Progress(tmp_path / "cut"))
    found = Progress.resume(tmp_path / "cut")
    assert found.done == 3 and found.without_rgb == 2
    again = write(islice(records(), found.done, None), tmp_path / "cut", found)
    assert again == whole
    assert whole.mean is None and [part.channels for part in whole.stored] == [2, 3]


def test_arrays_beside_other_media_are_no_images(tmp_path: Path):
    (tmp_path / "files").mkdir()
    Image.fromarray(strong(0, 3)).save(tmp_path / "files" / "a.png")
    np.save(tmp_path / "files" / "labels.npy", np.arange(5))
    manifest = build(tmp_path / "files", tmp_path / "set", workers=1)[tmp_path / "set"]
    assert (manifest.samples, manifest.skipped) == (1, ())
    photo, array = (tmp_path / "files" / "a.png").read_bytes(), (tmp_path / "files" / "labels.npy").read_bytes()
    tar = pack(tmp_path / "tars" / "a.tar", {"0.npy": array, "0.png": photo, "1.npy": array})
    indexed = index([str(tar)], workers=1).manifest
    assert indexed.samples == 1 and "it has an array (npy) alone" in indexed.skipped[0].reason
    assert check(tar.parent, workers=1).problems == []


def test_large_arrays_are_shrunk_with_their_channels_and_levels(tmp_path: Path):
    (tmp_path / "files").mkdir()
    np.save(tmp_path / "files" / "a.npy", np.full((5, 64, 48), 40_000, np.uint16))
    manifest = build(tmp_path / "files", tmp_path / "set", size=24, workers=1)[tmp_path / "set"]
    (stored,) = manifest.stored
    assert (stored.channels, stored.deep) == (5, 1) and stored.mean == pytest.approx([40_000 / 65535] * 5, abs=1e-12)
    image = EvalImages(Shards(tmp_path / "set").in_form(PixelFormat(5, 16)), 24).__getitems__([0]).views[0]
    assert image.shape == (1, 5, 24, 24) and (image.int() == 40_000).all()
