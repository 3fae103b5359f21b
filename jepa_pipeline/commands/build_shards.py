"""`jepa shards build`: make a data set from a folder of images or videos."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from PIL import Image

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.data.channel_stats import DeepRange, compute_channel_stats
from jepa_pipeline.data.class_names import count_names, read_classes
from jepa_pipeline.data.image import decode
from jepa_pipeline.data.index import load_index
from jepa_pipeline.data.label_list import read_label_list
from jepa_pipeline.data.manifest import Manifest, Skipped
from jepa_pipeline.data.media_folder import (
    FolderListing,
    Labeling,
    MediaFile,
    describe_suffixes,
    list_media,
    split_files,
    to_utf8,
)
from jepa_pipeline.data.sample import MAX_MEDIA_BYTES, DecodeError
from jepa_pipeline.data.summary import compute_video_stats, format_normalization, format_video_stats, metadata_table, print_lines
from jepa_pipeline.data.tar_reader import printable
from jepa_pipeline.data.video_writer import reencode_video
from jepa_pipeline.data.worker_pool import available_cores, parallel_map, track_progress
from jepa_pipeline.data.writer import Record, new_folder, video_record, write_shards

JPEG_QUALITY = 95
CHUNK_FILES: dict[DataKind, int] = {"images": 4, "videos": 1}
"""Files a process prepares between two messages; those of all chunks are in memory at once."""
MAX_CRF = 51


class Reencoding(NamedTuple):
    """Settings of H.264: frames from one key frame to the next (gop), and x264's quality (crf), 0 is best."""

    gop: int = 12
    crf: int = 18


def build(
    root: Path,
    out: Path,
    *,
    size: int | None = None,
    reencode: Reencoding | None = None,
    shard_size: int = 256,
    split: float = 0.0,
    seed: int = 0,
    workers: int | None = None,
    labels: Path | None = None,
    classes: Path | None = None,
    no_labels: bool = False,
) -> "Built":
    """Write the images or videos of a folder, at any depth, as shards, and return the manifest of each folder written.

    Several first-level folders are classes; parts of a data set, such as train and val, are refused. A file that does not
    decode (of a video, its first frame), or is a link to another file of the folder, is skipped and listed in the manifest.
    Others are stored byte for byte by default.

    Args:
        root: images are JPEG, PNG and WebP, videos mp4, mov, m4v, mkv, webm, avi and gif files; hidden files are ignored.
        out: a new folder.
        size: shrink the shorter side of larger images to this; JPEG stays JPEG at quality 95, all else becomes PNG.
        reencode: encode videos again, for fast access to any frame, and shrink them to `size`.
        shard_size: in MB.
        split: share of every class for OUT/test; the rest is OUT/train. Without it all is in OUT.
        seed: of the shuffle and the split.
        workers: processes. Default: all cores.
        labels: a list of files and their labels; files without a label are skipped. Default: folders are classes.
        classes: a file with the names of the classes in order. Default: all names, sorted.
        no_labels: folders are no classes.

    Raises:
        UserError: there is nothing to build from, both images and videos, parts of a data set, labels that do not fit, `out` is
            not empty, or a value is out of range.
    """
    check_values(size, shard_size, split, workers)
    listing = list_media(root, read_labeling(labels, classes, no_labels))
    files, kind = listing.files, listing.files[0].kind
    check_encoding(kind, size, reencode)
    parts = split_files(files, split, seed)
    print_lines([*listing.notes, *(listing.recordings if split else [])])
    workers = workers or available_cores()
    made = {"size": size, "split": split, "seed": seed, **(reencode._asdict() if reencode else {})}
    made |= {"label_list": labels.name} if labels else {}
    start, deep = perf_counter(), DeepRange()
    unlisted = iter(listing.skipped)  # all in the manifest of the first part
    manifests: dict[Path, Manifest] = {}
    with new_folder(out) as folder, ProcessPoolExecutor(workers) as pool:
        for part, selected in parts.items():
            jobs = [(record_key(index, file.path), file) for index, file in enumerate(selected)]
            prepared = parallel_map(pool, workers, partial(prepare, root, size, reencode), jobs, CHUNK_FILES[kind])
            manifests[out / part] = write_shards(
                chain(track_progress(count_deep(prepared, deep), f"writing {out / part}", len(jobs)), unlisted),
                folder / part,
                classes=listing.classes,
                made={"source": root.resolve().name, "part": part, **made},
                shard_size=shard_size,
            )
    print_summary(manifests, listing.others, len(files), perf_counter() - start)
    built = Built(manifests, listing, parts)
    print_lines(filter(None, [deep.describe(), *built.describe_classes()]))
    return built


