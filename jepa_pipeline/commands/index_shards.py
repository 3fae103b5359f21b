"""`jepa shards index`: make tar shards of any writer a data set."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.config.output_place import check_place
from jepa_pipeline.data.class_names import read_classes
from jepa_pipeline.data.index import index_path, load_index, save_index
from jepa_pipeline.data.indexing import IndexedShard, index_shard
from jepa_pipeline.data.label_list import read_label_list
from jepa_pipeline.data.manifest import INDEXED, MANIFEST, Manifest, Skipped, check_finished, read_manifest, save_manifest
from jepa_pipeline.data.remote import TRIES, is_remote, join_url, open_file, retry
from jepa_pipeline.data.sample import LABEL
from jepa_pipeline.data.summary import abridge, compute_video_stats, format_video_stats, metadata_table, print_lines
from jepa_pipeline.data.tar_labels import Labels, TarSummary, label_by_list, name_labels
from jepa_pipeline.data.tar_list import check_tar_parts, list_tars
from jepa_pipeline.data.tar_reader import ShardError, printable
from jepa_pipeline.data.unfinished import clear
from jepa_pipeline.data.worker_pool import available_cores, parallel_map, process_pool, track_progress
from jepa_pipeline.files import LOCK, sha256_of
from jepa_pipeline.locks import Locked, lock_folder
from jepa_pipeline.redaction import redact
from jepa_pipeline.version import __version__

STAGED = ".indexing"
"""Folder for new indexes until all are written."""


class Indexing(NamedTuple):
    """The manifest that `index` wrote, and the tars that it skipped."""

    manifest: Manifest
    skipped: list[Skipped]

    @property
    def lost(self) -> str | None:
        """A sentence on labels or classes that were lost, None if none were."""
        return self.manifest.lost


def index(
    tars: Sequence[str],
    *,
    out: Path | None = None,
    classes: Path | None = None,
    workers: int | None = None,
    labels: Path | None = None,
    no_labels: bool = False,
    member: str | None = None,
) -> Indexing:
    """Read each tar once and write its index and a manifest, in `out` or beside the tars, which are not changed.

    A sample with a video is a video, even with images beside it. Videos that do not open are skipped.

    Args:
        tars: a folder of *.tar, files, glob patterns, or URLs; braces, such as {000000..000099}, are expanded.
        out: folder for the manifest and the indexes.
        classes: a file with one class name per line; samples without a label are skipped. Without it the classes are
            numbers, and labels are dropped unless all samples have one.
        workers: processes. Default: all cores.
        labels: a list of samples and their labels, in place of those in the tars; samples without a label are skipped.
        no_labels: drop all labels.
        member: extension of the image or video that counts, where samples have several.

    Raises:
        UserError: there are no tars or none can be used, some hold images and others videos, they are of several parts of a
            data set, the folder has a manifest of another origin, or labels do not fit the classes or the samples.
    """
    if no_labels and (labels or classes):
        raise UserError(f"there are to be no labels, but {labels or classes} names some: leave one of the two out")
    names = None if classes is None else read_classes(classes)
    listed = None if labels is None else read_label_list(labels)
    chosen = member.lower().lstrip(".") if member else None
    location, files = list_tars(tars)
    if not no_labels:
        check_tar_parts(location, files)
    folder = output_folder(location, out, files)
    workers = workers or available_cores()
    with staging(folder) as staged, process_pool(workers) as pool:
        work = partial(index_tar, staged, location, None if listed else names, chosen)
        read = list(track_progress(parallel_map(pool, workers, work, files), f"indexing {redact(location)}", len(files)))
        indexed = [tar for tar in read if isinstance(tar, TarSummary)]
        skipped = [tar for tar in read if isinstance(tar, Skipped)]
        print_lines(f"skipped {printable(tar.file)}: {tar.reason}" for tar in skipped)
        if not indexed:
            raise UserError(f"none of {len(skipped)} tars could be used ({skipped[0].file}: {skipped[0].reason})")
        common_kind(indexed)
        if listed:
            indexed, found = label_by_list(
                staged, location if is_remote(location) else str(Path(location).resolve()), indexed, listed, names
            )
        else:
            found = Labels(None, ["no classes, because labels are not wanted"]) if no_labels else name_labels(indexed, names)
        if found.classes is None:
            labeled = [tar.shard.file for tar in indexed if tar.labels.total() > tar.labels[None]]
            list(parallel_map(pool, workers, partial(drop_labels, staged), labeled))
        hashes = parallel_map(pool, workers, partial(publish, staged, folder), [tar.shard.file for tar in indexed])
        indexed = [tar._replace(shard=replace(tar.shard, index_sha256=digest)) for tar, digest in zip(indexed, hashes, strict=True)]
    options = {"class_names": classes.name if classes else None, **({"member": chosen} if chosen else {})}
    manifest = build_manifest(indexed, skipped, found, options, None if folder.resolve() == Path(location).resolve() else location)
    save_manifest(manifest, folder)
    print_lines(summary_lines(folder, manifest, indexed, found))
    return Indexing(manifest, skipped)


def build_manifest(
    tars: Sequence[TarSummary], skipped: Sequence[Skipped], labels: Labels, options: Mapping[str, str | None], location: str | None
) -> Manifest:
    labeled_by = sum((tar.labeled_by for tar in tars), Counter[str | None]())
    origin = " and ".join(sorted(filter(None, labeled_by))) or None
    lost = {"lost": labels.lost} if labels.lost else {}
    return Manifest(
        created_by=f"jepa_pipeline {__version__}",
        kind=common_kind(tars),
        shards=tuple(tar.shard for tar in tars),
        samples=sum(tar.shard.samples for tar in tars),
        extensions=tuple(sorted({extension for tar in tars for extension in tar.extensions})),
        classes=labels.classes,
        location=location,
        made={"by": INDEXED, "labels": origin, **options, **labels.made, **lost},
        skipped=(*skipped, *skipped_samples(tars), *labels.unlisted),
        mean=None,
        std=None,
        stored=(),
    )


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield a folder inside `folder` for new indexes, so that an error leaves those of an earlier manifest as they were.

    Raises:
        UserError: another process is indexing into `folder`.
    """
    existed = folder.is_dir()
    staged = folder / STAGED
    try:
        with lock_folder(staged, lambda sentence: print_lines([sentence])):
            clear(staged, {LOCK})  # of a process that was killed
            try:
                yield staged
            finally:
                shutil.rmtree(staged, ignore_errors=True)
    except Locked as error:
        raise UserError(f"{error} is indexing into {folder}: wait for it or stop it, or give another folder with --out") from None
    finally:
        if not existed:
            with suppress(OSError):
                folder.rmdir()  # only if it is empty


