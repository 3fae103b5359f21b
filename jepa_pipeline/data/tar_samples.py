"""The samples in a tar of any writer: members grouped by key as webdataset does, their labels, and what makes them unusable."""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import PurePosixPath
from typing import NamedTuple

from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.data.sample import IMAGE_EXTENSIONS, LABEL, MAX_MEDIA_BYTES, VIDEO_EXTENSIONS, VideoMetadata, check_media_size
from jepa_pipeline.data.tar_reader import HashingReader, iter_members, printable

MEDIA = (*VIDEO_EXTENSIONS, *IMAGE_EXTENSIONS)
"""The first of these that a sample has is its medium: an image beside a video is a thumbnail."""
JSON = "json"
LABEL_KEYS = ("label", "cls")
"""Keys of a label in a sample's JSON."""
MEMBER = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)
"""Key and extension of a member, split at the first dot of the file name as in webdataset."""
META = re.compile(r"__[^/]*__(/|$)")
"""Members that describe a shard and are no samples, as in webdataset."""

MAX_TEXT_BYTES = 1_000_000
"""Size of the largest member that is read for a label."""
MAX_CLASSES = 1_000_000

ByteRange = tuple[int, int]
"""Offset in the tar and size of a member, in bytes."""


class TarSample(NamedTuple):
    """A sample in a tar.

    ranges: where its members are, by extension. labeled_by: the extension of the member that holds its label.
    media: the compressed image or video, if it was requested. metadata: of a video, if it was opened.
    """

    key: str
    ranges: dict[str, ByteRange]
    label: int | None
    labeled_by: str | None
    media: bytes
    metadata: VideoMetadata | None = None

    @property
    def kind(self) -> DataKind:
        return "images" if self.ranges.keys().isdisjoint(VIDEO_EXTENSIONS) else "videos"


class Defect(NamedTuple):
    """Something wrong with a sample or member of a tar, and whether the sample is skipped for it.

    kind: "name", "key", "missing", "image", "video", "label", "member" or "joined".
    """

    kind: str
    name: str
    reason: str
    skipped: bool = True

    def __str__(self) -> str:
        return f"{printable(self.name)}{' is skipped' if self.skipped else ''}: {self.reason}"


class Member(NamedTuple):
    """A file in a tar; data: its bytes if it may hold a label or is a requested medium; sparse: stored with holes."""

    key: str
    extension: str
    range: ByteRange
    data: bytes | None
    sparse: bool


def iter_samples(
    reader: HashingReader, classes: int | None = None, *, media: tuple[str, ...] = MEDIA, read: tuple[str, ...] = ()
) -> Iterator[TarSample | Defect]:
    """Yield the samples of a tar in order, and the defects between them. Nothing is decoded but JSON, for labels.

    A sample is skipped if it has no medium, if its key is repeated, or if its name leads out of a folder.

    Args:
        reader: the tar.
        classes: if given, samples without a label below this number are skipped too.
        media: extensions of images and videos that count; the first that a sample has is its medium.
        read: extensions of media whose bytes are read.

    Raises:
        ShardError: it is not a complete tar.
    """
    special: list[str] = []
    nameless: list[str] = []
    keys: dict[str, bool] = {}  # of the samples so far, and whether each has a medium
    for key, group in groupby(read_members(reader, special, nameless, read), key=lambda member: member.key):
        sample: dict[str, Member] = {}
        for member in group:
            if member.extension in sample:
                reason = "its name is repeated, the first member counts"
                yield Defect("key", f"{key}.{member.extension}", reason, skipped=False)
            sample.setdefault(member.extension, member)
        medium = next((sample[extension] for extension in media if extension in sample), None)
        defect = check_medium(medium) if medium else Defect("missing", key, describe_missing(sample, media))
        defect = check_key(key, keys, medium is not None) or defect
        keys.setdefault(key, medium is not None)
        if defect:
            yield defect
        elif medium:
            yield from label_sample(key, sample, medium, classes)
    if special:
        more = f" and {len(special) - 1} more" if len(special) > 1 else ""
        yield Defect("member", special[0], f"this member{more} is a link or a device and not followed", skipped=False)
    if nameless:
        more = f" and {len(nameless) - 1} more" if len(nameless) > 1 else ""
        yield Defect("member", nameless[0], f"this member{more} has no extension and is not read", skipped=False)
    yield from describe_end(reader)


def describe_end(reader: HashingReader) -> Iterator[Defect]:
    """Yield what is odd about a tar that was read: what lies behind its end mark."""
    if reader.joined is not None:
        reason = (
            "this member and those after it are behind an end mark, as in tars joined with cat; they are read here, but other "
            "programs stop at the mark"
        )
        yield Defect("joined", to_text(reader.joined), reason, skipped=False)
    if reader.unread_from is not None:
        reason = f"the {reader.bytes - reader.unread_from} bytes behind it are no tar and are not read"
        yield Defect("joined", "its end mark", reason, skipped=False)