class Built(dict[Path, Manifest]):
    """The manifest of each folder that was written. lost: names of classes of which no file could be used."""

    def __init__(
        self, manifests: Mapping[Path, Manifest], listing: FolderListing, parts: Mapping[str, Sequence[MediaFile]]
    ) -> None:
        super().__init__(manifests)
        names = listing.classes or ()
        self.counts = {folder: count_labels(folder, manifest) for folder, manifest in manifests.items()} if names else {}
        used = {label for counts in self.counts.values() for label in counts}
        unused = {file.label for files in parts.values() for file in files} - used
        self.lost = tuple(dict.fromkeys([*listing.lost, *pick(names, unused)]))
        self.used = pick(names, used)

    def describe_classes(self) -> Iterator[str]:
        """Yield sentences on the classes that are missing from all parts, or from one of two."""
        if self.lost:
            lost = count_names([*map(printable, self.lost)], "class")
            yield f"lost: {lost} without a file that could be used; exit code 1"
        for folder, counts in self.counts.items():
            names = self[folder].classes or ()
            if absent := [name for name in self.used if not counts[names.index(name)]]:
                yield f"{folder} has no sample of {count_names([*map(printable, absent)], 'class')}"


def pick(names: Sequence[str], labels: Collection[int | None]) -> list[str]:
    return [name for label, name in enumerate(names) if label in labels]


def count_labels(folder: Path, manifest: Manifest) -> Counter[int | None]:
    """Return the number of samples by label."""
    return Counter(label for shard in manifest.shards for label in load_index(folder / shard.file).labels)


def read_labeling(labels: Path | None, classes: Path | None, no_labels: bool) -> Labeling:
    """Return the choice of labels of the command line.

    Raises:
        UserError: a file cannot be read, or labels are chosen and refused.
    """
    if no_labels and (labels or classes):
        raise UserError(f"there are to be no labels, but {labels or classes} names some: leave one of the two out")
    return Labeling(labels and read_label_list(labels), classes and read_classes(classes), no_labels)


def count_deep(prepared: Iterable[Record | Skipped], deep: DeepRange) -> Iterator[Record | Skipped]:
    """Yield all records and add them to the range of 16-bit images."""
    for record in prepared:
        deep.add(record.brightest if isinstance(record, Record) else None)
        yield record


def check_values(size: int | None, shard_size: int, split: float, workers: int | None) -> None:
    if size is not None and size < 1:
        raise UserError(f"size is {size}: the shorter side of an image has at least 1 pixel")
    if shard_size < 1:
        raise UserError(f"shard_size is {shard_size}: a shard has at least 1 MB")
    if not 0 <= split < 1:
        raise UserError(f"split is {split:g}: the share of the test set is at least 0 and less than 1")
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}: at least 1 process is needed")


def reencoding_from_options(reencode: bool, gop: int | None, crf: int | None) -> Reencoding | None:
    """Return the settings of the command line, None without --reencode.

    Raises:
        UserError: there are settings without --reencode, or one is out of range.
    """
    given = {name: value for name, value in (("gop", gop), ("crf", crf)) if value is not None}
    if not reencode and given:
        name, value = next(iter(given.items()))
        raise UserError(f"--{name} is {value}, but videos are stored as they are: add --reencode, or leave it out")
    settings = Reencoding(**given)
    if settings.gop < 1:
        raise UserError(f"--gop is {settings.gop}: key frames are at least 1 frame apart")
    if not 0 <= settings.crf <= MAX_CRF:
        raise UserError(f"--crf is {settings.crf}: x264 has qualities from 0, the best, to {MAX_CRF}")
    return settings if reencode else None