def publish(staged: Path, folder: Path, file: str) -> str:
    """Move an index to the manifest's folder and return its SHA-256."""
    path = index_path(staged / file)
    digest = sha256_of(path)
    path.replace(folder / path.name)
    return digest


def output_folder(location: str, out: Path | None, files: Sequence[str]) -> Path:
    """Return the folder for the manifest and the indexes. Refuse to replace a manifest of another origin or of more tars."""
    if out is None and is_remote(location):
        raise UserError(f"{redact(location)} is a URL: give a folder for the manifest and the indexes with --out")
    if not is_remote(location):
        check_finished(Path(location))
    folder = out or Path(location)
    check_place(folder / MANIFEST, "give another folder for the manifest and the indexes with --out")
    path = folder / MANIFEST
    if path.exists() and not is_ours(path):
        raise UserError(f"{path} was not made by `{INDEXED}`, so it is not replaced: give another folder with --out, or delete it")
    listed = [shard.file for shard in read_manifest(folder).shards if shard.file not in files] if path.exists() else []
    if omitted := [file for file in listed if is_remote(location) or (Path(location) / file).exists()]:
        raise UserError(
            f"{path} also lists {printable(omitted[0])}, in all {len(omitted)} tars that you did not name: name the folder or all "
            "of its tars, or another folder with --out, or delete it"
        )
    return folder


