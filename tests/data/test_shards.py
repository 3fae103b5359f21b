"""What is written can be read: by us in any order, and by plain webdataset."""

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image
from tars import forget_hashes

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.decode import decode_image
from jepa_pipeline.data.index import index_path
from jepa_pipeline.data.local_files import describe_unhashed, require_files
from jepa_pipeline.data.manifest import Manifest, Skipped, load_manifest
from jepa_pipeline.data.shards import SampleError, Shards
from jepa_pipeline.data.unfinished import new_folder
from jepa_pipeline.data.writer import png_record, write_shards

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 12, 9, 3), np.uint8)
CLASSES = ("cat", "dog")


def write(folder: Path, labeled: bool = True) -> Manifest:
    records = [png_record(f"k{n:02d}", Image.fromarray(pixels), n % 2 if labeled else None) for n, pixels in enumerate(PIXELS)]
    return write_shards(records, folder, classes=CLASSES if labeled else None, made={"source": "noise"})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("jepa_pipeline.data.writer.SHARD_SAMPLES", 8)
    write(tmp_path / "set 100%")
    return tmp_path / "set 100%"


def test_every_sample_is_read_back(folder: Path):
    shards = Shards(folder, max_open=2)
    assert shards.counts == [8, 8, 4]
    for number in np.random.default_rng(0).permutation(20).tolist():
        sample = shards.read(number // 8, number % 8)
        assert (sample.key, sample.label) == (f"k{number:02d}", number % 2)
        assert (np.asarray(decode_image(sample.media)) == PIXELS[number]).all()


def test_numbers_are_located_in_any_order(folder: Path):
    assert Shards(folder).locate([19, 0, 7, 8, 15, 16]) == [(2, 3), (0, 0), (0, 7), (1, 0), (1, 7), (2, 0)]
    assert Shards(folder).locate([]) == []


def test_plain_webdataset_reads_the_same_samples(folder: Path):
    urls = [str(folder / shard.file) for shard in load_manifest(folder).shards]
    plain = webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("__key__", "png", "cls")
    for number, (key, image, label) in enumerate(plain):
        assert (key, label) == (f"k{number:02d}", number % 2)
        assert (np.asarray(image) == PIXELS[number]).all()
    assert number == 19


def test_the_manifest_describes_the_pixels_and_the_files(folder: Path):
    manifest = load_manifest(folder)
    assert (manifest.samples, manifest.classes, manifest.extensions) == (20, CLASSES, ("cls", "png"))
    assert manifest.mean == pytest.approx((PIXELS / 255).mean((0, 1, 2)), abs=1e-6)
    assert manifest.std == pytest.approx((PIXELS / 255).std((0, 1, 2)), abs=1e-6)
    assert [(folder / shard.file).stat().st_size for shard in manifest.shards] == [shard.bytes for shard in manifest.shards]


def test_the_same_samples_give_the_same_bytes(folder: Path, tmp_path: Path):
    again = write(tmp_path / "again")
    assert again.hash() == load_manifest(folder).hash() == load_manifest(tmp_path / "again").hash()
    assert len(again.hash()) == 12
    assert write(tmp_path / "bare", labeled=False).hash() != again.hash()


def test_without_labels_there_are_none(tmp_path: Path):
    manifest = write(tmp_path / "bare", labeled=False)
    assert (manifest.classes, manifest.extensions) == (None, ("png",))
    assert Shards(tmp_path / "bare").read(0, 3).label is None


def test_shards_travel_with_no_open_file(folder: Path):
    shards = Shards(folder)
    shards.read(0, 0)
    assert pickle.loads(pickle.dumps(shards)).read(2, 1) == shards.read(2, 1)


def test_an_unusable_sample_is_named_with_its_cure(folder: Path):
    tar = folder / "shard-000002.tar"
    tar.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(
        SampleError, match=r"^sample k19 of .*shard-000002.tar cannot be used \(its shard is trunc.*`jepa shards check"
    ):
        Shards(folder).read(2, 3)


def test_where_a_cure_is_known_no_check_is_advised(folder: Path):
    error = Shards(folder).sample_error(0, "k", "it is short", "set it to long")
    assert str(error) == f"sample k of {folder / 'shard-000000.tar'} cannot be used (it is short): set it to long"


def test_an_error_that_came_from_a_worker_keeps_its_sentence_only():
    sentence = "sample k of s.tar cannot be used (why): do this"
    assert str(SampleError(f"Caught SampleError in worker 0.\nTraceback\n  raise x\na.b.SampleError: {sentence}\n")) == sentence
    assert str(SampleError(sentence)) == sentence


def edit(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        values = json.loads((folder / "manifest.json").read_text())
        change(values)
        (folder / "manifest.json").write_text(json.dumps(values))

    return damage


MISTAKES = {
    "has tars but no manifest.json: make it with `jepa shards index": lambda folder: (folder / "manifest.json").unlink(),
    "has no manifest.json: make shards .* `jepa shards build IMAGES": lambda folder: [path.unlink() for path in folder.iterdir()],
    "is not readable JSON": lambda folder: (folder / "manifest.json").write_text("{"),
    "has version 7": edit(lambda values: values.update(version=7)),
    "has version None": lambda folder: (folder / "manifest.json").write_text("[]"),
    r"is damaged at shards.0.samples": edit(lambda values: values["shards"][0].update(samples="many")),
    r"is damaged at shards.0.file": edit(lambda values: values["shards"][0].update(file="../elsewhere.tar")),
    "says 21 samples": edit(lambda values: values.update(samples=21)),
    r"lacks shard-000001.tar and 1 more": lambda folder: [path.unlink() for path in folder.glob("*[12].tar")],
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_a_wrong_manifest_is_one_sentence(folder: Path, sentence: str):
    MISTAKES[sentence](folder)
    with pytest.raises(UserError, match=sentence) as caught:
        load_manifest(folder)
    assert "\n" not in str(caught.value)


def test_the_folder_above_or_none_at_all_is_one_sentence(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"but its folders set 100% do"):
        load_manifest(tmp_path)
    with pytest.raises(
        UserError, match=r"is not a folder: if it moved, name its new place \(for a run: data.train=NEW\), else make it"
    ):
        load_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize("text", [None, "{}", '{"keys": ["a"], "members": {}, "labels": []}'])
def test_a_wrong_index_is_one_sentence(folder: Path, text: str | None):
    path = index_path(folder / "shard-000000.tar")
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(SampleError, match=r"sample number 3 of .*shard-000000.tar cannot .*index.json is missing or damaged\)"):
        Shards(folder).read(0, 3)


def test_an_index_of_another_shard_is_refused(folder: Path):
    index_path(folder / "shard-000002.tar").rename(index_path(folder / "shard-000000.tar"))
    with pytest.raises(SampleError, match=r"shard-000000.index.json is not the one that the manifest names"):
        Shards(folder).read(0, 0)
    forget_hashes(folder)
    with pytest.raises(SampleError, match="lists 4 samples, the manifest 8"):
        Shards(folder).read(0, 0)


def test_an_index_with_other_labels_is_refused(folder: Path):
    path = index_path(folder / "shard-000000.tar")
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "labels": values["labels"][::-1]}))
    with pytest.raises(SampleError, match=r"shard-000000.index.json is not the one that the manifest names"):
        Shards(folder).read(0, 0)
    assert [*describe_unhashed(str(folder), load_manifest(folder))] == []
    forget_hashes(folder)
    assert Shards(folder).read(0, 0).label == 1, "manifests of earlier versions are read as before"
    (said,) = describe_unhashed(str(folder), load_manifest(folder))
    assert "made by an earlier version and has no hash of its index files" in said and "`jepa shards check" in said


