"""What can be wrong with a shard, one sentence each, and what its samples are like; all from one reading."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import isclose
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt64
from PIL import Image

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.section import Section
from jepa_pipeline.data.channel_stats import moments
from jepa_pipeline.data.decode import DecodeError, decode
from jepa_pipeline.data.index import ShardIndex, as_index, load_index, unreadable
from jepa_pipeline.data.manifest import Shard
from jepa_pipeline.data.remote import TRIES, is_remote, join, retried
from jepa_pipeline.data.samples import IMAGES, VIDEOS, Fault, Found, Kind, find_samples
from jepa_pipeline.data.summary import facts_table
from jepa_pipeline.data.tar import Passing, ShardError, open_tar, shown
from jepa_pipeline.data.video import Video, VideoFacts, as_decode_error, open_video

TINY = 16
"""Pixels of the shorter side below which an image or video is remarked on."""
CLOSE = 1e-3
"""How far a duration or frame rate may be off, as another release of FFmpeg may round it otherwise."""


class Finding(Section):
    """Something about a shard that its owner should know."""

    kind: str
    shard: str
    sample: str | None = None
    sentence: str

    def __str__(self) -> str:
        return f"{shown(self.shard)}: {self.sentence}"


@dataclass
class ShardReport:
    """What one reading of a shard has shown.

    problems: damage that training or a count would meet; warnings: what it would not. labels, sides, extensions: how many
    samples have each label, shorter side in pixels, kind of member; videos: a table of their facts; moments: sums over
    `decoded` images or first frames; keys: 64-bit hashes.
    """

    shard: str
    problems: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    decoded: int = 0
    labels: Counter[int | None] = field(default_factory=Counter)
    sides: Counter[int] = field(default_factory=Counter)
    extensions: Counter[str] = field(default_factory=Counter)
    videos: Float64[np.ndarray, "_ 5"] = field(default_factory=lambda: facts_table(None))
    moments: Float64[np.ndarray, "2 3"] = field(default_factory=lambda: np.zeros((2, 3)))
    keys: UInt64[np.ndarray, " samples"] = field(default_factory=lambda: np.zeros(0, np.uint64))

    def problem(self, kind: str, sentence: str, sample: str | None = None) -> None:
        self.problems.append(Finding(kind=kind, shard=self.shard, sample=sample, sentence=sentence))

    def warn(self, kind: str, sentence: str, sample: str | None = None) -> None:
        self.warnings.append(Finding(kind=kind, shard=self.shard, sample=sample, sentence=sentence))

    def look(self, sample: Found, kind: Kind) -> Found | Fault:
        """Decode all of a sample and count it. It comes back without its bytes; a video with its facts, or why it does not open."""
        seen, video = sample._replace(media=b""), None
        if kind == "videos":
            try:
                video = open_video(sample.media)
                seen = seen._replace(facts=video.facts)
            except DecodeError as error:
                return unreadable(sample.key, error)
        self.labels[sample.label] += 1
        self.extensions.update(sample.places.keys())
        try:
            picture = decode(sample.media) if video is None else watch(video)
        except DecodeError as error:
            self.problem("decode", f"sample {shown(sample.key)} does not decode ({error})", sample.key)
        else:
            self.count(sample, picture)
        return seen

    def count(self, sample: Found, picture: Image.Image) -> None:
        """Count a sample that decodes, by its image or a video's first frame."""
        self.decoded += 1
        self.moments += moments(picture)
        self.sides[min(picture.size)] += 1
        if min(picture.size) < TINY:
            self.warn("tiny", f"sample {shown(sample.key)} has only {picture.width}x{picture.height} pixels", sample.key)


def watch(video: Video) -> Image.Image:
    """Decode every frame, of which none is kept but the first. Raises DecodeError if one does not come."""
    with as_decode_error():
        for _ in video.decoded(range(len(video))):
            pass
    return Image.fromarray(video.frames(np.zeros(1, np.int64))[0])


def check_shard(folder: str, location: str, kind: Kind, classes: int | None, shard: Shard) -> ShardReport:
    """Read a shard whole: size, SHA-256, its index, each image or frame decoded, each label below `classes`.

    folder: where manifest and indexes lie; at a URL there are none to be checked. location: where the shards lie.
    """
    try:
        if is_remote(location):
            return retried(join(location, shard.file), lambda: read_shard(folder, location, kind, classes, shard), TRIES)
        return read_shard(folder, location, kind, classes, shard)
    except FileNotFoundError:
        reason = "it is missing: copy it again"
    except OSError as error:
        reason = f"it cannot be read ({error.strerror or error})"
    except UserError as error:
        reason = str(error)
    report = ShardReport(shard.file)
    report.problem("file", reason)
    return report


def read_shard(folder: str, location: str, kind: Kind, classes: int | None, shard: Shard) -> ShardReport:
    report = ShardReport(shard.file)
    samples: list[Found] = []
    faults: list[Fault] = []
    stored = stored_index(folder, report)
    media = VIDEOS if kind == "videos" else IMAGES
    with open_tar(location, shard.file) as file:
        passing = Passing(file)
        try:
            for result in find_samples(passing, classes, media=media, read=media):
                seen = result if isinstance(result, Fault) else report.look(result, kind)
                faults.append(seen) if isinstance(seen, Fault) else samples.append(seen)
            index = as_index(samples)
        except ShardError as error:
            report.problem("tar", f"{error}; {len(samples)} of its {shard.samples} samples are whole")
            return report
    report.videos = facts_table(index.videos)
    compare_bytes(passing, shard, report)
    judge_faults(faults, stored, report)
    if stored is not None:
        stored = compare_facts(stored, index, report)
        compare_index(stored, index if classes else index.unlabeled(), shard, passing.bytes, report)
        report.keys = key_hashes(stored.keys)
    return report


