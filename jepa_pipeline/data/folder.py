"""A folder of images: which there are, which class each has, and how they are dealt to train and test."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jepa_pipeline.config.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


class Source(NamedTuple):
    """An image file and its label."""

    path: Path
    label: int | None


def find_images(images: Path) -> tuple[list[Source], tuple[str, ...] | None]:
    """Every image file under a folder in the order of the names, labelled if first-level folders are classes; the class names."""
    if not images.is_dir():
        raise UserError(f"{images} is not a folder: name the folder that holds the images")
    paths = sorted(walk(images))
    if not paths:
        raise UserError(f"{images} holds no {', '.join(sorted(SUFFIXES))} file at any depth: name the folder that holds the images")
    parents = [path.relative_to(images).parts[:-1] for path in paths]
    tops = sorted({parts[0] for parts in parents if parts})
    if len(tops) < 2 or not all(parents):
        return [Source(path, None) for path in paths], None
    numbers = {top: number for number, top in enumerate(tops)}
    return [Source(path, numbers[parts[0]]) for path, parts in zip(paths, parents, strict=True)], tuple(map(printable, tops))


def walk(images: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(images, followlinks=True):
        here = Path(root)
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX")) and not leads_above(here, name)]
        yield from (here / name for name in files if Path(name).suffix.lower() in SUFFIXES)


def leads_above(folder: Path, name: str) -> bool:
    """Whether a subfolder is a link to a folder it lies in."""
    return folder.resolve().is_relative_to((folder / name).resolve())


def stray(sources: Sequence[Source], images: Path) -> Path | None:
    """The first image that lies beside folders of images, for want of which they would be classes."""
    beside = [source.path for source in sources if source.path.parent == images]
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
            raise UserError(f"split {split:g} of {len(sources)} images leaves none for {part}: choose another share")
    return parts


def printable(name: str) -> str:
    """A file name as text that JSON can hold; bytes that are no UTF-8 become question marks."""
    return name.encode("utf-8", "replace").decode()