@pytest.mark.parametrize(("more", "says"), [(-512, "truncated"), (512, "another one")])
def test_no_sample_of_a_shard_of_another_size_is_used(folder: Path, more: int, says: str):
    size = (folder / "shard-000001.tar").stat().st_size + more
    os.truncate(folder / "shard-000001.tar", size)
    sentence = rf"sample k08 of .*shard-000001.tar cannot be used \(its shard is {says}: it has {size:,} bytes, the manifest says"
    with pytest.raises(SampleError, match=sentence):
        Shards(folder).read(1, 0)
    assert Shards(folder).read(0, 0).key == "k00"
    with pytest.raises(UserError, match=rf"shard-000001.tar has {size:,} bytes, the manifest says"):
        require_files(str(folder), load_manifest(folder))


@pytest.mark.parametrize("name", ["shard-000001.tar", "shard-000002.index.json"])
def test_a_file_of_the_same_size_is_told_by_its_hash(folder: Path, name: str):
    manifest, read = load_manifest(folder), []
    require_files(str(folder), manifest, hashes=True, progress=lambda: read.append(1))
    assert len(read) == 3, "each shard is progress, so that the watchdog lets a large set be read"
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:700].swapcase() + data[700:])
    require_files(str(folder), manifest)
    with pytest.raises(UserError, match=rf"the SHA-256 of {name} is [0-9a-f]{{12}}, the manifest says"):
        require_files(str(folder), manifest, hashes=True)


