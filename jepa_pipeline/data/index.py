"""The index of a shard: where in the tar each sample's members lie, so that any sample is one read away."""

import os
import re
import tarfile
from itertools import groupby
from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.section import Section

IMAGES = ("jpg", "jpeg", "png", "webp")
LABEL = "cls"
MEMBER = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)")
"""Key and extension of a member, parted at the first dot of the file name as webdataset does."""

Place = tuple[int, int]
"""Offset in the tar and size of a member, in bytes."""


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
