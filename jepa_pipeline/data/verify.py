"""Verification of a shard in one reading: a sentence for each problem, and statistics of its samples."""

from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from math import isclose
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt64

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.data.index import ShardIndex, index_path, load_index
from jepa_pipeline.data.indexing import build_index
from jepa_pipeline.data.manifest import Manifest, Shard
from jepa_pipeline.data.remote import TRIES, is_remote, join_url, open_file, retry
from jepa_pipeline.data.sample import ARRAY, MEDIA_EXTENSIONS, VideoMetadata
from jepa_pipeline.data.shard_report import ShardReport
from jepa_pipeline.data.summary import metadata_table
from jepa_pipeline.data.tar_reader import HashingReader, ShardError, printable
from jepa_pipeline.data.tar_samples import OTHER_MEDIA, Defect, TarSample, iter_samples
from jepa_pipeline.files import sha256_of

TOLERANCE = 1e-3
"""Relative error of a duration or frame rate, which another release of FFmpeg may round otherwise."""


class Contents(NamedTuple):
    """The properties of a data set that decide what its tars should hold; see Manifest. listed: labels are not in the tars."""

    kind: DataKind
    classes: tuple[str, ...] | None = None
    member: str | None = None
    listed: bool = False

    @classmethod
    def of(cls, manifest: Manifest) -> "Contents":
        return cls(manifest.kind, manifest.classes, manifest.member, manifest.label_list is not None)


def check_shard(folder: str, location: str, contents: Contents, shard: Shard) -> ShardReport:
    """Verify a shard: its size, SHA-256 and index, that every image or frame decodes, and that every label is one of a class.

    Args:
        folder: of the manifest and the indexes; at a URL indexes are not checked.
        location: folder or URL of the shards.
        contents: of the data set.
        shard: its entry in the manifest.
    """
    try:
        if is_remote(location):
            return retry(join_url(location, shard.file), lambda: read_shard(folder, location, contents, shard), TRIES)
        return read_shard(folder, location, contents, shard)
    except FileNotFoundError:
        reason = "it is missing: copy it again"
    except OSError as error:
        reason = f"it cannot be read ({error.strerror or error})"
    except UserError as error:
        reason = str(error)
    report = ShardReport(shard.file)
    report.problem("file", reason)
    return report


def read_shard(folder: str, location: str, contents: Contents, shard: Shard) -> ShardReport:
    report = ShardReport(shard.file)
    samples: list[TarSample] = []
    defects: list[Defect] = []
    stored = load_stored_index(folder, report)
    media, kind = MEDIA_EXTENSIONS[contents.kind], contents.kind
    if stored is not None and stored.members.keys() & OTHER_MEDIA:
        media = tuple(extension for extension in media if extension != ARRAY)
    classes = None if contents.listed else contents.classes
    chosen = {*stored.keys} if contents.listed and stored else None
    with open_file(location, shard.file) as file:
        reader = HashingReader(file, shard.bytes if is_remote(location) else None)
        try:
            for result in iter_samples(reader, classes, media=media, read=media, member=contents.member):
                if chosen is not None and isinstance(result, TarSample) and result.key not in chosen:
                    continue  # the list has no row for it
                checked = result if isinstance(result, Defect) else report.add(result, kind)
                defects.append(checked) if isinstance(checked, Defect) else samples.append(checked)
            index = build_index(samples)
        except ShardError as error:
            report.problem("tar", f"{error}; {len(samples)} of its {shard.samples} samples are complete")
            return report
    report.videos = metadata_table(index.videos)
    compare_bytes(reader, shard, report)
    report_defects(defects, stored, report)
    if stored is not None:
        stored = compare_metadata(stored, index, report)
        if contents.listed:
            report.labels = check_listed_labels(stored, contents, report)
            stored, index = stored.without_labels(), index.without_labels()
        compare_index(stored, index if classes else index.without_labels(), shard, reader.bytes, report)
        compare_index_hash(folder, shard, contents.listed, report)
        report.keys = key_hashes(stored.keys)
    return report


def check_listed_labels(stored: ShardIndex, contents: Contents, report: ShardReport) -> Counter[int | None]:
    """Return the samples by label of an index whose labels are of a list; report those that are of no class."""
    labels, count = Counter(stored.labels), len(contents.classes or ())
    if wrong := [label for label in labels if label is None or not 0 <= label < count]:
        report.problem("label", f"its index has the label {wrong[0]}, but labels go from 0 to {count - 1}")
    return labels


