"""The samples in a tar of any writer: members grouped by key as webdataset does, their labels, and what makes them unusable."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import PurePosixPath
from typing import NamedTuple

from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.data.class_names import Classes
from jepa_pipeline.data.member_labels import JSON, MAX_TEXT_BYTES, ByteRange, LabelError, Member, read_label
from jepa_pipeline.data.sample import (
    ARRAY,
    IMAGE_EXTENSIONS,
    LABEL,
    MAX_MEDIA_BYTES,
    VIDEO_EXTENSIONS,
    VideoMetadata,
    check_media_size,
)
from jepa_pipeline.data.tar_reader import HashingReader, iter_members, printable

MEDIA = (*VIDEO_EXTENSIONS, *IMAGE_EXTENSIONS)
"""The first of these that a sample has is its medium: an image beside a video is a thumbnail."""
OTHER_MEDIA = {*MEDIA} - {ARRAY}
MEMBER = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)
"""Key and extension of a member, split at the first dot of the file name as in webdataset."""
META = re.compile(r"__[^/]*__(/|$)")
"""Members that describe a shard and are no samples, as in webdataset."""


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

    kind: "name", "key", "late" (a label apart from its image), "missing", "image", "video", "label", "member" or "joined".
    label: a whole number that is not a label of the data set. unknown: a label that is a text, but no class of the data set.
    """

    kind: str
    name: str
    reason: str
    skipped: bool = True
    label: int | None = None
    unknown: str | None = None

    def __str__(self) -> str:
        return f"{printable(self.name)}{' is skipped' if self.skipped else ''}: {self.reason}"


def iter_samples(
    reader: HashingReader,
    classes: Sequence[str] | None = None,
    *,
    media: tuple[str, ...] = MEDIA,
    read: tuple[str, ...] = (),
    member: str | None = None,
) -> Iterator[TarSample | Defect]:
    """Yield the samples of a tar in order, and the defects between them. Nothing is decoded but JSON, for labels.

    A sample is skipped if it has no medium, if its key is repeated, or if its name leads out of a folder.

    Args:
        reader: the tar.
        classes: names; if given, samples whose label is neither one of their numbers nor one of them are skipped too.
        media: extensions of images and videos that count; the first that a sample has is its medium.
        read: extensions of media whose bytes are read.
        member: extension of the only member that counts as medium, such as left.jpg, or its part before the last dot.

    Raises:
        ShardError: it is not a complete tar.
    """
    special: list[str] = []
    nameless: list[str] = []
    known = None if classes is None else Classes.of(classes)
    keys: dict[str, bool] = {}  # of the samples so far, and whether each has a medium
    for key, group in groupby(read_members(reader, special, nameless, read, member), key=lambda found: found.key):
        sample: dict[str, Member] = {}
        for found in group:
            if found.extension in sample:
                reason = "its name is repeated, the first member counts"
                yield Defect("key", f"{key}.{found.extension}", reason, skipped=False)
            sample.setdefault(found.extension, found)
        if member:
            sample = choose_member(sample, member)
        medium = next((sample[extension] for extension in media if extension in sample), None)
        defect = check_medium(medium) if medium else Defect("missing", key, describe_missing(sample, media, member))
        defect = check_key(key, keys, sample, medium is not None) or defect
        keys.setdefault(key, medium is not None)
        if defect:
            yield defect
        elif medium:
            yield from label_sample(key, sample, medium, known)
    if special:
        more = f" and {len(special) - 1} more" if len(special) > 1 else ""
        yield Defect("member", special[0], f"this member{more} is a link or a device and not followed", skipped=False)
    if nameless:
        more = f" and {len(nameless) - 1} more" if len(nameless) > 1 else ""
        yield Defect("member", nameless[0], f"this member{more} has no extension and is not read", skipped=False)
    yield from describe_end(reader)


def set_arrays_aside(samples: Sequence[TarSample]) -> tuple[list[TarSample], list[Defect]]:
    """Return the samples of a tar and the defects of those that have an array alone, if others have an image or video."""
    reason = f"it has an array ({ARRAY}) alone, which is an image only in shards without other images and videos"
    arrays = [sample for sample in samples if not sample.ranges.keys() & OTHER_MEDIA]
    if len(arrays) in (0, len(samples)):
        return [*samples], []
    return (
        [sample for sample in samples if sample.ranges.keys() & OTHER_MEDIA],
        [Defect("missing", sample.key, reason) for sample in arrays],
    )


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


