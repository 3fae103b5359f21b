"""`jepa shards build`, on small folders of generated images."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jepa_pipeline.commands.build_shards import build
from jepa_pipeline.commands.check_shards import check
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.decode import decode_image
from jepa_pipeline.data.manifest import Manifest
from jepa_pipeline.data.shards import Sample, Shards


def save(path: Path, size: tuple[int, int] = (12, 9), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(20):
        save(tmp_path / "images" / "cat" / f"deep.er/{number}" / "same name.PNG", seed=number)
    for number in range(10):
        save(tmp_path / "images" / "dog" / f"{number}.jpeg", size=(30, 40), seed=100 + number)
    save(tmp_path / "images" / "zebra" / "one.webp")
    (tmp_path / "images" / "empty").mkdir()
    (tmp_path / "images" / "cat" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def only(manifests: dict[Path, Manifest]) -> tuple[Path, Manifest, list[Sample]]:
    ((folder, manifest),) = manifests.items()
    return folder, manifest, samples(folder)


def samples(folder: Path) -> list[Sample]:
    shards = Shards(folder)
    return [shards.read(shard, member) for shard, count in enumerate(shards.counts) for member in range(count)]


def test_images_of_any_nesting_are_stored_byte_for_byte(images: Path, tmp_path: Path):
    folder, manifest, stored = only(build(images, tmp_path / "out", workers=2))
    assert folder == tmp_path / "out"
    assert (manifest.samples, manifest.classes, manifest.skipped) == (31, ("cat", "dog", "zebra"), ())
    assert manifest.extensions == ("cls", "jpg", "png", "webp")
    assert sorted(sample.media for sample in stored) == sorted(
        p.read_bytes() for p in images.rglob("*.*") if p.is_file() and p.suffix != ".txt"
    )
    assert Counter(sample.label for sample in stored) == {0: 20, 1: 10, 2: 1}
    assert len({sample.key for sample in stored}) == 31
    assert not any("." in sample.key or "/" in sample.key for sample in stored)
    assert [sample.label for sample in stored] != sorted(sample.label for sample in stored)
    assert check(folder, workers=1).problems == []


def test_a_build_depends_on_the_seed_and_not_on_the_workers(images: Path, tmp_path: Path):
    hashes = [
        only(build(images, tmp_path / f"o{n}", workers=w, seed=s))[1].hash() for n, (w, s) in enumerate([(1, 0), (2, 0), (1, 1)])
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_size_shrinks_the_shorter_side_and_never_enlarges(images: Path, tmp_path: Path):
    _, manifest, stored = only(build(images, tmp_path / "out", size=10, workers=1))
    sizes = {(sample.label, decode_image(sample.media).size) for sample in stored}
    assert sizes == {(0, (12, 9)), (1, (10, 13)), (2, (12, 9))}
    assert manifest.made["size"] == 10
    big = save(tmp_path / "big" / "a.webp", size=(40, 20)).parent
    _, manifest, _ = only(build(big, tmp_path / "big out", size=10, workers=1))
    assert manifest.extensions == ("png",)


def test_split_takes_its_share_of_every_class_once(images: Path, tmp_path: Path):
    manifests = build(images, tmp_path / "out", split=0.2, workers=1)
    train, test = tmp_path / "out" / "train", tmp_path / "out" / "test"
    assert list(manifests) == [train, test]
    assert Counter(sample.label for sample in samples(test)) == {0: 4, 1: 2}
    assert Counter(sample.label for sample in samples(train)) == {0: 16, 1: 8, 2: 1}
    assert manifests[train].classes == manifests[test].classes
    assert not {sample.media for sample in samples(train)} & {sample.media for sample in samples(test)} - {samples(train)[0].media}


def test_one_folder_or_none_is_no_class(images: Path, tmp_path: Path):
    assert only(build(images / "dog", tmp_path / "flat", workers=1))[1].classes is None
    save(images / "stray.png")
    _, manifest, stored = only(build(images, tmp_path / "stray", workers=1))
    assert (manifest.classes, {sample.label for sample in stored}) == (None, {None})


def test_what_does_not_decode_is_left_out_counted_and_named(images: Path, tmp_path: Path):
    (images / "cat" / "broken.jpg").write_bytes(b"JFIF")
    whole = save(images / "dog" / "cut.png", seed=7)
    whole.write_bytes(whole.read_bytes()[:-80])
    Image.new("RGB", (4, 4)).save(images / "dog" / "gif.png", "GIF")
    (images / "dog" / "link.jpeg").symlink_to(images / "dog" / "0.jpeg")
    _, manifest, stored = only(build(images, tmp_path / "out", workers=2))
    assert sorted(skip.file for skip in manifest.skipped) == ["cat/broken.jpg", "dog/cut.png", "dog/gif.png", "dog/link.jpeg"]
    assert all(skip.reason for skip in manifest.skipped)
    assert len(stored) == manifest.samples == 31


def test_linked_folders_are_followed_but_not_in_circles(images: Path, tmp_path: Path):
    subset = tmp_path / "subset"
    subset.mkdir()
    (subset / "dog").symlink_to(images / "dog")
    (subset / "cat").symlink_to(images / "cat")
    (subset / "again").symlink_to(subset)
    assert only(build(subset, tmp_path / "out", workers=1))[1].samples == 30


def test_shard_size_parts_the_shards(tmp_path: Path):
    for number in range(5):
        save(tmp_path / "images" / f"{number}.png", size=(500, 400), seed=number)
    _, manifest, _ = only(build(tmp_path / "images", tmp_path / "out", shard_size=1, workers=1))
    assert [shard.samples for shard in manifest.shards] == [2, 2, 1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": 0}, "size is 0"),
        ({"shard_size": 0}, "shard_size is 0"),
        ({"split": 1.0}, "split is 1"),
        ({"split": 0.001}, "leaves none for test"),
        ({"workers": 0}, "workers is 0"),
    ],
)
def test_values_out_of_range_are_one_sentence(images: Path, tmp_path: Path, options: dict[str, float], sentence: str):
    with pytest.raises(UserError, match=sentence):
        build(images, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_nothing_to_build_from_is_one_sentence(images: Path, tmp_path: Path):
    with pytest.raises(UserError, match="is not a folder"):
        build(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match=r"has no .jpeg, .jpg, .npy, .png, .tif, .tiff, .webp and no"):
        build(images / "empty", tmp_path / "out")
    (images / "empty" / "bad.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of 1 files could be used \(bad.jpg: "):
        build(images / "empty", tmp_path / "out", workers=1)
    with pytest.raises(UserError, match="is not an empty folder"):
        build(images, images, workers=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_both_parts_of_a_split_are_checked_together(tmp_path):
    from jepa_pipeline.synthetic.shapes import generate_shape

    generator = np.random.default_rng(0)
    for number in range(20):
        folder = tmp_path / "images" / ("a" if number % 2 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generate_shape("disc", 24, generator)).save(folder / f"{number}.png")
    build(tmp_path / "images", tmp_path / "out", split=0.2, workers=1)
    assert (report := check(tmp_path / "out", workers=1)).ok and report.samples == 20
    tar = next((tmp_path / "out/test").glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:-2000])
    assert check(tmp_path / "out", workers=1).problems
