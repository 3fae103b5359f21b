"""The samples in a tar of any writer: which members belong together, what labels them, and what makes them unusable."""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from pydantic import NonNegativeInt

from jepa_pipeline.data.tar import Passing, shown, tar_members
from jepa_pipeline.data.video import VideoFacts

Kind = Literal["images", "videos"]
IMAGES = ("jpg", "jpeg", "png", "webp")
VIDEOS = ("mp4", "mov", "m4v", "mkv", "webm", "avi", "gif")
MEDIA = (*VIDEOS, *IMAGES)
"""The first of these that a sample has is its medium: beside a video an image is a thumbnail."""
LABEL = "cls"
JSON = "json"
LABEL_KEYS = ("label", "cls")
"""Where in a sample's JSON a label may stand."""
MEMBER = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)
"""Key and extension of a member, parted at the first dot of the file name as webdataset does."""
META = re.compile(r"__[^/]*__(/|$)")
"""Members that describe a shard and are no samples, as webdataset names them."""

MAX_TEXT = 1_000_000
"""Bytes of the longest member that is read for a label."""
MAX_MEDIA = 1 << 30
"""Bytes of the longest image or video that is read."""
MAX_CLASSES = 1_000_000

Place = tuple[NonNegativeInt, NonNegativeInt]
"""Offset in the tar and size of a member, in bytes."""


class Found(NamedTuple):
    """A sample met in a tar: where its members lie, its label and what named it (cls or json).

    media: the compressed image or video, if it was asked for; facts: of a video, if it was opened.
    """

    key: str
    places: dict[str, Place]
    label: int | None
    labeled_by: str | None
    media: bytes
    facts: VideoFacts | None = None

    @property
    def is_video(self) -> bool:
        return not self.places.keys().isdisjoint(VIDEOS)


class Fault(NamedTuple):
    """Something in a tar that is not as it should be: a sample or member, why, and whether it is left out therefore.

    kind: "name", "key", "missing", "image", "video", "label" or "member".
    """

    kind: str
    name: str
    reason: str
    left_out: bool = True

    def __str__(self) -> str:
        return f"{shown(self.name)}{' is left out' if self.left_out else ''}: {self.reason}"


class Piece(NamedTuple):
    """A file in a tar; the bytes only of those that hold labels, and of media where they are asked for."""

    key: str
    extension: str
    place: Place
    data: bytes | None
    holes: bool


def find_samples(
    passing: Passing, classes: int | None = None, *, media: tuple[str, ...] = MEDIA, read: tuple[str, ...] = ()
) -> Iterator[Found | Fault]:
    """The samples of a tar in their order, and what is wrong between them. No member is decoded; JSON is parsed for labels.

    A sample is left out if it has no image or video, if its key has come before, or if its name leads out of a folder; with
    `classes` also if it has no label below that number. media: the extensions of images and videos that count, the first that a
    sample has is its medium; read: those whose bytes are read.

    Raises:
        ShardError: it is no whole tar.
    """
    no_files: list[str] = []
    seen: dict[str, bool] = {}
    for key, group in groupby(pieces(passing, no_files, read), key=lambda piece: piece.key):
        sample: dict[str, Piece] = {}
        for piece in group:
            if piece.extension in sample:
                yield Fault("key", f"{key}.{piece.extension}", "its name comes twice, the first member counts", left_out=False)
            sample.setdefault(piece.extension, piece)
        medium = next((sample[extension] for extension in media if extension in sample), None)
        fault = unusable(medium) if medium else Fault("missing", key, lacks(sample, media))
        fault = misplaced(key, seen, medium is not None) or fault
        seen.setdefault(key, medium is not None)
        if fault:
            yield fault
        elif medium:
            yield from labeled(key, sample, medium, classes)
    if no_files:
        more = f" and {len(no_files) - 1} more" if len(no_files) > 1 else ""
        yield Fault("member", no_files[0], f"this member{more} is a link or a device and not followed", left_out=False)