@pytest.mark.parametrize("name", ["shard-000000.tar", "shard-000000.index.json"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(folder: Path, name: str):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(SampleError):
        Shards(folder).read(0, 0)


def test_a_shard_that_vanished_is_named(folder: Path):
    shards = Shards(folder)
    (folder / "shard-000001.tar").unlink()
    sentence = r"sample number 2 of .*shard-000001.tar cannot be used \(its shard is missing\)"
    with pytest.raises(SampleError, match=sentence):
        shards.read(1, 2)
    assert shards.read(2, 0).key == "k16"


def test_nothing_is_written_over(folder: Path):
    with pytest.raises(UserError, match="is not empty"):
        write(folder)
    with pytest.raises(UserError, match="is not an empty folder"), new_folder(folder):
        pass


def test_without_samples_there_is_no_data_set(tmp_path: Path):
    with pytest.raises(UserError, match="at least one"):
        write_shards([], tmp_path / "none", classes=None, made={})
    with pytest.raises(UserError, match=r"none of 1 files could be used \(a.jpg: broken\)"):
        write_shards([Skipped(file="a.jpg", reason="broken")], tmp_path / "skipped", classes=None, made={})


def test_a_failed_build_leaves_nothing(tmp_path: Path):
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out") as partial:
        write(partial / "train")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from PIL import Image
from jepa_pipeline.data.unfinished import new_folder
from jepa_pipeline.data.writer import png_record, write_shards

def records():
    yield png_record("a", Image.new("RGB", (4, 4)), None)
    os.kill(os.getpid(), signal.SIGKILL)

with new_folder(Path(sys.argv[1])) as folder:
    write_shards(records(), folder, classes=None, made={})
"""


def test_a_killed_build_leaves_nothing_that_looks_whole(tmp_path: Path):
    out = tmp_path / "out"
    assert subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False).returncode == -9
    assert not out.exists()
    assert not (tmp_path / "out.partial" / "manifest.json").exists()
    with new_folder(out) as folder:
        assert not [path for path in folder.iterdir() if not path.name.startswith(".")], (
            "nothing is left of what cannot be continued"
        )
        write(folder / "train")
    assert [path.name for path in out.iterdir()] == ["train"]


def test_a_folder_that_no_build_left_is_not_deleted(tmp_path: Path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine").touch()
    with pytest.raises(UserError, match=r"out.partial is not empty and was left by no build"), new_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out.partial" / "mine").exists()


def test_two_builds_never_write_one_folder(tmp_path: Path):
    with new_folder(tmp_path / "out") as folder:
        with pytest.raises(UserError, match=rf"process {os.getpid()} on .* is writing .*out.partial"), new_folder(tmp_path / "out"):
            pass
        write(folder)
    assert load_manifest(tmp_path / "out").samples == 20


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ([512, (1 << 30) + 1], "its index gives its image 1073741825 bytes, more than the limit of 1073741824"),
        ([1 << 40, 5], "its shard is truncated"),
        ([1 << 70, 5], "is missing or damaged"),
        (None, "it has no jpg, jpeg, png, webp"),
    ],
)
def test_an_index_that_points_nowhere_is_a_damaged_sample(folder: Path, place: list[int] | None, says: str):
    path = index_path(folder / "shard-000000.tar")
    values = json.loads(path.read_text())
    values["members"]["png"][0] = place
    path.write_text(json.dumps(values))
    forget_hashes(folder)
    with pytest.raises(SampleError, match=says):
        Shards(folder).read(0, 0)


def test_a_shard_the_system_does_not_open_is_no_damage(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A run that skipped what may be there a minute later would not be the run it should be."""

    def busy(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("os.open", busy)
    with pytest.raises(UserError, match=r"cannot be read .Too many open files.: fix that, then run the same command again") as told:
        Shards(folder).read(0, 0)
    assert not isinstance(told.value, SampleError)


def test_an_open_shard_is_small(tmp_path: Path):
    """Of 10,000 samples, as many as a shard of ours holds: a worker has dozens open."""
    import tracemalloc

    from jepa_pipeline.data.index import ShardIndex
    from jepa_pipeline.data.open_shard import OpenShard

    count = 10_000
    index = ShardIndex(
        keys=[f"{n:08d}_a-file-name-of-some-length" for n in range(count)],
        members={"jpg": [(n * 30_000, 28_000) for n in range(count)]},
        labels=[n % 1000 for n in range(count)],
    )
    (tmp_path / "x").touch()
    tracemalloc.start()
    opened = OpenShard(os.open(tmp_path / "x", os.O_RDONLY), index)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 0.8e6 and opened.key(7) == "00000007_a-file-name-of-some-length" and opened.label(1001) == 1


@pytest.mark.parametrize(
    ("place", "command"),
    [
        ("data/demo/train", "jepa shards demo data/demo"),
        ("data/demo-video/test", "jepa shards demo-video data/demo-video"),
        ("data/demo-scales/fast/train", "jepa shards demo-scales data/demo-scales"),
        ("data/photos/train", "jepa shards build IMAGES data/photos --split 0.1"),
        ("data/photos", "jepa shards build IMAGES data/photos"),
    ],
)
def test_missing_data_is_made_by_the_command_for_it(place, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"`{re.escape(command)}`$"):
        load_manifest(place)


@pytest.mark.parametrize(
    ("files", "place", "said"),
    [
        (["one photo.jpg"], "one photo.jpg", "is one file: make shards of its folder with `jepa shards build {folder} SHARDS`"),
        (["a.tar"], "a.tar", "is one tar of a data set: name its folder, {folder}, after `jepa shards index {folder}`"),
        (["a.tar", "manifest.json"], "a.tar", "is one tar of a data set: name its folder, {folder}"),
        (["manifest.json"], "manifest.json", "is the manifest of a data set: name its folder, {folder}"),
        (["notes.txt"], "notes.txt", "is a file: name a folder of shards"),
        (
            ["train/cats/a.jpg", "val/cats/b.jpg"],
            "",
            "`jepa shards build {folder}/train SHARDS/train` and `jepa shards build {folder}/val SHARDS/test`",
        ),
        (["my photos/2020/05/a.jpg"], "my photos", "`jepa shards build '{folder}/my photos' SHARDS`"),
    ],
)
def test_what_is_no_data_set_is_answered_with_the_command_for_it(files, place, said, tmp_path):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(UserError) as refused:
        load_manifest(tmp_path / place)
    assert said.format(folder=tmp_path) in str(refused.value)


@pytest.mark.parametrize("name", ["cat.JPG", "cats/a.webp", "clips/b.mp4", "cameras/1/2/c.png"])
def test_a_folder_of_images_is_what_shards_are_made_of_and_not_where(name, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=f"no manifest.json but files such as {name}: .*`jepa shards build {tmp_path} SHARDS`"):
        load_manifest(tmp_path)
