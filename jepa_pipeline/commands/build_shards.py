"""`jepa shards build`: make a data set from a folder of images or videos."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from time import perf_counter

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.data.channel_stats import DeepRange
from jepa_pipeline.data.class_names import count_names, read_classes
from jepa_pipeline.data.index import load_index
from jepa_pipeline.data.label_list import read_label_list
from jepa_pipeline.data.manifest import Manifest
from jepa_pipeline.data.media_folder import (
    FolderListing,
    Labeling,
    MediaFile,
    describe_suffixes,
    list_media,
    split_files,
)
from jepa_pipeline.data.prepare import Reencoding, prepare, record_key
from jepa_pipeline.data.summary import compute_video_stats, format_pixels, format_video_stats, metadata_table, print_lines
from jepa_pipeline.data.tar_reader import printable
from jepa_pipeline.data.unfinished import Progress, new_folder
from jepa_pipeline.data.video import import_av
from jepa_pipeline.data.worker_pool import available_cores, parallel_map, process_pool, track_progress
from jepa_pipeline.data.writer import write_shards
from jepa_pipeline.version import __version__

CHUNK_FILES: dict[DataKind, int] = {"images": 4, "videos": 1}
"""Files a process prepares between two messages; those of all chunks are in memory at once."""
MAX_CRF = 51


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
    Others are stored byte for byte by default. After an interruption the same call continues with the shards that are finished.

    Args:
        root: images are JPEG, PNG, WebP, TIFF and .npy files, videos mp4, mov, m4v, mkv, webm, avi and gif files; hidden files are
            ignored.
        out: a new folder.
        size: shrink the shorter side of larger images to this; JPEG stays JPEG at quality 95, PNG and WebP become PNG, all of RGB,
            and TIFF becomes .npy.
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
    start, deep, converted = perf_counter(), DeepRange(), 0
    manifests: dict[Path, Manifest] = {}
    plan = make_plan(root, made, shard_size, listing, parts)
    with new_folder(out, plan) as folder, process_pool(workers) as pool:
        for number, (part, selected) in enumerate(parts.items()):
            progress = Progress.resume(folder / part)
            jobs = [(record_key(index, file.path), file) for index, file in enumerate(selected)]
            rest = jobs[progress.done :]
            prepared = parallel_map(pool, workers, partial(prepare, root, size, reencode), rest, CHUNK_FILES[kind])
            unlisted = () if number else listing.skipped[max(0, progress.done - len(jobs)) :]  # all in the first manifest
            manifests[out / part] = write_shards(
                chain(track_progress(prepared, f"writing {out / part}", len(rest)), unlisted),
                folder / part,
                classes=listing.classes,
                made={"source": root.resolve().name, "part": part, **made},
                shard_size=shard_size,
                progress=progress,
            )
            deep.add(progress.deep.brightest, progress.deep.images)
            converted += progress.converted
    print_summary(manifests, listing.others, len(files), perf_counter() - start)
    built = Built(manifests, listing, parts)
    print_lines(filter(None, [describe_converted(converted), deep.describe(), *built.describe_classes()]))
    return built


def describe_converted(images: int) -> str | None:
    if not images:
        return None
    return f"{images} images of other channels or bits became 8-bit RGB, because --size shrinks JPEG, PNG and WebP images as such"


def make_plan(
    root: Path,
    made: Mapping[str, object],
    shard_size: int,
    listing: FolderListing,
    parts: Mapping[str, Sequence[MediaFile]],
) -> dict[str, object]:
    """Return all that decides the bytes of the shards: options, files and libraries."""
    files, other = hashlib.sha256(), hashlib.sha256()
    for part, selected in parts.items():
        for file in selected:
            files.update(
                f"{part} {file.label} {file.path.relative_to(root)} {describe_state(file.path)}\n".encode("utf-8", "replace")
            )
    other.update(
        repr((listing.classes, [(skipped.file, skipped.reason) for skipped in listing.skipped])).encode("utf-8", "replace")
    )
    libraries = {"pillow": version("pillow"), "webdataset": version("webdataset")}
    libraries |= {"av": import_av().__version__} if listing.files[0].kind == "videos" else {}
    plan = {
        "folder": str(root.resolve()),
        **made,
        "shard_size": shard_size,
        "files": files.hexdigest(),
        "labels": other.hexdigest(),
    }
    return {**plan, **libraries, "jepa_pipeline": __version__}


def describe_state(path: Path) -> str:
    """Return the size and time of a file, by which a changed one is told from the one that was packed."""
    try:
        stat = path.stat()
    except OSError as error:  # prepare() will say so
        return str(error.errno)
    return f"{stat.st_size} {stat.st_mtime_ns}"


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
    return Counter(label for shard in manifest.shards for label in load_index(folder / shard.file, shard.index_sha256).labels)


def read_labeling(labels: Path | None, classes: Path | None, no_labels: bool) -> Labeling:
    """Return the choice of labels of the command line.

    Raises:
        UserError: a file cannot be read, or labels are chosen and refused.
    """
    if no_labels and (labels or classes):
        raise UserError(f"there are to be no labels, but {labels or classes} names some: leave one of the two out")
    return Labeling(labels and read_label_list(labels), classes and read_classes(classes), no_labels)


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


def print_summary(manifests: Mapping[Path, Manifest], others: Counter[str], files: int, seconds: float) -> None:
    lines: list[str] = []
    for folder, manifest in manifests.items():
        size = sum(shard.bytes for shard in manifest.shards) / 1e6
        classes = f"{len(manifest.classes)} classes" if manifest.classes else "no classes"
        lines.append(f"{folder}: {manifest.samples} {manifest.kind}, {classes}, shards: {len(manifest.shards)}, {size:.1f} MB")
        if manifest.kind == "videos":
            videos = compute_video_stats(
                metadata_table(load_index(folder / shard.file, shard.index_sha256).videos) for shard in manifest.shards
            )
            lines.extend(f"  {line}" for line in format_video_stats(videos))
        lines.extend(f"  {line}" for line in format_pixels(manifest.kind, manifest.mean, manifest.std, manifest.stored))
        if manifest.skipped:
            first = manifest.skipped[0]
            lines.append(f"  skipped {len(manifest.skipped)}, all listed in the manifest; first {first.file}: {first.reason}")
    kind = next(iter(manifests.values())).kind
    lines.append(f"{files} files in {seconds:.1f} s, {files / seconds:.0f} {kind}/s")
    if others:
        lines.append(f"not read: {describe_suffixes(others)}")
    print_lines(lines)