def pieces(passing: Passing, no_files: list[str], read: tuple[str, ...]) -> Iterator[Piece]:
    """The files of a tar that belong to samples. Others are passed over, links and devices are listed in `no_files`."""
    for member, stream in tar_members(passing):
        name = member.name.encode("utf-8", "backslashreplace").decode()  # bytes that are no UTF-8 cannot go into JSON
        if member.isdir() or META.match(name):
            continue
        if not member.isreg():
            no_files.append(name)
        elif match := MEMBER.fullmatch(name):
            key, extension = match[1], match[2].lower()
            limit = MAX_TEXT if extension in (LABEL, JSON) else MAX_MEDIA if extension in read else -1
            data = stream.read(member.size) if member.size <= limit and not member.issparse() else None
            yield Piece(key, extension, (member.offset_data, member.size), data, member.issparse())


def misplaced(key: str, seen: dict[str, bool], has_medium: bool) -> Fault | None:
    """What makes a key unusable; `seen` holds the keys that came before and whether each had an image or video."""
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts:
        return Fault("name", key, "its name leads out of the folder it would be unpacked to: rename it")
    if key in seen and seen[key] and has_medium:
        return Fault("key", key, "its key has come before in this shard, the first sample counts")
    if key in seen:
        return Fault("key", key, "its members do not lie next to each other: pack the shard anew, sorted by name")
    return None


def unusable(medium: Piece) -> Fault | None:
    """What makes an image or video unusable, before it is decoded."""
    kind, article = ("video", "a") if medium.extension in VIDEOS else ("image", "an")
    if medium.holes:
        return Fault(kind, medium.key, f"its {kind} is stored with holes (a sparse file): pack the shard anew without them")
    if not 0 < medium.place[1] <= MAX_MEDIA:
        reason = f"its {kind} has {medium.place[1]} bytes, but {article} {kind} has 1 to {MAX_MEDIA}"
        return Fault(kind, medium.key, reason)
    return None


def lacks(sample: Iterable[str], media: tuple[str, ...]) -> str:
    """Why members with these extensions are no sample."""
    dotted = next((extension for extension in sample if extension.rpartition(".")[2] in media), None)
    cure = ": an extension begins at the first dot of a name, so rename its members to have one dot" if dotted else ""
    return f"it has no {', '.join(VIDEOS if media == VIDEOS else IMAGES)}, only {shown(', '.join(sample))}{cure}"


def labeled(key: str, sample: dict[str, Piece], medium: Piece, classes: int | None) -> Iterator[Found | Fault]:
    """A usable sample with its label; where labels are needed and this one has none, why it is left out."""
    label = by = None
    try:
        label, by = read_label(sample, classes)
    except ValueError as error:
        yield Fault("label", key, str(error), left_out=classes is not None)
        if classes is not None:
            return
    yield Found(key, {extension: piece.place for extension, piece in sample.items()}, label, by, medium.data or b"")


def read_label(sample: dict[str, Piece], classes: int | None) -> tuple[int | None, str | None]:
    """The label and what named it. Raises ValueError if it is none, or there is none and it is needed."""
    label, by = None, None
    text = sample[LABEL].data if LABEL in sample else None
    if text is not None and re.fullmatch(rb"\s*[+-]?[0-9]{1,18}\s*", text):
        label, by = int(text), LABEL
    elif JSON in sample:
        label, by = json_label(sample[JSON]), JSON
    if label is None and LABEL in sample:
        raise ValueError(f"its label {shown((text or b'').decode('utf-8', 'replace'))!r} is not a whole number")
    if label is None and classes is not None:
        raise ValueError(f"it has no label, neither in a .{LABEL} nor in a .{JSON}")
    if label is not None and not 0 <= label < (classes or MAX_CLASSES):
        raise ValueError(f"its label is {label}, but labels go from 0 to {(classes or MAX_CLASSES) - 1}")
    return (None, None) if label is None else (label, by)


def json_label(piece: Piece) -> int | None:
    """The whole number under `label` or `cls` in a sample's JSON, if there is one."""
    if piece.data is None:
        raise ValueError(f"its json has {piece.place[1]} bytes, labels are read from up to {MAX_TEXT}")
    try:
        values = json.loads(piece.data)
    except (ValueError, RecursionError) as error:
        raise ValueError("its json is not readable JSON") from error
    found = (values.get(name) for name in LABEL_KEYS) if isinstance(values, dict) else ()
    return next((value for value in found if isinstance(value, int) and not isinstance(value, bool)), None)
