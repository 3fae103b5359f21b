"""The manifest of a data set: its shards and how they were made."""

import hashlib
import json
from itertools import chain, islice
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.config.pixel_format import MAX_CHANNELS, PerChannel, PixelFormat
from jepa_pipeline.config.section import Section
from jepa_pipeline.data.remote import MANIFEST_BYTES, is_remote, join_url, read_bytes
from jepa_pipeline.data.sample import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from jepa_pipeline.files import PARTIAL, atomic_write
from jepa_pipeline.redaction import find_secrets, redact

MANIFEST = "manifest.json"
PLAN = ".plan.json"
"""File of a data set that is being built; an interrupted build leaves it behind. See unfinished.py."""
INDEXED = "jepa shards index"
"""The command that makes a manifest of tars of other writers, under made.by."""
VERSION = 1
SYNTHETIC = ("demo", "demo-video", "demo-scales")
"""Data sets that `jepa shards` generates, in folders of these names."""
FILES_SEEN = 10_000
"""Files of a folder that are looked at to tell what it holds."""


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Shard:
    """One tar file. A data set may have a hundred thousand, hence a dataclass with slots instead of a Section."""

    file: str = Field(pattern=r"^[^/\\]+\.tar$", description="Name within the folder of the manifest.")
    samples: int = Field(ge=1, description="Samples in it.")
    bytes: int = Field(ge=1, description="Its size.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Its SHA-256, in hex.")
    index_sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="That of its index; null: made by an earlier version."
    )


class Skipped(Section):
    """A file or sample that was left out."""

    file: str = Field(description="Path in the source folder.")
    reason: str = Field(description="Why it could not be used.")


class StoredPixels(Section):
    """The images of a data set that have one number of channels, and the statistics of these as they are stored."""

    channels: int = Field(ge=1, le=MAX_CHANNELS, description="Number of channels.")
    images: int = Field(ge=1, description="Images that have it.")
    deep: int = Field(ge=0, description="Those of them with 16 bits per channel; the others have 8.")
    mean: PerChannel = Field(description="Mean of the channels on pixels scaled to 0..1; each image counts the same.")
    std: PerChannel = Field(description="Standard deviation of the same pixels.")

    def describe(self) -> str:
        """Return the channels, the bits and the number of images."""
        bits = "8 and 16" if 0 < self.deep < self.images else "16" if self.deep else "8"
        return f"{PixelFormat(self.channels).name_channels()} of {bits} bits ({self.images} images)"


class Manifest(Section):
    """A data set."""

    version: Literal[1] = Field(default=VERSION, description="Version of this format.")
    created_by: str = Field(description="The package and its version.")
    kind: DataKind = Field(default="images", description="What a sample is.")
    shards: tuple[Shard, ...] = Field(min_length=1, description="In the order in which samples are numbered.")
    samples: int = Field(ge=1, description="Samples in all shards.")
    extensions: tuple[str, ...] = Field(description="Extensions of the samples' members.")
    classes: tuple[str, ...] | None = Field(description="Name of each label; null where samples have none.")
    location: str | None = Field(
        None,
        description="URL of the shards, or their folder relative to that of this file; null: beside this file. "
        "The indexes are always beside this file.",
    )
    made: dict[str, str | int | float | None] = Field(description="How the shards were made.")
    skipped: tuple[Skipped, ...] = Field((), description="Source files that were left out.")
    mean: PerChannel | None = Field(
        None,
        description="Mean of the images' channels as RGB on pixels scaled to 0..1; each counts the same; of a video, the first "
        "frame. Null: unknown, or not all images can be RGB.",
    )
    std: PerChannel | None = Field(None, description="Standard deviation of the same pixels.")
    stored: tuple[StoredPixels, ...] = Field(
        (), description="The images by their number of channels, as they are stored; empty: unknown, or videos."
    )

    @property
    def member(self) -> str | None:
        """The member of each sample that counts, such as left.jpg, if `jepa shards index` was given one."""
        name = self.made.get("member")
        return name if isinstance(name, str) else None

    @property
    def label_list(self) -> str | None:
        """SHA-256 of the labels if `jepa shards index` took them from a list: they are in the indexes only, not in the tars."""
        digest = self.made.get("label_list_sha256")
        return digest if isinstance(digest, str) else None

    @property
    def lost(self) -> str | None:
        """A sentence on labels or classes that `jepa shards index` could not use, None if there were none."""
        sentence = self.made.get("lost")
        return sentence if isinstance(sentence, str) else None

    def hash(self) -> str:
        """Return the name of the data in checkpoints and tables: 12 hex digits of a SHA-256.

        It depends on all samples, their order and the classes. It does not depend on where the shards are or who packed them.
        """
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for chosen in filter(None, (self.member, self.label_list)):
            digest.update(f"{chosen}\n".encode())
        for shard in self.shards:
            digest.update(f"{shard.sha256} {shard.samples}\n".encode())
        return digest.hexdigest()[:12]


