"""Frames, cameras and clips of one recording are never in both parts of a split, or the user is told."""

import os
from collections import Counter
from pathlib import Path

import pytest

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.media_folder import FolderListing, Labeling, list_media, split_files
from jepa_pipeline.data.recordings import group_files


def lay(root: Path, names: list[str]) -> Path:
    """Empty files: a layout is read from names alone."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def parts_of(listing: FolderListing, split: float = 0.25) -> dict[str, set[str | None]]:
    return {part: {file.group for file in files} for part, files in split_files(listing.files, split, seed=0).items()}


@pytest.mark.parametrize(
    "form",
    [
        "{c}/episode_{e}/frame_{n:03d}.png",
        "{c}/episode_{e}/left/{n}.png",
        "{c}/left/episode_{e}/{n}.png",
        "{c}/site/trial-{e}/{n}.jpg",
        "{c}/episode_{e}_frame_{n:03d}.png",
        "{c}/g0{e}_c01_frame{n}.jpg",
        "{c}/v_{c}_g0{e}/frame{n:06d}.jpg",
        "{c}/video_{e}/{n}.mp4",
        "{c}/demo_{e}_{n}.mp4",
        "{c}/v_{c}_g0{e}_c0{n}.avi",
    ],
)
def test_a_recording_below_a_class_folder_is_in_one_part(tmp_path: Path, form: str):
    root = lay(tmp_path, [form.format(c=c, e=e, n=n) for c in ("cat", "dog") for e in range(8) for n in range(3)])
    listing = list_media(root)
    assert listing.classes == ("cat", "dog") and len({file.group for file in listing.files}) == 16
    parts = parts_of(listing)
    assert not parts["train"] & parts["test"] and None not in parts["train"]
    assert Counter(str(group).split("/")[0] for group in parts["test"]) == {"cat": 2, "dog": 2}, "a share of every class"
    assert listing.recordings[0].startswith("16 recordings, such as cat/") and len(listing.recordings) == 1


@pytest.mark.parametrize(
    "form", ["top/episode_{e}.mp4", "episode_{e}/top.mp4", "cam_0/chunk/episode_{e}.mp4", "episode_{e}_top.mp4"]
)
def test_the_cameras_of_a_recording_are_together(tmp_path: Path, form: str):
    names = [form.format(e=e) for e in range(8)]
    root = lay(tmp_path, [*names, *(name.replace("top", "wrist").replace("cam_0", "cam_1") for name in names)])
    parts = parts_of(list_media(root, Labeling(without=True)))
    assert (len(parts["train"]), len(parts["test"])) == (6, 2) and not parts["train"] & parts["test"]


@pytest.mark.parametrize(
    "names",
    [
        [f"{c}/episode_{n}.mp4" for c in ("cat", "dog") for n in range(3)],
        [f"{c}/image_{n:04d}.jpg" for c in ("cat", "dog") for n in range(3)],
        [f"{c}/{n:05d}.png" for c in "01" for n in range(3)],
        [f"images/{n:06d}.jpg" for n in range(1, 5)],
        [f"{c}/{c}ness/{n}{n}.jpg" for c in ("cat", "dog") for n in range(3)],
        ["cat/scene_1.jpg", "dog/prime_3.jpg", "dog/prime_4.jpg"],
    ],
)
def test_files_that_stand_alone_are_split_by_themselves(tmp_path: Path, names: list[str]):
    listing = list_media(lay(tmp_path, names))
    assert {file.group for file in listing.files} == {None} and not listing.recordings


@pytest.mark.parametrize("form", ["{c}/frame_{n:03d}.png", "{c}/clip-{c}/{n:05d}.jpg", "{c}/{c}{c}/img_{n:05d}.jpg"])
def test_frames_of_no_known_recording_are_named(tmp_path: Path, form: str):
    listing = list_media(lay(tmp_path, [form.format(c=c, n=n) for c in ("cat", "dog") for n in range(1, 5)]))
    (sentence,) = listing.recordings
    assert sentence.startswith(form.format(c="cat", n=1)) and "the split puts neighbors into both parts: move each" in sentence


def test_a_split_without_recordings_to_spare_is_refused_with_a_cure(tmp_path: Path):
    files = list_media(lay(tmp_path, [f"{c}/episode_1/{n}.png" for c in "ab" for n in range(9)])).files
    with pytest.raises(UserError, match=r"of 2 recordings, such as ./episode_1, leaves none for test: build each part by itself"):
        split_files(files, 0.25, seed=0)


def test_frames_of_a_class_of_one_recording_stay_in_training(tmp_path: Path):
    names = [f"{c}/episode_{e}/{n}.png" for c, episodes in (("a", 4), ("b", 1)) for e in range(episodes) for n in range(5)]
    assert parts_of(list_media(lay(tmp_path, names)))["test"] <= {f"a/episode_{e}" for e in range(4)}


def test_a_class_folder_named_as_a_recording_is_none():
    names = ["episode_1/0.png", "episode_1/1.png", "cat/0.png", "cat/1.png"]
    assert group_files(names, robot=False, classes=True) == [None] * 4
    assert group_files(names, robot=False, classes=False) == ["episode_1", "episode_1", None, None]


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["cat/a/0.png", "cat/b/0.bmp", "dog/a/0.png"], "1 folder ({}/cat/b) without"),
        (["x/cat/0.png", "x/cow/0.heic", "x/cow/1.heic", "x/dog/0.png"], "1 folder ({}/x/cow) without"),
        (["cat/a/0.png", "cat/b/readme.txt", "dog/a/0.png"], None),
        (["cat/0.png", "dog/0.png", "out/train/manifest.json", "out/train/shard-000000.tar"], None),
    ],
)
def test_folders_of_unread_files_are_named_at_any_depth(tmp_path: Path, names: list[str], note: str | None):
    notes = list_media(lay(tmp_path, names)).notes
    assert any(note.format(tmp_path) in sentence for sentence in notes) if note else not notes


def test_an_empty_folder_beside_classes_is_named(tmp_path: Path):
    root = lay(tmp_path, ["cat/0.png", "dog/0.png"])
    (root / "cow/images").mkdir(parents=True)
    listing = list_media(root)
    assert listing.classes == ("cat", "dog") and listing.notes == [f"1 folder ({root}/cow) without a file of a format that is read"]


def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = lay(tmp_path, ["cat/0.png", "dog/0.png"])
    scan = os.scandir

    def refuse(place: str):
        if str(place).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(UserError, match=r"dog cannot be read \(Permission denied\), so that its files would be missing"):
        list_media(root)
