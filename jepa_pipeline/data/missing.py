"""Sentences on a place where a data set should be: why there is none, and the command that makes it of what is there."""

import os
from itertools import islice
from pathlib import Path
from shlex import quote

from jepa_pipeline.data.data_parts import find_parts, target_names
from jepa_pipeline.data.sample import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS

MANIFEST = "manifest.json"
SYNTHETIC = ("demo", "demo-video", "demo-scales")
"""Data sets that `jepa shards` generates, in folders of these names."""
FILES_SEEN = 10_000
"""Files of a folder that are looked at to tell what it holds."""


def describe_other(folder: Path) -> str:
    """Return why a folder or file is no data set, nor an unfinished one, and the command that makes one."""
    if folder.is_file():
        return describe_file(folder)
    if not folder.is_dir():
        moved = "if it moved, name its new place (for a run: data.train=NEW)"
        return f"{folder} is not a folder: {moved}, else make it with `{command_that_makes(folder)}`"
    parts = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    if parts:
        return f"{folder} has no {MANIFEST}, but its folders {' and '.join(parts)} do: name one, such as {folder / parts[-1]}"
    if any(folder.glob("*.tar")):
        return f"{folder} has tars but no {MANIFEST}: make it with `jepa shards index {folder}`"
    if media := first_media(folder):
        name = "one of these folders" if find_media_parts(folder) else "that"
        return (
            f"{folder} has no {MANIFEST} but files such as {media.relative_to(folder)}: make shards of it with "
            f"{commands_to_build(folder)}, where SHARDS is a new folder, and name {name}"
        )
    return f"{folder} has no {MANIFEST}: make shards of a folder of images or videos with `jepa shards build IMAGES SHARDS`"


def describe_file(file: Path) -> str:
    """Return why a file is no data set, and the command that makes one of its folder."""
    folder = quote(str(file.parent))
    if file.suffix == ".tar":
        made = "" if (file.parent / MANIFEST).is_file() else f", after `jepa shards index {folder}`"
        return f"{file} is one tar of a data set: name its folder, {file.parent}{made}"
    if file.name == MANIFEST:
        return f"{file} is the manifest of a data set: name its folder, {file.parent}"
    if is_media(file):
        return (
            f"{file} is one file: make shards of its folder with `jepa shards build {folder} SHARDS`, and name SHARDS, a new folder"
        )
    return f"{file} is a file: name a folder of shards, which `jepa shards build IMAGES SHARDS` makes"


def command_that_makes(folder: Path) -> str:
    """Return the command that makes a data set: for the synthetic ones, which the recipes name, their own."""
    for out in (folder, *folder.parents):
        if out.name in SYNTHETIC:
            return f"jepa shards {out.name} {quote(str(out))}"
    if folder.name in ("train", "test"):
        return f"jepa shards build IMAGES {quote(str(folder.parent))} --split 0.1"
    return f"jepa shards build IMAGES {quote(str(folder))}"


def commands_to_build(folder: Path, options: str = "") -> str:
    """Return the commands that make shards of a folder of images or videos: one for each part, where it holds parts."""
    parts = find_media_parts(folder)
    if not parts:
        return f"`jepa shards build {quote(str(folder))} SHARDS{options}`"
    return " and ".join(f"`jepa shards build {quote(str(folder / name))} SHARDS/{part}`" for name, part in parts.items())


def find_media_parts(folder: Path) -> dict[str, str]:
    """Return the subfolders that are parts of a data set, such as train and val, each with the name of its shards' folder."""
    return target_names(find_parts(path.name for path in folder.iterdir() if path.is_dir()))


def is_media(path: Path) -> bool:
    """Return whether a file is an image or a video, by its name."""
    return path.suffix.lower().removeprefix(".") in (*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS)


def first_media(folder: Path) -> Path | None:
    """Return an image or video in a folder, at any depth, among its first files."""
    files = (Path(place) / name for place, _, names in os.walk(folder) for name in names)
    return next(filter(is_media, islice(files, FILES_SEEN)), None)