def is_ours(manifest: Path) -> bool:
    try:
        return json.loads(manifest.read_bytes())["made"]["by"] == INDEXED
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def common_kind(tars: Sequence[TarSummary]) -> DataKind:
    """Return whether tars hold images or videos.

    Raises:
        UserError: some hold images, others videos.
    """
    examples: dict[DataKind, str] = {("videos" if len(tar.videos) else "images"): tar.shard.file for tar in tars}
    if len(examples) > 1:
        raise UserError(
            f"{printable(examples['images'])} holds images and {printable(examples['videos'])} videos: index them "
            "separately, each with its own folder as --out, and mix them in data.train"
        )
    return next(iter(examples))


def index_tar(folder: Path, location: str, classes: tuple[str, ...] | None, member: str | None, file: str) -> TarSummary | Skipped:
    """Read one tar and write its index to `folder`, or return why it is skipped."""
    try:
        if is_remote(location):
            indexed = retry(join_url(location, file), lambda: read_tar(location, file, classes, member), TRIES)
        else:
            indexed = read_tar(location, file, classes, member)
    except OSError as error:
        return Skipped(file=file, reason=f"it cannot be read ({error.strerror or error})")
    except UserError as error:
        return Skipped(file=file, reason=str(error))
    if isinstance(indexed, ShardError):
        return Skipped(file=file, reason=str(indexed))
    index, defects = indexed.index, indexed.defects
    save_index(index, folder / file)
    extensions = {*index.members, *({LABEL} if indexed.labeled_by[LABEL] else ())}
    videos, choice = metadata_table(index.videos), index.media_choice()
    return TarSummary(indexed.shard, extensions, indexed.labeled_by, Counter(index.labels), choice, defects, videos)


def read_tar(location: str, file: str, classes: tuple[str, ...] | None, member: str | None) -> IndexedShard | ShardError:
    # The error of a damaged tar is returned, because `retry` would try a raised one again.
    with open_file(location, file) as stream:
        try:
            return index_shard(stream, file, classes, member=member)
        except ShardError as error:
            return error


def drop_labels(folder: Path, file: str) -> None:
    save_index(load_index(folder / file).without_labels(), folder / file)


def skipped_samples(tars: Sequence[TarSummary]) -> Iterator[Skipped]:
    for tar in tars:
        yield from (Skipped(file=f"{tar.shard.file}/{f.name}", reason=f.reason) for f in tar.defects if f.skipped)


def summary_lines(folder: Path, manifest: Manifest, tars: Sequence[TarSummary], found: Labels) -> Iterator[str]:
    defects = [(tar.shard.file, defect) for tar in tars for defect in tar.defects]
    yield from abridge((defect.kind, f"{printable(file)}: {defect}") for file, defect in defects)
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    yield f"{folder}: {manifest.samples} samples, shards: {len(manifest.shards)}, {size:.1f} MB"
    yield f"  members: {', '.join(map(printable, manifest.extensions))}"
    yield from (f"  {line}" for line in format_video_stats(compute_video_stats(tar.videos for tar in tars)))
    if choice := next((tar.choice for tar in tars if tar.choice), None):
        names = ", ".join(map(printable, choice))
        yield f"  samples have several {manifest.kind} ({names}), of which {choice[0]} is used: choose with --member"
    if manifest.classes:
        yield f"  {len(manifest.classes)} classes, labels from {manifest.made['labels']}"
    yield from (f"  {line}" for line in (*found.notes, *filter(None, [found.lost])))
    if manifest.skipped:
        samples = sum("/" in skipped.file for skipped in manifest.skipped)
        yield f"  skipped, all listed in the manifest: {len(manifest.skipped) - samples} tars, {samples} samples"
