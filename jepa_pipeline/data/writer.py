"""Writing of a data set: shards that webdataset reads too, an index beside each, and the manifest last."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from webdataset.writer import TarWriter

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.pixel_format import PixelFormat
from jepa_pipeline.data.channel_stats import ChannelStats, compute_channel_stats, mean_and_std, stats_of
from jepa_pipeline.data.decode import Inspected, inspect_image
from jepa_pipeline.data.index import save_index
from jepa_pipeline.data.indexing import index_shard
from jepa_pipeline.data.manifest import Manifest, Shard, Skipped, save_manifest
from jepa_pipeline.data.sample import LABEL, VideoMetadata
from jepa_pipeline.data.unfinished import Progress, is_new
from jepa_pipeline.data.video import open_video
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
        channel_stats: of the image as RGB, None if it cannot be, or of a video's first frame.
        metadata: of a video.
        brightest: level of a 16-bit image once it has 8.
        stored: channels of an image and their bits as they are stored, with their statistics; None: of videos.
        converted: whether the image was of other channels or bits in its file.
    """

    key: str
    media: bytes
    extension: str
    label: int | None
    channel_stats: ChannelStats | None
    metadata: VideoMetadata | None = None
    brightest: int | None = None
    stored: tuple[PixelFormat, ChannelStats] | None = None
    converted: bool = False


def png_record(key: str, image: Image.Image, label: int | None) -> Record:
    """Return an image as a record, compressed without loss."""
    stream = BytesIO()
    image.save(stream, "PNG")
    return image_record(key, stream.getvalue(), label)


def image_record(key: str, data: bytes, label: int | None) -> Record:
    """Return an image file as a record. Raises what inspect_image does."""
    return new_record(key, data, inspect_image(data), label)


def new_record(key: str, data: bytes, image: Inspected, label: int | None) -> Record:
    """Return an image file that was inspected as a record."""
    rgb, stored = stats_of(image)
    return Record(key, data, image.extension, label, rgb, brightest=image.brightest, stored=(image.stored, stored))


def video_record(key: str, data: bytes, extension: str, label: int | None) -> Record:
    """Return a compressed video as a record. Raises DecodeError if its first frame does not decode."""
    video = open_video(data)
    (first,) = video.frames(np.zeros(1, np.int64))
    return Record(key, data, extension, label, compute_channel_stats(Image.fromarray(first)), video.metadata)


def write_shards(
    samples: Iterable[Record | Skipped],
    folder: Path,
    *,
    classes: Iterable[str] | None,
    made: dict[str, str | int | float | None],
    shard_size: int = 256,
    progress: Progress | None = None,
) -> Manifest:
    """Write samples as shards of about `shard_size` MB, in the given order, and return the manifest, which is written last.

    The folder is not a data set before the manifest is there. Write several folders that belong together inside
    `new_folder`.

    Args:
        samples: from the one at `progress.done` on.
        folder: new or empty, unless it is continued.
        classes: names of the labels.
        made: how the samples were made.
        shard_size: in MB.
        progress: what Progress.resume has found in the folder; None: nothing is continued.

    Raises:
        UserError: the folder is not empty, or there are no samples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if progress is None:
        if not is_new(folder):
            raise UserError(f"{folder} is not empty: name another folder or delete it first")
        progress = Progress()
    shard = None
    for record in count(samples, progress):
        shard = shard or NewShard(folder / f"shard-{len(progress.shards):06d}.tar")
        shard.write(record)
        if len(shard.videos) >= SHARD_SAMPLES or shard.size >= shard_size * 1e6:
            progress.add(shard.finish())
            shard = None
    if shard is not None:
        progress.add(shard.finish())
    if not progress.samples:
        raise UserError(describe_empty(progress.skipped))
    mean, std = (None, None) if progress.without_rgb else mean_and_std(progress.channel_stats, progress.samples)
    manifest = Manifest(
        created_by=f"jepa_pipeline {__version__}",
        kind=progress.kind,
        shards=tuple(progress.shards),
        samples=progress.samples,
        extensions=tuple(sorted(progress.extensions)),
        classes=None if classes is None else tuple(classes),
        location=None,
        made=made,
        skipped=tuple(progress.skipped),
        mean=mean,
        std=std,
        stored=progress.stored.summarize(),
    )
    save_manifest(manifest, folder)
    return manifest


def count(samples: Iterable[Record | Skipped], progress: Progress) -> Iterator[Record]:
    """Yield all records, after adding them to the sums."""
    for sample in samples:
        progress.done += 1
        if isinstance(sample, Skipped):
            progress.skipped.append(sample)
            continue
        progress.samples += 1
        progress.kind = "images" if sample.metadata is None else "videos"
        progress.extensions |= to_members(sample).keys() - {"__key__"}
        if sample.channel_stats is None:
            progress.without_rgb += 1
        else:
            progress.channel_stats = progress.channel_stats + sample.channel_stats
        if sample.stored is not None:
            progress.stored.add(*sample.stored)
        progress.converted += sample.converted
        progress.deep.add(sample.brightest)
        yield sample


def describe_empty(skipped: Sequence[Skipped]) -> str:
    if not skipped:
        return "there are no samples, but shards need at least one"
    first = skipped[0]
    return f"none of {len(skipped)} files could be used ({first.file}: {first.reason}): name a folder of whole images"


class NewShard:
    """A shard that is being written. size: of its samples in bytes. videos: metadata of each sample."""

    def __init__(self, tar: Path) -> None:
        self.tar, self.size = tar, 0
        self.videos: list[VideoMetadata | None] = []
        self.file = tar.open("wb")
        self.writer = TarWriter(self.file, encoder=False, mtime=0)

    def write(self, record: Record) -> None:
        self.size += self.writer.write(to_members(record))
        self.videos.append(record.metadata)

    def finish(self) -> Shard:
        """Close the tar, write its index, and return its manifest entry.

        Raises:
            UserError: its samples could not be read back, such as two with the same key.
        """
        self.writer.close()
        self.file.close()
        with self.tar.open("rb", buffering=1 << 20) as file:
            indexed = index_shard(file, self.tar.name, open_videos=False)
        if indexed.defects:
            raise UserError(f"{self.tar.name} cannot be written: {indexed.defects[0]}")
        index = indexed.index.model_copy(update={"videos": self.videos if any(self.videos) else None})
        return replace(indexed.shard, index_sha256=save_index(index, self.tar))


def to_members(record: Record) -> dict[str, str | bytes]:
    label = {} if record.label is None else {LABEL: str(record.label).encode()}
    return {"__key__": record.key, record.extension: record.media, **label}
