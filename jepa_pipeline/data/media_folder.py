"""A folder of images or videos: which there are, which class each has, and how they are dealt to train and test."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.samples import IMAGES, VIDEOS, Kind

IMAGE_SUFFIXES = {f".{extension}" for extension in IMAGES}
VIDEO_SUFFIXES = {f".{extension}" for extension in VIDEOS}
NAMED_SUFFIXES = 8
"""Suffixes of files that are not read which are named, the most frequent ones."""


class Source(NamedTuple):
    """An image or video file and its label."""

    path: Path
    label: int | None

    @property
    def kind(self) -> Kind:
        return "videos" if self.path.suffix.lower() in VIDEO_SUFFIXES else "images"


class Listing(NamedTuple):
    """What a folder holds: every image or every video file in the order of the names, labeled if first-level folders are
    classes; the class names; how many other files there are by suffix.
    """

    sources: list[Source]
    classes: tuple[str, ...] | None
    others: Counter[str]


def find_sources(folder: Path) -> Listing:
    """The files under a folder. Hidden ones, whose names begin with a dot, are passed over.

    Raises:
        UserError: there are none, or there are both.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name the folder that holds the images or videos")
    files = sorted(walk(folder))
    paths = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
    others = Counter(path.suffix.lower() for path in files) - Counter(path.suffix.lower() for path in paths)
    if not paths:
        instead = f", but {by_suffix(others)}" if others else ""
        images, videos = (", ".join(sorted(suffixes)) for suffixes in (IMAGE_SUFFIXES, VIDEO_SUFFIXES))
        raise UserError(
            f"{folder} holds no {images} file and no {videos} file at any depth{instead}: name the folder that holds the images or "
            "videos"
        )
    parents = [path.relative_to(folder).parts[:-1] for path in paths]
    tops = sorted({parts[0] for parts in parents if parts})
    classes = tuple(map(printable, tops)) if len(tops) > 1 and all(parents) else None
    numbers = {top: number for number, top in enumerate(tops)}
    sources = [Source(path, numbers[parts[0]] if classes else None) for path, parts in zip(paths, parents, strict=True)]
    check_kind(sources, folder)
    return Listing(sources, classes, others)


def by_suffix(files: Counter[str]) -> str:
    """Numbers of files in words, most frequent suffixes first."""
    common = [f"{count} {printable(suffix) or 'without a suffix'}" for suffix, count in files.most_common(NAMED_SUFFIXES)]
    rest = files.total() - sum(count for _, count in files.most_common(NAMED_SUFFIXES))
    return ", ".join([*common, f"{rest} more"] if rest else common)


def check_kind(sources: Sequence[Source], folder: Path) -> None:
    """Raises UserError if some sources are images and others videos."""
    examples = {source.kind: source.path.relative_to(folder) for source in sources}
    if len(examples) > 1:
        counts = Counter(source.kind for source in sources)
        raise UserError(
            f"{folder} holds {counts['images']} images, such as {examples['images']}, and {counts['videos']} videos, such as "
            f"{examples['videos']}: move them into two folders, build those apart, and mix them in data.train"
        )


def walk(folder: Path) -> Iterator[Path]:
    """Every file at any depth but hidden ones, such as those that macOS lays beside others on disks that are not its own."""
    for root, folders, files in os.walk(folder, followlinks=True):
        here = Path(root)
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX")) and not leads_above(here, name)]
        yield from (here / name for name in files if not name.startswith("."))


def leads_above(folder: Path, name: str) -> bool:
    """Whether a subfolder is a link to a folder it lies in."""
    return folder.resolve().is_relative_to((folder / name).resolve())


def stray(sources: Sequence[Source], folder: Path) -> Path | None:
    """The first file that lies beside folders of such files, for want of which they would be classes."""
    beside = [source.path for source in sources if source.path.parent == folder]
    return beside[0] if 0 < len(beside) < len(sources) else None


def deal(sources: Sequence[Source], split: float, seed: int) -> dict[str, list[Source]]:
    """The shuffled sources by part: all of them in one without a name, or `split` of every class in test, the rest in train."""
    shuffled = [sources[number] for number in np.random.default_rng(seed).permutation(len(sources))]
    if not split:
        return {"": shuffled}
    wanted = {label: round(count * split) for label, count in Counter(source.label for source in sources).items()}
    parts: dict[str, list[Source]] = {"train": [], "test": []}
    for source in shuffled:
        part = "test" if wanted[source.label] > 0 else "train"
        wanted[source.label] -= 1
        parts[part].append(source)
    for part, files in parts.items():
        if not files:
            raise UserError(f"split {split:g} of {len(sources)} {sources[0].kind} leaves none for {part}: choose another share")
    return parts


def printable(name: str) -> str:
    """A file name as text that JSON can hold; bytes that are no UTF-8 become question marks."""
    return name.encode("utf-8", "replace").decode()