def choose_member(sample: dict[str, Member], name: str) -> dict[str, Member]:
    """Return a sample whose only medium is the named member, under its last extension."""
    others = {extension: member for extension, member in sample.items() if last_extension(extension) not in MEDIA}
    chosen = {last_extension(extension): member for extension, member in sample.items() if is_named(extension, name)}
    return others | chosen


def is_named(extension: str, name: str) -> bool:
    """Return whether the extension of a medium, such as left.jpg, is the given one, or that without its last part."""
    return last_extension(extension) in MEDIA and name in (extension, extension.rpartition(".")[0])


def last_extension(extension: str) -> str:
    return extension.rpartition(".")[2]


def read_members(
    reader: HashingReader, special: list[str], nameless: list[str], read: tuple[str, ...], name: str | None = None
) -> Iterator[Member]:
    """Yield the files of a tar that belong to samples; append links and devices to `special`, and files without an extension to
    `nameless`. Hidden ones, such as those of macOS, are passed over.
    """
    for member, stream in iter_members(reader):
        path = to_text(member.name)
        if member.isdir() or META.match(path):
            continue
        if not member.isreg():
            special.append(path)
        elif match := MEMBER.fullmatch(path):
            key, extension = match[1], match[2].lower()
            wanted = extension in read if name is None else is_named(extension, name) and last_extension(extension) in read
            limit = MAX_TEXT_BYTES if extension in (LABEL, JSON) else MAX_MEDIA_BYTES if wanted else -1
            data = stream.read(member.size) if member.size <= limit and not member.issparse() else None
            yield Member(key, extension, (member.offset_data, member.size), data, member.issparse())
        elif not PurePosixPath(path).name.startswith("."):
            nameless.append(path)


def check_key(key: str, keys: dict[str, bool], extensions: Iterable[str], has_medium: bool) -> Defect | None:
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts:
        return Defect("name", key, "its name leads out of the folder it would be unpacked to: rename it")
    if key in keys and keys[key] and has_medium:
        return Defect("key", key, "its key is repeated in this shard, the first sample counts")
    if key in keys:
        return describe_apart(key, [*extensions], after_medium=keys[key])
    return None


def describe_apart(key: str, extensions: Sequence[str], after_medium: bool) -> Defect:
    """Return the defect of members that others separate from the first of their sample; behind its medium only they are lost."""
    reason, cure = "its members are not next to each other", "pack the shard again, sorted by name"
    if not after_medium:
        return Defect("key", key, f"{reason}: {cure}")
    kind = "late" if {LABEL, JSON} & {*extensions} else "key"
    return Defect(kind, key, f"{reason}, so that its {printable(' and '.join(extensions))} is not read: {cure}", skipped=False)


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


def describe_missing(extensions: Iterable[str], media: tuple[str, ...], member: str | None) -> str:
    dotted = next((extension for extension in extensions if last_extension(extension) in media), None)
    cure = ": an extension begins at the first dot of a name, so rename its members to have one dot" if dotted else ""
    numbered = dotted is not None and dotted.partition(".")[0].isdecimal()  # as frames are: the name differs from sample to sample
    cure += f", or index with --member {printable(dotted)}" if dotted and not numbered else ""
    wanted = member or ", ".join(VIDEO_EXTENSIONS if media == VIDEO_EXTENSIONS else IMAGE_EXTENSIONS)
    return f"it has no {wanted}, only {printable(', '.join(extensions))}{cure}"


def label_sample(key: str, sample: dict[str, Member], medium: Member, classes: Classes | None) -> Iterator[TarSample | Defect]:
    """Yield a usable sample with its label, or the defect of its label, or both if labels are optional."""
    label = labeled_by = None
    try:
        label, labeled_by = read_label(sample, classes)
    except LabelError as error:
        yield Defect("label", key, str(error), skipped=classes is not None, label=error.number, unknown=error.name)
        if classes is not None:
            return
    ranges = {extension: member.range for extension, member in sample.items()}
    yield TarSample(key, ranges, label, labeled_by, medium.data or b"")
