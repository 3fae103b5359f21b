"""The findings in one shard, a sentence for each problem and warning, and statistics of its samples."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, UInt64
from PIL import Image

from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.config.section import Section
from jepa_pipeline.data.channel_stats import ChannelStats, DeepRange, StoredTotals, compute_channel_stats, stats_of
from jepa_pipeline.data.decode import Inspected, inspect_image
from jepa_pipeline.data.indexing import unreadable_video
from jepa_pipeline.data.sample import MAX_VIDEO_PIXELS, DecodeError, name_missing
from jepa_pipeline.data.summary import metadata_table
from jepa_pipeline.data.tar_reader import printable
from jepa_pipeline.data.tar_samples import Defect, TarSample
from jepa_pipeline.data.video import Video, as_decode_error, open_video
from jepa_pipeline.data.video_container import count_movies

TINY = 16
"""Pixels of the shorter side below which there is a warning."""


class Finding(Section):
    """A problem of a shard, or a warning."""

    kind: str
    shard: str
    sample: str | None = None
    sentence: str

    def __str__(self) -> str:
        return f"{printable(self.shard)}: {self.sentence}"


@dataclass
class ShardReport:
    """Problems, warnings and statistics of one shard.

    Attributes:
        problems: damage that training or counting would meet.
        warnings: oddities that they would not.
        decoded: number of images or first frames that decode.
        labels, sides, extensions: number of samples by label, shorter side in pixels, and extension of a member.
        videos: table of their metadata.
        channel_stats: sum over the decoded images or first frames as RGB, without those that cannot be: without_rgb.
        stored: sums over the decoded images as they are stored.
        deep: range of the 16-bit images.
        keys: 64-bit hashes.
    """

    shard: str
    problems: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    decoded: int = 0
    labels: Counter[int | None] = field(default_factory=Counter)
    sides: Counter[int] = field(default_factory=Counter)
    extensions: Counter[str] = field(default_factory=Counter)
    videos: Float64[np.ndarray, "_ 5"] = field(default_factory=lambda: metadata_table(None))
    channel_stats: Float64[np.ndarray, "2 3"] = field(default_factory=lambda: np.zeros((2, 3)))
    without_rgb: int = 0
    stored: StoredTotals = field(default_factory=StoredTotals)
    deep: DeepRange = field(default_factory=DeepRange)
    keys: UInt64[np.ndarray, " samples"] = field(default_factory=lambda: np.zeros(0, np.uint64))

    def problem(self, kind: str, sentence: str, sample: str | None = None) -> None:
        self.problems.append(Finding(kind=kind, shard=self.shard, sample=sample, sentence=sentence))

    def warn(self, kind: str, sentence: str, sample: str | None = None) -> None:
        self.warnings.append(Finding(kind=kind, shard=self.shard, sample=sample, sentence=sentence))

    def add(self, sample: TarSample, kind: DataKind) -> TarSample | Defect:
        """Decode and count a sample, and return it without its bytes, or the defect of a video that does not open."""
        indexed, video = sample._replace(media=b""), None
        if kind == "videos":
            try:
                video = open_video(sample.media, MAX_VIDEO_PIXELS)
                indexed = indexed._replace(metadata=video.metadata)
            except DecodeError as error:
                return unreadable_video(sample.key, error)
        self.labels[sample.label] += 1
        self.extensions.update(sample.ranges.keys())
        try:
            if video is None:
                with name_missing(f"sample {printable(sample.key)} of {self.shard}"):
                    self.add_image(sample, inspect_image(sample.media))
            else:
                self.remark_unread(sample, video)
                self.add_frame(sample, decode_all(video))
        except DecodeError as error:
            self.problem("decode", f"sample {printable(sample.key)} does not decode ({error})", sample.key)
        return indexed

    def remark_unread(self, sample: TarSample, video: Video) -> None:
        """Warn of frames that are never read."""
        if video.tracks > 1:
            sentence = f"sample {printable(sample.key)} has {video.tracks} video tracks, of which only one is read"
            self.warn("tracks", f"{sentence}: save the others as files of their own to use them", sample.key)
        if (movies := count_movies(sample.media)) > 1:
            sentence = f"sample {printable(sample.key)} is {movies} video files joined with cat, of which only the first is read"
            self.warn("tracks", f"{sentence}: separate them, or join them with ffmpeg", sample.key)

    def add_image(self, sample: TarSample, image: Inspected) -> None:
        rgb, stored = stats_of(image)
        self.deep.add(image.brightest)
        self.stored.add(image.stored, stored)
        self.add_decoded(sample, image.size, rgb)

    def add_frame(self, sample: TarSample, frame: Image.Image) -> None:
        self.add_decoded(sample, frame.size, compute_channel_stats(frame))

    def add_decoded(self, sample: TarSample, size: tuple[int, int], rgb: ChannelStats | None) -> None:
        self.decoded += 1
        self.sides[min(size)] += 1
        if rgb is None:
            self.without_rgb += 1
        else:
            self.channel_stats += rgb
        if min(size) < TINY:
            self.warn("tiny", f"sample {printable(sample.key)} has only {size[0]}x{size[1]} pixels", sample.key)


def decode_all(video: Video) -> Image.Image:
    """Decode every frame and return the first. Raises DecodeError if one does not decode."""
    with as_decode_error():
        for _ in video.decode(range(len(video))):
            pass
    return Image.fromarray(video.frames(np.zeros(1, np.int64))[0])
