"""Reading single samples out of tar shards, by the index that lies beside each."""

import os
import re
import tarfile
from collections import OrderedDict
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError, model_validator

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.section import Section
from jepa_pipeline.data.manifest import load_manifest

IMAGES = ("jpg", "jpeg", "png", "webp")
LABEL = "cls"
MEMBER = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)")
"""Key and extension of a member, parted at the first dot of the file name as webdataset does."""

Place = tuple[int, int]
"""Offset in the tar and size of a member, in bytes."""


class Sample(NamedTuple):
    """What a shard holds of one sample: the image still compressed."""

    key: str
    image: bytes
    label: int | None


class SampleError(UserError):
    """A sample that cannot be used."""


class ShardIndex(Section):
    """Where the samples of one shard lie, in SHARD.index.json beside SHARD.tar."""

    keys: list[str] = Field(description="Key of each sample.")
    members: dict[str, list[Place | None]] = Field(
        description="By extension, where each sample's member lies; null if it has none."
    )
    labels: list[int | None] = Field(description="Label of each sample; null if it has none.")

    @model_validator(mode="after")
    def lists_agree(self) -> "ShardIndex":
        lengths = {len(self.keys), len(self.labels), *map(len, self.members.values())}
        if len(lengths) > 1:
            raise ValueError(f"its lists are of different lengths: {sorted(lengths)}")
        return self

    def image_place(self, member: int) -> Place | None:
        """Where the image of a sample lies, None if it has none."""
        places = (self.members[ext][member] for ext in IMAGES if ext in self.members)
        return next(filter(None, places), None)


class Shards:
    """The samples of a data set, readable in any order. Files are opened when first read, so it travels to workers cheaply.

    Raises:
        UserError: the folder is no whole data set.
    """

    def __init__(self, folder: Path, max_open: int = 64) -> None:
        self.folder = folder
        self.manifest = load_manifest(folder)
        self.max_open = max_open
        self._open: OrderedDict[int, OpenShard] = OrderedDict()

    @property
    def counts(self) -> list[int]:
        """Samples of each shard."""
        return [shard.samples for shard in self.manifest.shards]

    def read(self, shard: int, member: int) -> Sample:
        """One sample.

        Raises:
            SampleError: it has no image or its shard ends early; the sentence names both and the cure.
        """
        opened = self.open(shard)
        key = opened.index.keys[member]
        try:
            return Sample(key, opened.image(member), opened.index.labels[member])
        except ValueError as error:
            raise self.error(shard, key, str(error)) from error

    def open(self, shard: int) -> "OpenShard":
        """A shard's open file and index; the least recently read are closed beyond max_open."""
        if shard not in self._open:
            self._open[shard] = self._opened(shard)
            if len(self._open) > self.max_open:
                self._open.popitem(last=False)
        self._open.move_to_end(shard)
        return self._open[shard]

    def _opened(self, shard: int) -> "OpenShard":
        tar, samples = self.folder / self.manifest.shards[shard].file, self.manifest.shards[shard].samples
        opened = OpenShard(tar)
        if len(opened.index.keys) != samples:
            raise UserError(f"{index_path(tar)} lists {len(opened.index.keys)} samples, the manifest {samples}: copy both again")
        return opened

    def error(self, shard: int, key: str, reason: str) -> SampleError:
        """What to raise for a sample that cannot be used."""
        path = self.folder / self.manifest.shards[shard].file
        return SampleError(f"sample {key} of {path} cannot be used ({reason}): `jepa shards check {self.folder}` names all damage")

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}


class OpenShard:
    """A shard's file descriptor, closed when nobody holds this any more, and its index."""

    def __init__(self, tar: Path) -> None:
        self.fd = -1
        self.index = load_index(tar)
        self.fd = os.open(tar, os.O_RDONLY)

    def image(self, member: int) -> bytes:
        """The compressed image of a sample.

        Raises:
            ValueError: it has none, or the shard ends before it does.
        """
        place = self.index.image_place(member)
        if place is None:
            raise ValueError(f"it has no {', '.join(IMAGES)}")
        offset, size = place
        image = os.pread(self.fd, size, offset)
        if len(image) < size:
            raise ValueError("its shard is truncated")
        return image

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def index_path(tar: Path) -> Path:
    return tar.with_suffix(".index.json")


def load_index(tar: Path) -> ShardIndex:
    """The index beside a shard.

    Raises:
        UserError: there is none or it cannot be read.
    """
    path = index_path(tar)
    try:
        return ShardIndex.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UserError(
            f"{path} is missing or damaged, without it {tar.name} cannot be read: copy or build the shards anew"
        ) from error


def index_shard(tar: Path) -> ShardIndex:
    """The index of a shard, made by reading the headers of the whole tar.

    Raises:
        tarfile.ReadError: it is no tar or ends early.
        ValueError: a label is not a whole number.
    """
    with tarfile.open(tar, "r:") as archive:
        named = [(*match.groups(), info) for info in archive if info.isfile() and (match := MEMBER.fullmatch(info.name))]
        samples = [{ext: info for _, ext, info in group} for _, group in groupby(named, key=lambda member: member[0])]
        extensions = sorted({ext for sample in samples for ext in sample} - {LABEL})
        places = {
            ext: [(info.offset_data, info.size) if (info := sample.get(ext)) else None for sample in samples] for ext in extensions
        }
        with tar.open("rb") as file:
            labels = [read_label(file.fileno(), sample.get(LABEL)) for sample in samples]
    return ShardIndex(keys=[key for key, _ in groupby(key for key, _, _ in named)], members=places, labels=labels)


def read_label(fd: int, info: tarfile.TarInfo | None) -> int | None:
    return None if info is None else int(os.pread(fd, info.size, info.offset_data))