def load_manifest(location: str | Path) -> Manifest:
    """Return the manifest of a folder or URL after checking that its shards are there if they are local.

    Raises:
        UserError: there is none, it cannot be read, or a shard it lists is missing.
    """
    manifest = read_manifest(location)
    tars = locate_tars(location, manifest)
    if is_remote(tars):
        return manifest
    if not Path(tars).is_dir():
        raise UserError(f"{tars}, where the shards of {Path(location) / MANIFEST} should be, is not a folder: copy them there")
    present = {entry.name for entry in Path(tars).iterdir()}
    missing = [shard.file for shard in manifest.shards if shard.file not in present]
    if missing:
        others = f" and {len(missing) - 1} more shards" if len(missing) > 1 else ""
        raise UserError(f"{tars} lacks {missing[0]}{others} of its manifest: copy the folder again or rebuild the shards")
    return manifest


def save_manifest(manifest: Manifest, folder: Path) -> None:
    """Write a manifest; for its owner alone if the URL of the shards holds a secret."""
    private = any(find_secrets(manifest.location))
    atomic_write(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n", exact=True, private=private)


def locate_tars(location: str | Path, manifest: Manifest) -> str:
    """Return the folder or URL of the shards of a manifest that was read from `location`.

    Raises:
        UserError: a manifest from a URL names another host, or this machine: it could make a user read private files.
    """
    base, tars = str(location), manifest.location
    if tars is None:
        return base
    if not is_remote(base):
        return tars if is_remote(tars) else str(Path(base) / tars)
    if not is_remote(tars) or urlsplit(base)[:2] != urlsplit(tars)[:2]:
        raise UserError(
            f"the manifest at {redact(base)} places its shards at {redact(tars)}, not on its own host: "
            "if you trust it, copy it and its index files into a folder and name that"
        )
    return tars


def read_manifest(location: str | Path) -> Manifest:
    """Return the manifest of a folder or URL without looking for its shards.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path, text = read_manifest_text(str(location))
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({error}): copy it again or rebuild the shards") from error
    version = values.get("version") if isinstance(values, dict) else None
    if version != VERSION:
        raise UserError(f"{path} has version {version!r}: this release reads version {VERSION}, rebuild the shards or update")
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} is damaged at {where} ({first['msg']}): copy it again or rebuild the shards") from error
    counted = sum(shard.samples for shard in manifest.shards)
    if counted != manifest.samples:
        raise UserError(f"{path} says {manifest.samples} samples but its shards add up to {counted}: rebuild the shards")
    return manifest


def read_manifest_text(location: str) -> tuple[str, bytes]:
    """Return the printable path or URL of a manifest, and its content."""
    if is_remote(location):
        url = join_url(location, MANIFEST)
        return redact(url), read_bytes(url)
    path = Path(location) / MANIFEST
    if not path.is_file():
        raise UserError(describe_missing(Path(location)))
    if (size := path.stat().st_size) > MANIFEST_BYTES:
        raise UserError(f"{path} has {size:,} bytes, more than {MANIFEST_BYTES:,}, so it is not a manifest: copy it again")
    return str(path), path.read_bytes()


def check_finished(folder: Path) -> None:
    """Check that a folder holds no part of an interrupted build, which lacks samples, and that none is beside it in its place.

    Raises:
        UserError: it does; with the cure.
    """
    place = folder.absolute()
    places = (place, place.parent, place.parent / f"{place.name}{PARTIAL}")
    left = next((place for place in places if (place / PLAN).is_file()), None)
    if left is not None:
        raise UserError(f"{left} is an interrupted build, which lacks samples: run the command that began it again, to continue it")


def describe_missing(folder: Path) -> str:
    """Return why a folder is not a data set, and the command that makes one."""
    check_finished(folder)
    if not folder.is_dir():
        moved = "if it moved, name its new place (for a run: data.train=NEW)"
        return f"{folder} is not a folder: {moved}, else make it with `{command_that_makes(folder)}`"
    parts = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    if parts:
        return f"{folder} has no {MANIFEST}, but its folders {' and '.join(parts)} do: name one, such as {folder / parts[-1]}"
    if any(folder.glob("*.tar")):
        return f"{folder} has tars but no {MANIFEST}: make it with `jepa shards index {folder}`"
    if media := first_media(folder):
        return (
            f"{folder} has no {MANIFEST} but files such as {media.relative_to(folder)}: make shards of it with `jepa shards build "
            f"{folder} SHARDS`, where SHARDS is a new folder, and name that"
        )
    return f"{folder} has no {MANIFEST}: make shards of a folder of images or videos with `jepa shards build IMAGES SHARDS`"


def command_that_makes(folder: Path) -> str:
    """Return the command that makes a data set: for the synthetic ones, which the recipes name, their own."""
    for out in (folder, *folder.parents):
        if out.name in SYNTHETIC:
            return f"jepa shards {out.name} {out}"
    if folder.name in ("train", "test"):
        return f"jepa shards build IMAGES {folder.parent} --split 0.1"
    return f"jepa shards build IMAGES {folder}"


def first_media(folder: Path) -> Path | None:
    """Return an image or video in a folder or in one of its first subfolders."""
    suffixes = {f".{extension}" for extension in (*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS)}
    names = islice(chain(folder.iterdir(), folder.glob("*/*")), FILES_SEEN)
    return next((path for path in names if path.suffix.lower() in suffixes), None)
