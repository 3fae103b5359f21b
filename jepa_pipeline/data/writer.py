"""Writing of a data set: shards that webdataset reads too, an index beside each, and the manifest last."""

import shutil
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from webdataset.writer import ShardWriter

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.data.channel_stats import ChannelStats, compute_channel_stats, mean_and_std
from jepa_pipeline.data.index import save_index
from jepa_pipeline.data.indexing import index_shard
from jepa_pipeline.data.manifest import Manifest, Shard, Skipped, save_manifest
from jepa_pipeline.data.sample import LABEL, VideoMetadata
from jepa_pipeline.data.video import open_video
from jepa_pipeline.files import name_errors
from jepa_pipeline.version import __version__

SHARD_SAMPLES = 10_000
"""Most samples in a shard, so that its index stays small."""


class Record(NamedTuple):
    """A sample to be written.

    Attributes:
        key: without dots or slashes.
        media: compressed image or video.
        extension: of its format.
        label: None without classes.
        channel_stats: of the image, or of a video's first frame.
        metadata: of a video.
        brightest: level of an image of 16 bits once it has 8.
    """

    key: str
    media: bytes
    extension: str
    label: int | None
    channel_stats: ChannelStats
    metadata: VideoMetadata | None = None
    brightest: int | None = None


def png_record(key: str, image: Image.Image, label: int | None) -> Record:
    """Return an image as a record, compressed without loss."""
    stream = BytesIO()
    image.save(stream, "PNG")
    return Record(key, stream.getvalue(), "png", label, compute_channel_stats(image.convert("RGB")))


def video_record(key: str, data: bytes, extension: str, label: int | None) -> Record:
    """Return a compressed video as a record. Raises DecodeError if its first frame does not decode."""
    video = open_video(data)
    (first,) = video.frames(np.zeros(1, np.int64))
    return Record(key, data, extension, label, compute_channel_stats(Image.fromarray(first)), video.metadata)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` to write to, which becomes `out` at the end, or is deleted after an error.

    Raises:
        UserError: `out` is not empty, or a killed build left its unfinished folder behind.
    """
    partial = out.with_name(f"{out.name}.partial")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder: name another one or delete it first")
    if partial.exists():
        raise UserError(f"{partial} was left by a build that was killed, or one is running: wait for it or delete that folder")
    partial.mkdir(parents=True)
    try:
        with name_errors(out):
            yield partial
            partial.rename(out)
    except BaseException:
        shutil.rmtree(partial)
        raise


def write_shards(
    samples: Iterable[Record | Skipped],
    folder: Path,
    *,
    classes: Iterable[str] | None,
    made: dict[str, str | int | float | None],
    shard_size: int = 256,
) -> Manifest:
    """Write samples as shards of about `shard_size` MB, in the given order, and return the manifest, which is written last.

    The folder is not a data set before the manifest is there. Write several folders that belong together inside
    `new_folder`.

    Raises:
        UserError: the folder is not empty, or there are no samples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: name another folder or delete it first")
    shards: list[Shard] = []
    totals = Totals()
    records = totals.count(samples)
    first = next(records, None)
    if first is None:
        raise UserError(totals.describe_empty())
    with ShardWriter(
        f"{folder.resolve()}/".replace("%", "%%") + "shard-%06d.tar",
        maxcount=SHARD_SAMPLES,
        maxsize=shard_size * 1e6,
        post=lambda name: shards.append(index_written(Path(name), totals.videos)),
        verbose=0,
        encoder=False,
        mtime=0,
    ) as sink:
        for record in chain([first], records):
            sink.write(to_members(record))
    mean, std = mean_and_std(totals.channel_stats, totals.samples)
    manifest = Manifest(
        created_by=f"jepa_pipeline {__version__}",
        kind=totals.kind,
        shards=tuple(shards),
        samples=totals.samples,
        extensions=tuple(sorted(totals.extensions)),
        classes=None if classes is None else tuple(classes),
        location=None,
        made=made,
        skipped=tuple(totals.skipped),
        mean=mean,
        std=std,
    )
    save_manifest(manifest, folder)
    return manifest


class Totals:
    """The manifest's numbers about all samples, counted while they pass."""

    def __init__(self) -> None:
        self.samples = 0
        self.kind: DataKind = "images"
        self.videos: deque[VideoMetadata | None] = deque()
        """Metadata of the samples that are in no finished shard yet."""
        self.extensions: set[str] = set()
        self.skipped: list[Skipped] = []
        self.channel_stats = np.zeros((2, 3))

    def count(self, samples: Iterable[Record | Skipped]) -> Iterator[Record]:
        for sample in samples:
            if isinstance(sample, Skipped):
                self.skipped.append(sample)
                continue
            self.samples += 1
            self.kind = "images" if sample.metadata is None else "videos"
            self.videos.append(sample.metadata)
            self.extensions |= to_members(sample).keys() - {"__key__"}
            self.channel_stats += sample.channel_stats
            yield sample

    def describe_empty(self) -> str:
        if not self.skipped:
            return "there are no samples, but shards need at least one"
        first = self.skipped[0]
        return f"none of {len(self.skipped)} files could be used ({first.file}: {first.reason}): name a folder of whole images"


def to_members(record: Record) -> dict[str, str | bytes]:
    label = {} if record.label is None else {LABEL: str(record.label).encode()}
    return {"__key__": record.key, record.extension: record.media, **label}


def index_written(tar: Path, videos: deque[VideoMetadata | None]) -> Shard:
    """Write the index of a finished shard, take the metadata of its samples from `videos`, and return its manifest entry.

    Raises:
        UserError: its samples could not be read back, such as two with the same key.
    """
    with tar.open("rb", buffering=1 << 20) as file:
        indexed = index_shard(file, tar.name, open_videos=False)
    if indexed.defects:
        raise UserError(f"{tar.name} cannot be written: {indexed.defects[0]}")
    metadata = [videos.popleft() for _ in indexed.index.keys]
    save_index(indexed.index.model_copy(update={"videos": metadata if any(metadata) else None}), tar)
    return indexed.shard