def stored_index(folder: str, report: ShardReport) -> ShardIndex | None:
    if is_remote(folder):
        return None
    try:
        return load_index(Path(folder) / report.shard)
    except UserError as error:
        report.problem("index", str(error))
        return None


def compare_bytes(passing: Passing, shard: Shard, report: ShardReport) -> None:
    digest = passing.sha256.hexdigest()
    if passing.bytes != shard.bytes:
        report.problem("size", f"it has {passing.bytes} bytes, the manifest says {shard.bytes}")
    elif digest != shard.sha256:
        report.problem("hash", f"its SHA-256 is {digest[:12]}..., the manifest says {shard.sha256[:12]}...")


def judge_faults(faults: list[Fault], stored: ShardIndex | None, report: ShardReport) -> None:
    """What makes samples unusable is a problem where the index lists them, and else a remark on what was left out."""
    listed = Counter(stored.keys if stored else ())
    for fault in faults:
        if fault.left_out and listed[fault.name] > (fault.kind == "key"):  # of two samples with one key the first is right
            report.problem(fault.kind, f"sample {shown(fault.name)} cannot be used: {fault.reason}", fault.name)
        else:
            report.warn(fault.kind, str(fault), fault.name)


def compare_facts(stored: ShardIndex, index: ShardIndex, report: ShardReport) -> ShardIndex:
    """A sentence on each video whose facts are not those of the stored index; that index with the right ones."""
    if stored.videos is None or index.videos is None:
        return stored
    right = dict(zip(index.keys, index.videos, strict=True))
    for key, said in zip(stored.keys, stored.videos, strict=True):
        found = right.get(key, said)
        if found and (said is None or not agree(said, found)):
            says = in_words(said) if said else "nothing"
            report.problem("facts", f"its index says {says} of sample {shown(key)}, which has {in_words(found)}", key)
    return stored.model_copy(update={"videos": index.videos})


def agree(one: VideoFacts, other: VideoFacts) -> bool:
    same = (one.width, one.height, one.frames) == (other.width, other.height, other.frames)
    return same and isclose(one.duration_s, other.duration_s, rel_tol=CLOSE) and isclose(one.fps, other.fps, rel_tol=CLOSE)


def in_words(facts: VideoFacts) -> str:
    return f"{facts.frames} frames of {facts.width}x{facts.height} pixels, {facts.fps:.6g} a second for {facts.duration_s:.6g} s"


def compare_index(stored: ShardIndex, index: ShardIndex, shard: Shard, size: int, report: ShardReport) -> None:
    """At most one sentence on an index; `index` is what it should be, `size` that of the tar in bytes."""
    if stored == index and len(stored.keys) == shard.samples:
        return
    outside = next(places_beyond(stored, size), None)
    if outside is not None:
        report.problem("index", f"its index says that sample {shown(outside)} lies beyond the end of the tar", outside)
    elif len(stored.keys) != shard.samples:
        report.problem("index", f"its index lists {len(stored.keys)} samples, the manifest says {shard.samples}")
    elif stored.unlabeled() == index:
        report.problem("label", "its index holds labels, the manifest names no classes")
    elif all(problem.kind == "decode" for problem in report.problems):  # others have said why the two differ
        report.problem("index", "the index beside it is not the index of this tar: make it with `jepa shards index`")


def places_beyond(index: ShardIndex, size: int) -> Iterator[str]:
    for places in index.members.values():
        yield from (key for key, place in zip(index.keys, places, strict=True) if place and sum(place) > size)


def key_hashes(keys: list[str]) -> UInt64[np.ndarray, " samples"]:
    digests = b"".join(blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(digests, np.uint64)


def repeated_keys(folder: str, reports: Sequence[ShardReport]) -> Iterator[Finding]:
    """One sentence for each shard that has keys of an earlier one. 1e8 samples take about 2 GB."""
    everything = np.sort(np.concatenate([report.keys for report in reports]))
    repeated = np.unique(everything[1:][everything[1:] == everything[:-1]])
    first = np.full(len(repeated), -1)
    for number, report in enumerate(reports):
        if not len(repeated):
            return
        where = np.searchsorted(repeated, report.keys).clip(max=len(repeated) - 1)
        members = np.flatnonzero(repeated[where] == report.keys)
        rows = where[members]
        again = members[first[rows] >= 0]
        if len(again):
            key = load_index(Path(folder) / report.shard).keys[int(again[0])]
            other = reports[int(first[where[again[0]]])].shard
            sentence = f"{len(again)} of its keys are those of samples in earlier shards, such as {shown(key)} in {shown(other)}"
            yield Finding(kind="key", shard=report.shard, sample=key, sentence=sentence)
        first[rows[first[rows] < 0]] = number
