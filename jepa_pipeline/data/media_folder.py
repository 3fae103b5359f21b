"""The images or videos of a folder, their classes, and their split into train and test."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.data.sample import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS

IMAGE_SUFFIXES = {f".{extension}" for extension in IMAGE_EXTENSIONS}
VIDEO_SUFFIXES = {f".{extension}" for extension in VIDEO_EXTENSIONS}
PRINTED_SUFFIXES = 8
"""Most frequent suffixes of other files that are printed."""


class MediaFile(NamedTuple):
    """An image or video file and its label."""

    path: Path
    label: int | None

    @property
    def kind(self) -> DataKind:
        return "videos" if self.path.suffix.lower() in VIDEO_SUFFIXES else "images"


class FolderListing(NamedTuple):
    """All images or all videos of a folder sorted by name, labeled if there are classes; the number of other files by suffix."""

    files: list[MediaFile]
    classes: tuple[str, ...] | None
    others: Counter[str]


def list_media(folder: Path) -> FolderListing:
    """List the images or videos of a folder at any depth.

    First-level folders are classes if there are several and no file is beside them.

    Raises:
        UserError: there are neither, or both.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name the folder that holds the images or videos")
    found = sorted(walk(folder))
    paths = [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
    others = Counter(path.suffix.lower() for path in found) - Counter(path.suffix.lower() for path in paths)
    if not paths:
        instead = f", but {describe_suffixes(others)}" if others else ""
        images, videos = (", ".join(sorted(suffixes)) for suffixes in (IMAGE_SUFFIXES, VIDEO_SUFFIXES))
        raise UserError(
            f"{folder} has no {images} and no {videos} file at any depth{instead}: name the folder that holds the images or videos"
        )
    parents = [path.relative_to(folder).parts[:-1] for path in paths]
    tops = sorted({parts[0] for parts in parents if parts})
    classes = tuple(map(to_utf8, tops)) if len(tops) > 1 and all(parents) else None
    numbers = {top: number for number, top in enumerate(tops)}
    files = [MediaFile(path, numbers[parts[0]] if classes else None) for path, parts in zip(paths, parents, strict=True)]
    check_same_kind(files, folder)
    return FolderListing(files, classes, others)


def describe_suffixes(files: Counter[str]) -> str:
    """Return the number of files by suffix in words, the most frequent first."""
    common = [f"{count} {to_utf8(suffix) or 'without a suffix'}" for suffix, count in files.most_common(PRINTED_SUFFIXES)]
    rest = files.total() - sum(count for _, count in files.most_common(PRINTED_SUFFIXES))
    return ", ".join([*common, f"{rest} more"] if rest else common)


def check_same_kind(files: Sequence[MediaFile], folder: Path) -> None:
    examples = {file.kind: file.path.relative_to(folder) for file in files}
    if len(examples) > 1:
        counts = Counter(file.kind for file in files)
        raise UserError(
            f"{folder} holds {counts['images']} images, such as {examples['images']}, and {counts['videos']} videos, such as "
            f"{examples['videos']}: move them into two folders, build those separately, and mix them in data.train"
        )


def walk(folder: Path) -> Iterator[Path]:
    """Yield every file at any depth except hidden ones, such as those of macOS beside files on foreign disks."""
    for root, folders, files in os.walk(folder, followlinks=True):
        parent = Path(root)
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX")) and not leads_above(parent, name)]
        yield from (parent / name for name in files if not name.startswith("."))


def leads_above(folder: Path, name: str) -> bool:
    """Return whether a subfolder is a link to a folder that contains it, which would be walked for ever."""
    return folder.resolve().is_relative_to((folder / name).resolve())


def find_unclassified(files: Sequence[MediaFile], folder: Path) -> Path | None:
    """Return the first file beside the first-level folders, without which those would be classes."""
    beside = [file.path for file in files if file.path.parent == folder]
    return beside[0] if 0 < len(beside) < len(files) else None


def split_files(files: Sequence[MediaFile], split: float, seed: int) -> dict[str, list[MediaFile]]:
    """Return the shuffled files by part: `split` of every class in "test" and the rest in "train", or all in "" without a split.

    Raises:
        UserError: a part would be empty.
    """
    shuffled = [files[index] for index in np.random.default_rng(seed).permutation(len(files))]
    if not split:
        return {"": shuffled}
    test_files = {label: round(count * split) for label, count in Counter(file.label for file in files).items()}
    parts: dict[str, list[MediaFile]] = {"train": [], "test": []}
    for file in shuffled:
        part = "test" if test_files[file.label] > 0 else "train"
        test_files[file.label] -= 1
        parts[part].append(file)
    for part, selected in parts.items():
        if not selected:
            raise UserError(f"split {split:g} of {len(files)} {files[0].kind} leaves none for {part}: choose another share")
    return parts


def to_utf8(name: str) -> str:
    """Return a file name as text that JSON can hold, with question marks for bytes that are not UTF-8."""
    return name.encode("utf-8", "replace").decode()
