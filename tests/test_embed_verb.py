"""`jepa embed`: a row for each image or video, in order, whatever happens to the command or to the images."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from jepa_pipeline.commands.embed import embed
from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.stack import StackConfig
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.data.video_writer import encode_video
from jepa_pipeline.data.views import center_view, normalize
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.models.weights import EncoderCard, load_encoder, read_card, save_encoder
from jepa_pipeline.probes import embed as embedding
from jepa_pipeline.probes import feature_file
from jepa_pipeline.probes.evaluate import build_eval_loader
from jepa_pipeline.probes.feature_extractors import FeatureExtractor
from jepa_pipeline.probes.feature_rows import FeatureRows
from jepa_pipeline.probes.features import Preprocessing, extract

IMAGES = EncoderConfig(image_size=16, patch_size=4, embed_dim=24, depth=5, num_heads=2)
CLIPS = EncoderConfig(image_size=16, patch_size=8, frames=4, tubelet_size=2, embed_dim=24, depth=2, num_heads=2)
COARSE = {"stride": {"space": 2}, "embed_dim": 16, "depth": 1, "num_heads": 2}
STACK = StackConfig(**IMAGES.model_dump(exclude={"depth"}), depth=1, above=[COARSE])
SMALL = {"batch_size": 8, "workers": 0}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Encoder folders by kind."""
    made, parent = {}, tmp_path_factory.mktemp("encoders")
    resnet = BackboneConfig(timm="resnet18", image_size=16, small_stem=True, args={"channels": (8, 8, 12, 16)})
    for name, config in {"images": IMAGES, "clips": CLIPS, "stack": STACK, "resnet": resnet}.items():
        torch.manual_seed(3)
        clip = ClipConfig.model_validate({"stride": 1}) if config.modality.has_time else None
        origin = {"method": "ijepa", "step": 4, "samples": 32, "config_hash": "c", "data_hash": "d", "version": "0"}
        card = EncoderCard(encoder=config, clip=clip, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), name=name, **origin)
        save_encoder(parent / name, build_encoder(config), card)
        made[name] = parent / name
    return made


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """21 images of several sizes in folders of folders; 10.png comes before 9.png, as in order of names."""
    folder, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(21):
        place = folder / ("cats", "dogs/small", "dogs")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (18 + number % 4, 20, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def read(path):
    table = parquet.read_table(path)
    return table, json.loads(table.schema.metadata[b"jepa_pipeline"])


def features_of(table):
    return np.array([row if row is not None else [np.nan] * 24 for row in table["feature"].to_pylist()], np.float32)


def test_a_folder_in_order_of_its_names(encoders, photos, tmp_path):
    table, about = read(embed(encoders["images"], photos, tmp_path / "features.parquet", **SMALL))
    names = sorted(path.relative_to(photos) for path in photos.rglob("*.png"))
    assert table["name"].to_pylist() == list(map(str, names))
    assert table["label"].to_pylist() == [int(str(name).startswith("dogs")) for name in names]
    assert table["error"].null_count == len(names) == 21
    encoder, card = load_encoder(encoders["images"]), read_card(encoders["images"])
    pixels = np.stack([center_view(Image.open(photos / name), image_size=16) for name in names])
    expected = encoder.pooled(normalize(torch.from_numpy(pixels), card.mean, card.std)).numpy()
    assert np.allclose(features_of(table), expected, atol=1e-6)
    assert str(table.schema.field("feature").type) == "fixed_size_list<item: float>[24]" or "[24]" in str(table.schema)
    assert (
        about["encoder"]["sha256"] == card.sha256
        and about["encoder"]["name"] == "images"
        and about["data"]["classes"] == ["cats", "dogs"]
    )
    assert (
        about["preprocessing"]["mean"] == [0.5, 0.4, 0.3] and about["preprocessing"]["size"] == 16 and about["features"] == "last"
    )


def probed(folder, shards, level=None, segments=2, size=8):
    """The features that a probe computes, in batches of the same size, by kind."""
    card, encoder = read_card(folder), load_encoder(folder)
    levels = {"it": level} if level else None
    extractor = FeatureExtractor(encoder.read_level(level) if level else encoder, levels=levels)
    config = ProbeConfig(batch_size=size, workers=0, segments=segments)
    loader = build_eval_loader(Shards(shards), card, config, segments, 1, 0)
    found = extract({"it": extractor}, loader.load(loader.batches()), loader.samples, Preprocessing(card.mean, card.std))
    return found.encoders["it"], found


@pytest.mark.parametrize("kind", ["last", "last4"])
@pytest.mark.parametrize(("name", "level"), [("images", None), ("resnet", None), ("stack", 1), ("stack", 2), ("stack", "all")])
def test_shards_give_what_probes_compute(encoders, shards, tmp_path, name, level, kind):
    """Bit for bit, under the same name."""
    out = embed(encoders[name], shards / "test", tmp_path / "features.parquet", features=kind, level=level, **SMALL)
    expected, found = probed(encoders[name], shards / "test", level)
    table, about = read(out)
    assert np.array_equal(np.array(table["feature"].to_pylist(), np.float32), expected[kind].numpy())
    assert table["name"].to_pylist() == found.keys and table["label"].to_pylist() == found.labels.tolist()
    assert (
        about["level"] == level and about["features"] == kind and about["data"]["hash"] == Shards(shards / "test").manifest.hash()
    )


@pytest.mark.parametrize("segments", [1, 3])
def test_videos_as_shards_and_as_files(encoders, videos, tmp_path, segments):
    out = embed(encoders["clips"], videos / "test", tmp_path / "shards.npy", segments=segments, **SMALL)
    expected, found = probed(encoders["clips"], videos / "test", segments=segments)
    assert np.array_equal(np.load(out), expected["last"].numpy())
    rows = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == found.keys and [row["label"] for row in rows] == found.labels.tolist()
    (tmp_path / "files").mkdir()
    stored = Shards(videos / "test")
    for number in range(len(rows)):
        (tmp_path / f"files/{number:02d}.mp4").write_bytes(stored.read(0, number).media)
    files = embed(encoders["clips"], tmp_path / "files", tmp_path / "files.npy", segments=segments, **SMALL)
    assert np.array_equal(np.load(files), np.load(out))
    about = json.loads(files.with_suffix(".json").read_text())
    assert about["preprocessing"]["clip"]["stride"] == 1 and about["segments"] == segments and about["data"]["classes"] is None


class Killed(BaseException):
    """An end that runs no handler of errors but those of contexts."""


@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
@pytest.mark.parametrize("left", ["whole lines", "half a line", "features without a line", "fewer features than lines"])
def test_a_killed_command_continues_and_gives_the_same_bytes(encoders, photos, tmp_path, monkeypatch, capsys, suffix, left):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos/dogs/small/13.png").write_bytes(b"no image")
    given = encoders["images"], tmp_path / "photos", tmp_path / f"features{suffix}"
    whole = embed(*given, **SMALL).read_bytes()
    for path in tmp_path.glob("features.*"):
        path.unlink()
    add, calls = FeatureRows.add, []

    def add_twice(rows, *batch):
        if len(calls) == 2:
            raise Killed
        calls.append(batch)
        add(rows, *batch)

    monkeypatch.setattr(FeatureRows, "add", add_twice)
    with pytest.raises(Killed):
        embed(*given, **SMALL)
    monkeypatch.undo()
    partial = tmp_path / f"features{suffix}.partial"
    assert f"{partial} keeps 16 rows: the same command continues" in capsys.readouterr().out
    lines, values = partial / "rows.jsonl", partial / "features.f32"
    if left == "half a line":
        lines.write_bytes(lines.read_bytes()[:-9])
    elif left == "features without a line":
        values.write_bytes(values.read_bytes() + bytes(500))
    elif left == "fewer features than lines":
        values.write_bytes(values.read_bytes()[:-4])
    computed = []
    original = embedding.embed_views
    monkeypatch.setattr(embedding, "embed_views", lambda *batch: computed.append(batch[-1]) or original(*batch))
    capsys.readouterr()
    assert embed(*given, **SMALL).read_bytes() == whole
    kept = 8 if left in ("half a line", "fewer features than lines") else 16
    assert sum(map(len, computed)) < 21 - kept + 1 and f"is continued: {kept} rows" in capsys.readouterr().out
    assert not partial.exists()


def test_another_command_begins_anew(encoders, photos, tmp_path, monkeypatch, capsys):
    """With another batch size the last bits might differ; with other images everything would."""
    out = tmp_path / "features.npy"
    with monkeypatch.context() as patched:
        patched.setattr("jepa_pipeline.commands.embed.write_features", lambda *_: sys.exit(1))
        with pytest.raises(SystemExit):
            embed(encoders["images"], photos, out, **SMALL)
    embed(encoders["images"], photos, out, batch_size=4, workers=0)
    assert "begun anew: it was left by a command that differs in batch_size" in capsys.readouterr().out


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_images_are_named_and_shift_no_row(encoders, photos, tmp_path, capsys, workers):
    intact = features_of(read(embed(encoders["images"], photos, tmp_path / "intact.parquet", batch_size=1, workers=0))[0])
    copy = shutil.copytree(photos, tmp_path / "copy")
    names = [path.relative_to(copy) for path in sorted(copy.rglob("*.png"))]
    damaged = [0, 9, 10, *range(16, 21)]  # the first, two neighbors, a whole batch
    for number in damaged:
        path = copy / names[number]
        path.write_bytes(b"" if number == 9 else path.read_bytes()[:60])
    capsys.readouterr()
    table, about = read(embed(encoders["images"], copy, tmp_path / "copy.parquet", batch_size=8, workers=workers))
    said = capsys.readouterr().out
    assert "8 of 21 samples are damaged: their rows have an error and no features" in said and str(names[0]) in said
    assert [number for number, error in enumerate(table["error"].to_pylist()) if error] == damaged
    assert [number for number, row in enumerate(table["feature"].to_pylist()) if row is None] == damaged
    others = [number for number in range(21) if number not in damaged]
    assert np.allclose(features_of(table)[others], intact[others], atol=1e-6)
    assert table["name"].to_pylist() == list(map(str, names)) and about["data"]["damaged"] == 8
    array = np.load(embed(encoders["images"], copy, tmp_path / "copy.npy", batch_size=8, workers=workers))
    assert np.array_equal(array, features_of(table), equal_nan=True)


def test_large_files_are_written_in_groups(encoders, photos, tmp_path, monkeypatch):
    one = parquet.ParquetFile(embed(encoders["images"], photos, tmp_path / "one.parquet", **SMALL))
    monkeypatch.setattr(feature_file, "GROUP_BYTES", 4 * 24 * 5)
    several = parquet.ParquetFile(embed(encoders["images"], photos, tmp_path / "several.parquet", **SMALL))
    assert (one.num_row_groups, several.num_row_groups) == (1, 5) and one.read().equals(several.read())


def test_parts_of_a_data_set_are_no_labels(encoders, photos, tmp_path):
    for part in ("train", "val"):
        shutil.copytree(photos / "cats", tmp_path / "set" / part)
    table, about = read(embed(encoders["images"], tmp_path / "set", tmp_path / "features.parquet", **SMALL))
    assert "label" not in table.column_names and about["data"]["classes"] is None and table["name"][0].as_py() == "train/0.png"


def write_videos(folder):
    folder.mkdir()
    (folder / "a.mp4").write_bytes(encode_video([np.zeros((16, 16, 3), np.uint8)] * 4, 4.0))


def spoil_all(folder):
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("make", "options", "sentence"),
    [
        (None, {}, "nothing is not there: name a folder of images or videos"),
        (lambda folder: folder.write_text(""), {}, "nothing is a file: name a folder of images or videos"),
        (lambda folder: folder.mkdir(), {}, "has no .* file at any depth"),
        (write_videos, {}, "images takes images, but .* holds videos: name images, or a video encoder"),
        (spoil_all, {}, "none of the 1 samples of .* can be used: .*a.png cannot be used"),
        (spoil_all, {"out": "features.csv"}, "ends in .csv: name a file that ends in .parquet or .npy"),
        (spoil_all, {"out": "."}, "ends in no suffix: name a file"),
        (spoil_all, {"features": "tokens"}, "--features tokens is unknown: give last or last4"),
        (spoil_all, {"device": "tpu9"}, "--device tpu9 is unknown: give cpu, cuda or cuda:NUMBER"),
        (spoil_all, {"device": "meta"}, "--device meta is neither a CPU nor a CUDA GPU"),
        (spoil_all, {"device": "cuda:31"}, "torch finds .* CUDA devices: give another, or cpu"),
        (spoil_all, {"level": 2}, "--level 2: the encoder of .* has 1 level: give 1, or omit it"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(encoders, tmp_path, make, options, sentence):
    data = tmp_path / "nothing"
    if make:
        make(data)
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / options.pop("out", "features.npy")
    with pytest.raises(UserError, match=sentence) as caught:
        embed(encoders["images"], data, out, **SMALL, **options)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_sets_of_shards_and_finished_files_are_told_apart(encoders, shards, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"holds 2 sets of shards, such as .*test: name one of them"):
        embed(encoders["images"], shards, tmp_path / "features.npy", **SMALL)
    out = embed(encoders["images"], shards / "test", tmp_path / "features.npy", **SMALL)
    with pytest.raises(UserError, match=r"features.npy is there already: delete it, and .*features.json, or name another file"):
        embed(encoders["images"], shards / "test", out, **SMALL)
    monkeypatch.setattr(feature_file, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pyarrow is not installed: pip install pyarrow, or name a .npy file"):
        embed(encoders["images"], shards / "test", tmp_path / "features.parquet", **SMALL)