def load_stored_index(folder: str, report: ShardReport) -> ShardIndex | None:
    if is_remote(folder):
        return None
    try:
        return load_index(Path(folder) / report.shard)
    except UserError as error:
        report.problem("index", str(error))
        return None


def compare_bytes(reader: HashingReader, shard: Shard, report: ShardReport) -> None:
    digest = reader.sha256.hexdigest()
    if reader.bytes != shard.bytes:
        least = "at least " if reader.limit is not None and reader.bytes > shard.bytes else ""
        report.problem("size", f"it has {least}{reader.bytes} bytes, the manifest says {shard.bytes}")
    elif digest != shard.sha256:
        report.problem("hash", f"its SHA-256 is {digest[:12]}..., the manifest says {shard.sha256[:12]}...")


def report_defects(defects: list[Defect], stored: ShardIndex | None, report: ShardReport) -> None:
    """Report a problem for each unusable sample that the index lists, and a warning for those it leaves out."""
    listed = Counter(stored.keys if stored else ())
    for defect in defects:
        # Of two samples with the same key the first is right, so the index lists the key once without a problem.
        if defect.skipped and listed[defect.name] > (defect.kind == "key"):
            report.problem(defect.kind, f"sample {printable(defect.name)} cannot be used: {defect.reason}", defect.name)
        else:
            report.warn(defect.kind, str(defect), defect.name)


def compare_metadata(stored: ShardIndex, index: ShardIndex, report: ShardReport) -> ShardIndex:
    """Report videos whose metadata differs from the stored index, and return that index with the right metadata."""
    if stored.videos is None or index.videos is None:
        return stored
    right = dict(zip(index.keys, index.videos, strict=True))
    for key, old in zip(stored.keys, stored.videos, strict=True):
        new = right.get(key, old)
        if new and (old is None or not agree(old, new)):
            stated = format_metadata(old) if old else "nothing"
            sentence = f"its index states {stated} for sample {printable(key)}, which has {format_metadata(new)}"
            report.problem("facts", sentence, key)
    return stored.model_copy(update={"videos": index.videos})


def agree(old: VideoMetadata, new: VideoMetadata) -> bool:
    same = (old.width, old.height, old.frames) == (new.width, new.height, new.frames)
    return same and isclose(old.duration_s, new.duration_s, rel_tol=TOLERANCE) and isclose(old.fps, new.fps, rel_tol=TOLERANCE)


def format_metadata(video: VideoMetadata) -> str:
    return f"{video.frames} frames of {video.width}x{video.height} pixels, {video.fps:.6g} per second for {video.duration_s:.6g} s"


def compare_index(stored: ShardIndex, index: ShardIndex, shard: Shard, size: int, report: ShardReport) -> None:
    """Report at most one problem of the stored index. index: the right one; size: of the tar in bytes."""
    if stored == index and len(stored.keys) == shard.samples:
        return
    outside = next(keys_beyond(stored, size), None)
    if outside is not None:
        report.problem("index", f"its index places sample {printable(outside)} beyond the end of the tar", outside)
    elif len(stored.keys) != shard.samples:
        report.problem("index", f"its index lists {len(stored.keys)} samples, the manifest says {shard.samples}")
    elif stored.without_labels() == index:
        report.problem("label", "its index has labels, but the manifest has no classes")
    elif all(problem.kind == "decode" for problem in report.problems):  # other problems say why they differ
        report.problem("index", "the index beside it belongs to another tar: make it with `jepa shards index`")


def compare_index_hash(folder: str, shard: Shard, listed: bool, report: ShardReport) -> None:
    """Report an index that is not the manifest's, if nothing else has shown it: labels of a list are nowhere else."""
    if {problem.kind for problem in report.problems} & {"index", "label", "facts"}:
        return
    if shard.index_sha256 is None:
        if listed:
            report.warn("hash", "the manifest, of an earlier version, has no hash of its index: changed labels would not be seen")
    elif sha256_of(index_path(Path(folder) / shard.file)) != shard.index_sha256:
        sentence = "the SHA-256 of its index is not that of the manifest: copy both again, or make them with `jepa shards index`"
        report.problem("index", sentence)


def keys_beyond(index: ShardIndex, size: int) -> Iterator[str]:
    for ranges in index.members.values():
        yield from (key for key, span in zip(index.keys, ranges, strict=True) if span and sum(span) > size)


def key_hashes(keys: list[str]) -> UInt64[np.ndarray, " samples"]:
    digests = b"".join(blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(digests, np.uint64)