def check_encoding(kind: DataKind, size: int | None, reencode: Reencoding | None) -> None:
    if kind == "images" and reencode:
        raise UserError("--reencode is for videos, and the folder holds images: leave it out, --size alone shrinks images")
    if kind == "videos" and size and not reencode:
        raise UserError(f"--size is {size}, but videos are stored as they are: add --reencode to shrink them, or leave it out")


def record_key(index: int, path: Path) -> str:
    """Return a unique key: a running number, and the file's name without characters that a member cannot have."""
    return f"{index:08d}_{re.sub('[^A-Za-z0-9_-]+', '-', path.stem)[:48]}"


def prepare(root: Path, size: int | None, reencode: Reencoding | None, job: tuple[str, MediaFile]) -> Record | Skipped:
    """Return the record of a file, or the reason why it is skipped."""
    key, file = job
    name = to_utf8(str(file.path.relative_to(root)))
    if leads_elsewhere(file.path, root):
        reason = f"it is a link to another {file.kind[:-1]} of the folder"  # stored twice it could reach both parts
        return Skipped(file=name, reason=reason)
    try:
        if file.kind == "videos":
            return prepare_video(key, file, size, reencode)
        return prepare_image(key, file, size)
    except (OSError, DecodeError) as error:
        return Skipped(file=name, reason=str(error))


def leads_elsewhere(path: Path, root: Path) -> bool:
    """Return whether a file, or a folder above it, is a link to another file of the folder."""
    place, target = root.resolve(), path.resolve()
    return target != place / path.relative_to(root) and target.is_relative_to(place) and target.exists()


def prepare_image(key: str, file: MediaFile, size: int | None) -> Record:
    data = file.path.read_bytes()
    image, extension, brightest = decode(data)
    if size is not None and min(image.size) > size:
        extension = "jpg" if extension == "jpg" else "png"
        image = shrink(image, size)
        data = encode(image, extension)
    return Record(key, data, extension, file.label, compute_channel_stats(image), brightest=brightest)


def prepare_video(key: str, file: MediaFile, size: int | None, reencode: Reencoding | None) -> Record:
    check_size(file.path.stat().st_size)
    data, extension = file.path.read_bytes(), file.path.suffix[1:].lower()
    if reencode:
        data, extension = reencode_video(data, size=size, gop=reencode.gop, crf=reencode.crf), "mp4"
        check_size(len(data))
    return video_record(key, data, extension, file.label)


def check_size(size: int) -> None:
    if size > MAX_MEDIA_BYTES:
        raise DecodeError(f"it has {size} bytes, but a video has up to {MAX_MEDIA_BYTES}: cut it into shorter ones")


def shrink(image: Image.Image, size: int) -> Image.Image:
    short = min(image.size)
    width, height = (max(1, round(side * size / short)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def encode(image: Image.Image, extension: str) -> bytes:
    stream = BytesIO()
    if extension == "jpg":
        image.save(stream, "JPEG", quality=JPEG_QUALITY)
    else:
        image.save(stream, "PNG")
    return stream.getvalue()


def print_summary(manifests: Mapping[Path, Manifest], others: Counter[str], files: int, seconds: float) -> None:
    lines: list[str] = []
    for folder, manifest in manifests.items():
        size = sum(shard.bytes for shard in manifest.shards) / 1e6
        classes = f"{len(manifest.classes)} classes" if manifest.classes else "no classes"
        lines.append(f"{folder}: {manifest.samples} {manifest.kind}, {classes}, shards: {len(manifest.shards)}, {size:.1f} MB")
        if manifest.kind == "videos":
            videos = compute_video_stats(metadata_table(load_index(folder / shard.file).videos) for shard in manifest.shards)
            lines.extend(f"  {line}" for line in format_video_stats(videos))
        if manifest.mean and manifest.std:
            lines.append(f"  {format_normalization(manifest.mean, manifest.std, manifest.kind)}")
        if manifest.skipped:
            first = manifest.skipped[0]
            lines.append(f"  skipped {len(manifest.skipped)}, all listed in the manifest; first {first.file}: {first.reason}")
    kind = next(iter(manifests.values())).kind
    lines.append(f"{files} files in {seconds:.1f} s, {files / seconds:.0f} {kind}/s")
    if others:
        lines.append(f"not read: {describe_suffixes(others)}")
    print_lines(lines)