def to_text(name: str) -> str:
    """Return a member's name as text that JSON can hold, escaped where its bytes are not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def read_members(reader: HashingReader, special: list[str], nameless: list[str], read: tuple[str, ...]) -> Iterator[Member]:
    """Yield the files of a tar that belong to samples; append links and devices to `special`, and files without an extension to
    `nameless`. Hidden ones, such as those of macOS, are passed over.
    """
    for member, stream in iter_members(reader):
        name = to_text(member.name)
        if member.isdir() or META.match(name):
            continue
        if not member.isreg():
            special.append(name)
        elif match := MEMBER.fullmatch(name):
            key, extension = match[1], match[2].lower()
            limit = MAX_TEXT_BYTES if extension in (LABEL, JSON) else MAX_MEDIA_BYTES if extension in read else -1
            data = stream.read(member.size) if member.size <= limit and not member.issparse() else None
            yield Member(key, extension, (member.offset_data, member.size), data, member.issparse())
        elif not PurePosixPath(name).name.startswith("."):
            nameless.append(name)


def check_key(key: str, keys: dict[str, bool], has_medium: bool) -> Defect | None:
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts:
        return Defect("name", key, "its name leads out of the folder it would be unpacked to: rename it")
    if key in keys and keys[key] and has_medium:
        return Defect("key", key, "its key is repeated in this shard, the first sample counts")
    if key in keys:
        return Defect("key", key, "its members are not next to each other: pack the shard again, sorted by name")
    return None


def check_medium(medium: Member) -> Defect | None:
    kind: DataKind = "videos" if medium.extension in VIDEO_EXTENSIONS else "images"
    if medium.sparse:
        reason = f"its {kind[:-1]} is stored with holes (a sparse file): pack the shard again without them"
        return Defect(kind[:-1], medium.key, reason)
    try:
        check_media_size(medium.range[1], kind)
    except ValueError as error:
        return Defect(kind[:-1], medium.key, str(error))
    return None


def describe_missing(extensions: Iterable[str], media: tuple[str, ...]) -> str:
    dotted = next((extension for extension in extensions if extension.rpartition(".")[2] in media), None)
    cure = ": an extension begins at the first dot of a name, so rename its members to have one dot" if dotted else ""
    wanted = ", ".join(VIDEO_EXTENSIONS if media == VIDEO_EXTENSIONS else IMAGE_EXTENSIONS)
    return f"it has no {wanted}, only {printable(', '.join(extensions))}{cure}"


def label_sample(key: str, sample: dict[str, Member], medium: Member, classes: int | None) -> Iterator[TarSample | Defect]:
    """Yield a usable sample with its label, or the defect of its label, or both if labels are optional."""
    label = labeled_by = None
    try:
        label, labeled_by = read_label(sample, classes)
    except ValueError as error:
        yield Defect("label", key, str(error), skipped=classes is not None)
        if classes is not None:
            return
    ranges = {extension: member.range for extension, member in sample.items()}
    yield TarSample(key, ranges, label, labeled_by, medium.data or b"")


def read_label(sample: dict[str, Member], classes: int | None) -> tuple[int | None, str | None]:
    """Return the label and the extension of the member that holds it.

    Raises:
        ValueError: it is no label, or there is none although `classes` is given.
    """
    label, labeled_by = None, None
    text = sample[LABEL].data if LABEL in sample else None
    if text is not None and re.fullmatch(rb"\s*[+-]?[0-9]{1,18}\s*", text):
        label, labeled_by = int(text), LABEL
    elif JSON in sample:
        label, labeled_by = read_json_label(sample[JSON]), JSON
    if label is None and LABEL in sample:
        raise ValueError(f"its label {printable((text or b'').decode('utf-8', 'replace'))!r} is not a whole number")
    if label is None and classes is not None:
        raise ValueError(f"it has no label, neither in a .{LABEL} nor in a .{JSON}")
    if label is not None and not 0 <= label < (classes or MAX_CLASSES):
        raise ValueError(f"its label is {label}, but labels go from 0 to {(classes or MAX_CLASSES) - 1}")
    return (None, None) if label is None else (label, labeled_by)


def read_json_label(member: Member) -> int | None:
    if member.data is None:
        raise ValueError(f"its json has {member.range[1]} bytes, but labels are read from up to {MAX_TEXT_BYTES}")
    try:
        values = json.loads(member.data)
    except (ValueError, RecursionError) as error:
        raise ValueError("its json is not readable JSON") from error
    labels = (values.get(name) for name in LABEL_KEYS) if isinstance(values, dict) else ()
    return next((label for label in labels if isinstance(label, int) and not isinstance(label, bool)), None)
