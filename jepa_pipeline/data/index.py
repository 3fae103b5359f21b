"""The index of a shard: where in the tar each sample's members lie, so that any sample is one read away."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError, model_validator

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.section import Section
from jepa_pipeline.data.decode import DecodeError
from jepa_pipeline.data.manifest import MANIFEST, Manifest, Shard
from jepa_pipeline.data.samples import IMAGES, LABEL, MEDIA, VIDEOS, Fault, Found, Place, find_samples
from jepa_pipeline.data.tar import Passing, Readable, ShardError, shown
from jepa_pipeline.data.video import VideoFacts, video_facts
from jepa_pipeline.files import atomic_write

MAX_EXTENSIONS = 64
"""Kinds of members in a shard, each of which is a list as long as the shard has samples."""


class ShardIndex(Section):
    """Where the samples of one shard lie, in SHARD.index.json beside SHARD.tar or beside the manifest."""

    keys: list[str] = Field(description="Key of each sample.")
    members: dict[str, list[Place | None]] = Field(
        description="By extension, where each sample's member lies; null if it has none."
    )
    labels: list[int | None] = Field(description="Label of each sample; null if it has none.")
    videos: list[VideoFacts | None] | None = Field(default=None, description="Facts of each video; null: the samples are images.")

    @model_validator(mode="after")
    def lists_agree(self) -> "ShardIndex":
        lengths = {len(self.keys), len(self.labels), *map(len, self.members.values())}
        lengths |= set() if self.videos is None else {len(self.videos)}
        if len(lengths) > 1:
            raise ValueError(f"its lists are of different lengths: {sorted(lengths)}")
        return self

    @property
    def media(self) -> tuple[str, ...]:
        """Extensions of the members that are images, or videos where samples are those."""
        return IMAGES if self.videos is None else VIDEOS

    def media_place(self, member: int) -> Place | None:
        """Where the image or video of a sample lies, None if it has none."""
        places = (self.members[ext][member] for ext in self.media if ext in self.members)
        return next(filter(None, places), None)

    def unlabeled(self) -> "ShardIndex":
        """The same without labels."""
        return self.model_copy(update={"labels": [None] * len(self.keys)})


def index_path(tar: Path) -> Path:
    return tar.with_suffix(".index.json")


def load_index(tar: Path) -> ShardIndex:
    """The index beside a shard.

    Raises:
        UserError: there is none or it is damaged.
        OSError: the system does not read it.
    """
    path = index_path(tar)
    try:
        return ShardIndex.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise UserError(
            f"{path} is missing or damaged, without it {tar.name} cannot be read: copy it again or make it with `jepa shards index`"
        ) from error


def save_index(index: ShardIndex, tar: Path) -> None:
    """Write an index in place of the one that may be there."""
    atomic_write(index_path(tar), index.model_dump_json(exclude={"videos"} if index.videos is None else None))


def save_manifest(manifest: Manifest, folder: Path) -> None:
    """Write a manifest, at once and in place of the one that may be there."""
    atomic_write(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")


class Indexed(NamedTuple):
    """A shard's line of the manifest, its index, what is wrong in it, and how many samples have labels from where."""

    shard: Shard
    index: ShardIndex
    faults: list[Fault]
    labeled_by: Counter[str | None]


def index_shard(
    file: Readable, name: str, classes: int | None = None, *, media: tuple[str, ...] = MEDIA, open_videos: bool = True
) -> Indexed:
    """Read a shard once, for its index and its SHA-256. With `classes`, samples need a label below that number.

    media: extensions of what may be a sample's image or video. Videos are opened for their facts, unless the caller knows those;
    one that does not open is left out.

    Raises:
        ShardError: it is no whole tar, holds no sample that can be used, or holds both images and videos.
    """
    passing = Passing(file)
    found = find_samples(passing, classes, media=media, read=VIDEOS if open_videos else ())
    samples, faults = part(map(opened, found))
    left_out = [fault for fault in faults if fault.left_out]
    if not samples:
        first = f" ({shown(left_out[0].name)}: {left_out[0].reason})" if left_out else ""
        raise ShardError(f"it holds no sample that can be used{first}")
    check_kind(samples)
    if samples[0].is_video:
        faults = [fault._replace(reason=fault.reason.replace(", ".join(IMAGES), ", ".join(VIDEOS))) for fault in faults]
    shard = Shard(file=name, samples=len(samples), bytes=passing.bytes, sha256=passing.sha256.hexdigest())
    return Indexed(shard, as_index(samples), faults, Counter(sample.labeled_by for sample in samples))


def opened(result: Found | Fault) -> Found | Fault:
    """A video with its facts in place of its bytes, or why it is left out."""
    if isinstance(result, Fault) or not result.media:
        return result
    try:
        return result._replace(media=b"", facts=video_facts(result.media))
    except DecodeError as error:
        return unreadable(result.key, error)


def unreadable(key: str, error: DecodeError) -> Fault:
    return Fault("video", key, f"its video cannot be read ({error})")


def check_kind(samples: list[Found]) -> None:
    """Raises ShardError if some samples are images and others videos."""
    examples = {sample.is_video: sample.key for sample in samples}
    if len(examples) > 1:
        videos = sum(sample.is_video for sample in samples)
        raise ShardError(
            f"it holds {len(samples) - videos} images, such as {shown(examples[False])}, and {videos} videos, such as "
            f"{shown(examples[True])}: pack them into tars of their own, index those apart, and mix them in data.train"
        )


def part(results: Iterable[Found | Fault]) -> tuple[list[Found], list[Fault]]:
    samples: list[Found] = []
    faults: list[Fault] = []
    for result in results:
        faults.append(result) if isinstance(result, Fault) else samples.append(result)
    return samples, faults


def as_index(samples: list[Found]) -> ShardIndex:
    """The index of samples in the order in which they lie.

    Raises:
        ShardError: they have more kinds of members than a data set has.
    """
    extensions = sorted({extension for sample in samples for extension in sample.places} - {LABEL})
    if len(extensions) > MAX_EXTENSIONS:
        raise ShardError(
            f"its samples have {len(extensions)} kinds of members, such as {shown(extensions[0])}, more than {MAX_EXTENSIONS}: "
            "an extension begins at the first dot of a name, so names need one dot only"
        )
    members = {extension: [sample.places.get(extension) for sample in samples] for extension in extensions}
    videos = [s.facts for s in samples] if any(s.facts for s in samples) else None
    return ShardIndex(keys=[s.key for s in samples], members=members, labels=[s.label for s in samples], videos=videos)
