"""Writing a data set: shards that plain webdataset reads too, an index beside each, and the manifest last."""

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
from jepa_pipeline.data.channel_stats import Moments, mean_and_std, moments
from jepa_pipeline.data.index import index_shard, save_index, save_manifest
from jepa_pipeline.data.manifest import Manifest, Shard, Skipped
from jepa_pipeline.data.samples import LABEL, Kind
from jepa_pipeline.data.video import VideoFacts, open_video
from jepa_pipeline.version import __version__

SHARD_SAMPLES = 10_000
"""Most samples of a shard, however small they are, so that its index stays small."""


class Record(NamedTuple):
    """A sample to be written: key without dots or slashes, compressed image or video, its extension, label if there are classes.

    moments: of the image, or of a video's first frame; facts: of a video.
    """

    key: str
    media: bytes
    extension: str
    label: int | None
    moments: Moments
    facts: VideoFacts | None = None


def png_record(key: str, image: Image.Image, label: int | None) -> Record:
    """An image as a losslessly compressed record."""
    stream = BytesIO()
    image.save(stream, "PNG")
    return Record(key, stream.getvalue(), "png", label, moments(image.convert("RGB")))


def video_record(key: str, data: bytes, extension: str, label: int | None) -> Record:
    """A video as it is, with its facts and the moments of its first frame. Raises DecodeError if that does not decode."""
    video = open_video(data)
    (first,) = video.frames(np.zeros(1, np.int64))
    return Record(key, data, extension, label, moments(Image.fromarray(first)), video.facts)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write in, which becomes `out` when all went well and disappears when not.

    Raises:
        UserError: `out` is there and not empty, or a killed build left its unfinished folder behind.
    """
    partial = out.with_name(f"{out.name}.partial")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder: name another one, or delete it first")
    if partial.exists():
        raise UserError(f"{partial} was left by a build that was killed, or one is running: wait for it or delete that folder")
    partial.mkdir(parents=True)
    try:
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
    """Write samples into `folder` as shards of about `shard_size` MB, in the order given, and the manifest last.

    Until the manifest is written the folder is no data set. Several folders that only make sense together are written
    inside `new_folder`.

    Raises:
        UserError: the folder is not empty, or there is not one sample.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: name another folder, or delete it first")
    shards: list[Shard] = []
    tally = Tally()
    records = tally.counting(samples)
    first = next(records, None)
    if first is None:
        raise UserError(tally.nothing())
    with ShardWriter(
        f"{folder.resolve()}/".replace("%", "%%") + "shard-%06d.tar",
        maxcount=SHARD_SAMPLES,
        maxsize=shard_size * 1e6,
        post=lambda name: shards.append(seal(Path(name), tally.facts)),
        verbose=0,
        encoder=False,
        mtime=0,
    ) as sink:
        for record in chain([first], records):
            sink.write(members(record))
    mean, std = mean_and_std(tally.moments, tally.samples)
    manifest = Manifest(
        created_by=f"jepa_pipeline {__version__}",
        kind=tally.kind,
        shards=tuple(shards),
        samples=tally.samples,
        extensions=tuple(sorted(tally.extensions)),
        classes=None if classes is None else tuple(classes),
        location=None,
        made=made,
        skipped=tuple(tally.skipped),
        mean=mean,
        std=std,
    )
    save_manifest(manifest, folder)
    return manifest


class Tally:
    """What the manifest says of all samples together, counted while they pass."""

    def __init__(self) -> None:
        self.samples = 0
        self.kind: Kind = "images"
        self.facts: deque[VideoFacts | None] = deque()
        """Of the samples that are in no finished shard yet."""
        self.extensions: set[str] = set()
        self.skipped: list[Skipped] = []
        self.moments = np.zeros((2, 3))

    def counting(self, samples: Iterable[Record | Skipped]) -> Iterator[Record]:
        for sample in samples:
            if isinstance(sample, Skipped):
                self.skipped.append(sample)
                continue
            self.samples += 1
            self.kind = "images" if sample.facts is None else "videos"
            self.facts.append(sample.facts)
            self.extensions |= members(sample).keys() - {"__key__"}
            self.moments += sample.moments
            yield sample

    def nothing(self) -> str:
        if not self.skipped:
            return "no samples were given: shards need at least one"
        first = self.skipped[0]
        return f"none of {len(self.skipped)} files could be used ({first.file}: {first.reason}): name a folder of whole images"


def members(record: Record) -> dict[str, str | bytes]:
    label = {} if record.label is None else {LABEL: str(record.label).encode()}
    return {"__key__": record.key, record.extension: record.media, **label}


def seal(tar: Path, facts: deque[VideoFacts | None]) -> Shard:
    """Write the index of a finished shard, whose samples' facts come first in `facts` and are taken; its line of the manifest.

    Raises:
        UserError: its samples cannot all be told apart or found again, such as two of one key.
    """
    with tar.open("rb", buffering=1 << 20) as file:
        indexed = index_shard(file, tar.name, open_videos=False)
    if indexed.faults:
        raise UserError(f"{tar.name} cannot be written: {indexed.faults[0]}")
    videos = [facts.popleft() for _ in indexed.index.keys]
    save_index(indexed.index.model_copy(update={"videos": videos if any(videos) else None}), tar)
    return indexed.shard
