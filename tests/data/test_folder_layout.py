"""Folders become classes only if they are some: not parts of a data set, pieces of it, or recordings."""

import json
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.data_parts import are_pieces, find_parts
from jepa_pipeline.data.label_list import read_label_list
from jepa_pipeline.data.media_folder import Labeling, list_media, split_files

Files = list[str]


def lay(root: Path, files: Files) -> Path:
    """Empty files: a layout is read from names alone."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def fill(*folders: str, suffix: str = "jpg") -> Files:
    return [f"{folder}/{n}.{suffix}" for folder in folders for n in range(2)]


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val"),
        ("Train", "Test"),
        ("training", "validation", "testing"),
        ("train", "valid", "test"),
        ("train", "dev"),
        ("TRAIN", "EVAL"),
        ("train2017", "val2017"),
        ("cars_train", "cars_test"),
        ("seg_train", "seg_test", "seg_pred"),
        ("training_set", "test_set"),
        ("train_images", "val"),
        ("videos_train", "videos_val"),
        ("trainA", "trainB", "testA", "testB"),
        ("train", "unlabeled"),
        ("train", "unlabel" + "led"),  # as the British spell it
        ("val", "test"),
        ("Training", "PublicTest", "PrivateTest"),
        ("k400_train", "val"),
        ("train", "val", "annotations"),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "mp4"])
def test_parts_of_a_data_set_are_no_classes(tmp_path: Path, names: tuple[str, ...], suffix: str):
    root = lay(tmp_path / "in", fill(*(f"{name}/cat" for name in names), *(f"{name}/dog" for name in names), suffix=suffix))
    with pytest.raises(
        UserError, match=r"are parts of a data set and not classes: build each by itself, `jepa shards build "
    ) as error:
        list_media(root)
    assert "\n" not in str(error.value) and f"{root}/{names[0]} OUT/" in str(error.value)
    listing = list_media(root, Labeling(without=True))
    assert listing.classes is None and len(listing.files) == 4 * len(names)


def test_the_commands_make_what_probes_look_for(tmp_path: Path):
    with pytest.raises(UserError) as error:
        list_media(lay(tmp_path / "a", fill("train/cat", "val/cat")))
    assert "a/train OUT/train` and `" in str(error.value) and "a/val OUT/test`" in str(error.value)
    with pytest.raises(UserError) as error:
        list_media(lay(tmp_path / "b", fill("train/cat", "val/cat", "test/cat")))
    assert all(f"b/{part} OUT/{part}`" in str(error.value) for part in ("train", "val", "test"))


@pytest.mark.parametrize(
    "names",
    [
        ("airplane", "automobile", "train"),
        ("train", "bus"),
        ("train_interior", "train_station-platform", "valley", "test_pattern"),
        ("training dog", "testifying", "taking test"),
        ("steam train", "val", "cow"),
        ("n01440764", "n01443537"),
        ("n01440764_tench", "n03272562_electric_locomotive", "n04310018_train"),
        ("1", "2", "10"),
        ("000", "001", "002"),
        ("001.Black_footed_Albatross", "002.Laysan_Albatross"),
        ("walk", "run"),
        ("contest", "validity", "trainee"),
    ],
)
def test_other_folders_are_classes(tmp_path: Path, names: tuple[str, ...]):
    listing = list_media(lay(tmp_path, fill(*names)))
    assert {*(listing.classes or ())} == {*names} and not listing.notes
    assert Counter(file.label for file in listing.files) == dict.fromkeys(range(len(names)), 2)
    assert all(file.path.parent.name == (listing.classes or ())[file.label or 0] for file in listing.files)


def test_classes_named_by_number_are_ordered_by_it(tmp_path: Path):
    assert list_media(lay(tmp_path, fill(*map(str, range(12))))).classes == tuple(map(str, range(12)))


def test_parts_are_found_below_other_folders_too(tmp_path: Path):
    with pytest.raises(UserError, match=r"ILSVRC/Data/train OUT/train"):
        list_media(lay(tmp_path / "a", fill("ILSVRC/Data/train/cat", "ILSVRC/Data/val/cat")))
    with pytest.raises(UserError, match=r"bottle holds test and train, which are parts .*: move them so that train holds"):
        list_media(lay(tmp_path / "b", fill("bottle/train/good", "bottle/test/broken", "cable/train/good", "cable/test/good")))


def test_one_folder_of_folders_is_named(tmp_path: Path):
    listing = list_media(lay(tmp_path / "in", fill("train/cat", "train/dog", "train/fox")))
    assert listing.classes is None
    assert listing.notes == [
        f"no classes, because {tmp_path}/in has one folder: build {tmp_path}/in/train to make its 3 folders classes"
    ]


def test_one_class_folder_is_no_class_and_named(tmp_path: Path):
    listing = list_media(lay(tmp_path / "in", fill("cat")))
    assert listing.classes is None
    assert listing.notes == [f"no classes, because {tmp_path}/in has one folder, cat, and classes are two folders or more"]
    assert not list_media(lay(tmp_path / "flat", ["0.jpg"])).notes


@pytest.mark.parametrize(
    "names",
    [
        ("chunk-000", "chunk-001"),
        ("part1", "part2", "part10"),
        ("fold_1", "fold_2"),
        ("k400_part_0", "k400_part_1"),
        ("episode_000000", "episode_000001"),
        ("traj1", "traj2"),
        ("video_0001", "video_0002"),
    ],
)
def test_pieces_and_recordings_are_no_classes(tmp_path: Path, names: tuple[str, ...]):
    root = lay(tmp_path / "in", fill(*names))
    with pytest.raises(UserError, match=r"look like pieces of a data set and not like classes: add --labels none"):
        list_media(root)
    assert list_media(root, Labeling(without=True)).classes is None


def test_names_of_classes_are_not_pieces():
    assert not are_pieces(["part", "chunk"]) and not are_pieces(["class1", "class2"]) and not are_pieces(["episode_1", "cat"])
    assert not find_parts(["train"]) and not find_parts([])


def test_a_recording_is_in_one_part_of_a_split(tmp_path: Path):
    root = lay(tmp_path, [f"episode_{n}/{camera}.mp4" for n in range(10) for camera in ("top", "wrist", "side")])
    listing = list_media(root, Labeling(without=True))
    parts = split_files(listing.files, 0.2, seed=0)
    train, test = ({file.path.parent.name for file in parts[part]} for part in ("train", "test"))
    assert (len(train), len(test)) == (8, 2) and not train & test


def robot(root: Path, version: str, episodes: int, files: Files) -> Path:
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps({"codebase_version": version, "total_episodes": episodes}))
    return lay(root, files)


@pytest.mark.parametrize("inside", ["", "videos", "videos/observation.images.top"])
def test_videos_of_many_episodes_are_refused(tmp_path: Path, inside: str):
    root = robot(tmp_path / "r", "v3.0", 50, ["videos/observation.images.top/chunk-000/file-000.mp4"])
    with pytest.raises(
        UserError, match=r"is a LeRobot data set of version 3 or later, where a video such as .*file-000.mp4 holds many"
    ):
        list_media(root / inside)


def test_videos_of_one_episode_are_split_by_episode(tmp_path: Path):
    cameras = ("observation.images.top", "observation.images.wrist")
    files = [f"videos/chunk-000/{camera}/episode_{n:06d}.mp4" for camera in cameras for n in range(10)]
    root = robot(tmp_path / "r", "v2.1", 10, files)
    for place in (root, root / "videos/chunk-000"):
        listing = list_media(place)
        assert listing.classes is None and len(listing.files) == 20
        parts = split_files(listing.files, 0.3, seed=0)
        train, test = ({file.path.stem for file in parts[part]} for part in ("train", "test"))
        assert (len(train), len(test)) == (7, 3) and not train & test
    other = lay(tmp_path / "o", ["meta/info.json", *fill("a", "b")])
    assert list_media(other).classes == ("a", "b"), "not every meta/info.json is LeRobot's"
    single = robot(tmp_path / "s", "v3.0", 2, [f"videos/{camera}/chunk-000/file-00{n}.mp4" for camera in cameras for n in range(2)])
    assert len(list_media(single).files) == 4


def test_a_flat_folder_may_have_synsets_in_its_names(tmp_path: Path):
    names = [f"n0144{n % 2}764_{n}.JPEG" for n in range(4)] + ["ILSVRC2012_val_00000293_n01440764.JPEG"]
    listing = list_media(lay(tmp_path / "a", names))
    assert listing.classes == ("n01440764", "n01441764") and [file.label for file in listing.files].count(0) == 3
    assert list_media(lay(tmp_path / "a", ["other.jpg"])).classes is None
    assert list_media(lay(tmp_path / "b", names[:1])).classes is None
    assert list_media(tmp_path / "a", Labeling(without=True)).classes is None


def test_two_folders_of_one_name_are_refused(tmp_path: Path):
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    with pytest.raises(UserError, match="has two folders with the name 'caf"):
        list_media(lay(tmp_path, fill(*names)))


def test_names_given_order_the_classes(tmp_path: Path):
    root = lay(tmp_path, fill("cat", "dog"))
    assert list_media(root, Labeling(names=("fox", "dog", "cat"))).classes == ("fox", "dog", "cat")
    assert {file.path.parent.name: file.label for file in list_media(root, Labeling(names=("fox", "dog", "cat"))).files} == {
        "dog": 1,
        "cat": 2,
    }
    with pytest.raises(UserError, match=r"has 1 class \(dog\) that the names given lack"):
        list_media(root, Labeling(names=("fox", "cat")))


def by_list(root: Path, text: str, **options) -> Labeling:
    path = root.parent / "labels.csv"
    path.write_text(text)
    return Labeling(labels=read_label_list(path), **options)


def test_a_list_labels_a_flat_folder(tmp_path: Path):
    root = lay(tmp_path / "in", ["a.jpg", "b.jpg", "c.jpg"])
    listing = list_media(root, by_list(root, "a.jpg,dog\nb.jpg,cat\nz.jpg,fox\n"))
    assert listing.classes == ("cat", "dog", "fox") and [file.label for file in listing.files] == [1, 0]
    assert listing.lost == ["fox"]
    assert [skip.file for skip in listing.skipped] == ["c.jpg", "z.jpg"]
    assert [skip.reason for skip in listing.skipped] == [
        "labels.csv has no label for it",
        "labels.csv names it, but there is no such file",
    ]
    assert listing.notes == [
        f"1 of 3 rows of {tmp_path}/labels.csv have no file, such as z.jpg",
        f"1 class (fox) of {tmp_path}/labels.csv with no file at all",
        f"1 of 3 files have no label in {tmp_path}/labels.csv, such as c.jpg: they are skipped",
    ]


def test_a_list_chooses_the_part(tmp_path: Path):
    root = lay(tmp_path / "in", ["train/x/a.mp4", "train/y/b.mp4", "val/x/c.mp4"])
    assert list_media(root, by_list(root, "train/x/a.mp4 0\ntrain/y/b.mp4 1\n")).classes == ("0", "1")
    with pytest.raises(UserError, match="are parts of a data set"):
        list_media(root, by_list(root, "a.mp4 0\nb.mp4 1\nc.mp4 0\n"))


def test_a_list_of_other_files_is_refused(tmp_path: Path):
    root = lay(tmp_path / "in", ["a.jpg"])
    with pytest.raises(UserError, match=r"no row of .* fits a file of .*: a row names x.jpg, a file is a.jpg; write paths"):
        list_media(root, by_list(root, "x.jpg,cat\ny.jpg,dog\n"))


def test_the_names_given_number_a_list(tmp_path: Path):
    root = lay(tmp_path / "in", ["a.jpg", "b.jpg"])
    listing = list_media(root, by_list(root, "a.jpg,2\nb.jpg,dog\n", names=("cat", "dog", "fox")))
    assert [file.label for file in listing.files] == [2, 1] and listing.classes == ("cat", "dog", "fox")


def test_a_stray_file_among_wordnet_names_is_named(tmp_path: Path):
    root = lay(tmp_path / "in", ["n01440764_1.JPEG", "n01440764_2.JPEG", "n01443537_3.JPEG", "preview.jpg"])
    listing = list_media(root)
    assert listing.classes is None
    assert "preview.jpg has no single WordNet ID in its name, as 3 of 4 files have" in listing.notes[0]
