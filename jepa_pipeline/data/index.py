"""The index of a shard: where in the tar each sample's members are, so that any sample is one read away."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, NonNegativeInt, ValidationError, model_validator

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.config.section import Section
from jepa_pipeline.data.sample import MEDIA_EXTENSIONS, VideoMetadata
from jepa_pipeline.files import atomic_write


class ShardIndex(Section):
    """The samples of one shard, in SHARD.index.json beside SHARD.tar or beside the manifest."""

    keys: list[str] = Field(description="Key of each sample.")
    members: dict[str, list[tuple[NonNegativeInt, NonNegativeInt] | None]] = Field(
        description="By extension, offset and size in bytes of each sample's member; null if it has none."
    )
    labels: list[int | None] = Field(description="Label of each sample; null if it has none.")
    videos: list[VideoMetadata | None] | None = Field(
        default=None, description="Metadata of each video; null: the samples are images."
    )

    @model_validator(mode="after")
    def check_lengths(self) -> "ShardIndex":
        lengths = {len(self.keys), len(self.labels), *map(len, self.members.values())}
        lengths |= set() if self.videos is None else {len(self.videos)}
        if len(lengths) > 1:
            raise ValueError(f"its lists are of different lengths: {sorted(lengths)}")
        return self

    @property
    def kind(self) -> DataKind:
        return "images" if self.videos is None else "videos"

    def media_range(self, member: int) -> tuple[int, int] | None:
        """Return offset and size of a sample's image or video, None if it has none."""
        ranges = (self.members[ext][member] for ext in MEDIA_EXTENSIONS[self.kind] if ext in self.members)
        return next(filter(None, ranges), None)

    def media_choice(self) -> tuple[str, ...]:
        """Return the extensions of images or videos that some sample has several of, the one in use first; none if all have one."""
        media = MEDIA_EXTENSIONS[self.kind]
        found = sorted(
            (name for name in self.members if name.rpartition(".")[2] in media), key=lambda name: (name not in media, name)
        )
        counts = [sum(span is not None for span in spans) for spans in zip(*(self.members[name] for name in found), strict=True)]
        used = [name for name in media if name in found]
        return (*used, *(name for name in found if name not in used)) if max(counts, default=0) > 1 else ()

    def select(self, members: Sequence[int], labels: Sequence[int | None]) -> "ShardIndex":
        """Return the index of some of the samples, with other labels."""
        return ShardIndex(
            keys=[self.keys[member] for member in members],
            members={extension: [ranges[member] for member in members] for extension, ranges in self.members.items()},
            labels=list(labels),
            videos=None if self.videos is None else [self.videos[member] for member in members],
        )

    def without_labels(self) -> "ShardIndex":
        return self.model_copy(update={"labels": [None] * len(self.keys)})


def index_path(tar: Path) -> Path:
    return tar.with_suffix(".index.json")


def load_index(tar: Path, sha256: str | None = None) -> ShardIndex:
    """Return the index beside a shard.

    Args:
        tar: the shard.
        sha256: of its index, by the manifest; None: unknown.

    Raises:
        UserError: there is none, it is damaged, or it is another one.
        OSError: the system does not read it.
    """
    path = index_path(tar)
    try:
        if path.is_fifo():  # opening it would wait for a writer
            raise FileNotFoundError
        data = path.read_bytes()
        index = ShardIndex.model_validate_json(data)
    except (FileNotFoundError, ValidationError) as error:
        raise UserError(
            f"{path} is missing or damaged, and {tar.name} cannot be read without it: copy it again or make it with "
            "`jepa shards index`"
        ) from error
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise OtherIndex(
            f"{path} is not the index that the manifest names, so that its labels and places may be wrong: copy both again or make "
            "them with `jepa shards index`"
        )
    return index


class OtherIndex(UserError):
    """An index is whole, but not the one that the manifest names."""


def save_index(index: ShardIndex, tar: Path) -> str:
    """Write the index beside a shard and return its SHA-256."""
    # Indexes of images have no key `videos`, as before there were videos.
    text = index.model_dump_json(exclude={"videos"} if index.videos is None else None)
    atomic_write(index_path(tar), text, exact=True)
    return hashlib.sha256(text.encode()).hexdigest()
