"""`jepa shards index`: make tar shards of any writer a data set."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.data.index import load_index, save_index
from jepa_pipeline.data.indexing import IndexedShard, index_shard
from jepa_pipeline.data.manifest import MANIFEST, Manifest, Shard, Skipped, read_manifest, save_manifest
from jepa_pipeline.data.remote import TRIES, is_remote, join_url, open_file, redact_urls, retry
from jepa_pipeline.data.sample import LABEL
from jepa_pipeline.data.summary import abridge, compute_video_stats, format_video_stats, metadata_table, print_lines
from jepa_pipeline.data.tar_list import list_tars
from jepa_pipeline.data.tar_reader import ShardError, printable
from jepa_pipeline.data.tar_samples import Defect
from jepa_pipeline.data.worker_pool import available_cores, parallel_map, track_progress
from jepa_pipeline.version import __version__

MADE_BY = "jepa shards index"


class TarSummary(NamedTuple):
    """The summary of an indexed tar. labeled_by: samples by the origin of their label; videos: table of their metadata."""

    shard: Shard
    extensions: set[str]
    labeled_by: Counter[str | None]
    largest_label: int
    defects: list[Defect]
    videos: Float64[np.ndarray, "N 5"]


class Indexing(NamedTuple):
    """The manifest that `index` wrote, and the tars that it skipped."""

    manifest: Manifest
    skipped: list[Skipped]


def index(tars: Sequence[str], *, out: Path | None = None, classes: Path | None = None, workers: int | None = None) -> Indexing:
    """Read each tar once and write its index and a manifest, in `out` or beside the tars, which are not changed.

    A sample with a video is a video, even with images beside it. Videos that do not open are skipped.

    Args:
        tars: a folder of *.tar, files, glob patterns, or URLs; braces, such as {000000..000099}, are expanded.
        out: folder for the manifest and the indexes.
        classes: a file with one class name per line; samples without such a label are skipped. Without it the classes are
            numbers, and labels are dropped unless all samples have one.
        workers: processes. Default: all cores.

    Raises:
        UserError: there are no tars or none can be used, some hold images and others videos, the folder has a manifest
            of another origin, or a value is wrong.
    """
    names = None if classes is None else read_classes(classes)
    location, files = list_tars(tars)
    folder = output_folder(location, out, files)
    workers = workers or available_cores()
    with ProcessPoolExecutor(workers) as pool:
        work = partial(index_tar, folder, location, len(names) if names else None)
        read = list(track_progress(parallel_map(pool, workers, work, files), f"indexing {redact_urls(location)}", len(files)))
        indexed = [tar for tar in read if isinstance(tar, TarSummary)]
        skipped = [tar for tar in read if isinstance(tar, Skipped)]
        print_lines(f"skipped {printable(tar.file)}: {tar.reason}" for tar in skipped)
        if not indexed:
            raise UserError(f"none of {len(skipped)} tars could be used ({skipped[0].file}: {skipped[0].reason})")
        kind = common_kind(indexed)
        labeled_by = sum((tar.labeled_by for tar in indexed), Counter[str | None]())
        if names is None and None in labeled_by:
            labeled = [tar.shard.file for tar in indexed if tar.largest_label >= 0]
            list(parallel_map(pool, workers, partial(drop_labels, folder), labeled))
        elif names is None:
            names = tuple(str(label) for label in range(1 + max(tar.largest_label for tar in indexed)))
    labels = " and ".join(sorted(filter(None, labeled_by))) or None
    manifest = Manifest(
        created_by=f"jepa_pipeline {__version__}",
        kind=kind,
        shards=tuple(tar.shard for tar in indexed),
        samples=labeled_by.total(),
        extensions=tuple(sorted({extension for tar in indexed for extension in tar.extensions})),
        classes=names,
        location=None if folder.resolve() == Path(location).resolve() else location,
        made={"by": MADE_BY, "labels": labels, "class_names": classes.name if classes else None},
        skipped=(*skipped, *skipped_samples(indexed)),
        mean=None,
        std=None,
    )
    save_manifest(manifest, folder)
    print_lines(summary_lines(folder, manifest, indexed, labeled_by.total() - labeled_by[None]))
    return Indexing(manifest, skipped)


def read_classes(path: Path) -> tuple[str, ...]:
    try:
        names = tuple(path.read_text("utf-8").rstrip().splitlines())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as text ({error}): name a file with one class name per line") from error
    if not all(name.strip() for name in names) or not names:
        raise UserError(f"{path} is empty or has an empty line: each line is the name of a class, the first that of label 0")
    return tuple(name.strip() for name in names)


def output_folder(location: str, out: Path | None, files: Sequence[str]) -> Path:
    """Return the folder for the manifest and the indexes. Refuse to replace a manifest of another origin or of more tars."""
    if out is None and is_remote(location):
        raise UserError(f"{redact_urls(location)} is a URL: give a folder for the manifest and the indexes with --out")
    folder = out or Path(location)
    if folder.is_dir() and not os.access(folder, os.W_OK):
        raise UserError(f"{folder} cannot be written: give another folder for the manifest and the indexes with --out")
    path = folder / MANIFEST
    if path.exists() and not is_ours(path):
        raise UserError(f"{path} was not made by `{MADE_BY}`, so it is not replaced: give another folder with --out, or delete it")
    listed = [shard.file for shard in read_manifest(folder).shards if shard.file not in files] if path.exists() else []
    if omitted := [file for file in listed if is_remote(location) or (Path(location) / file).exists()]:
        raise UserError(
            f"{path} also lists {printable(omitted[0])}, in all {len(omitted)} tars that you did not name: name the folder or all "
            "of its tars, or another folder with --out, or delete it"
        )
    return folder


def is_ours(manifest: Path) -> bool:
    try:
        return json.loads(manifest.read_bytes())["made"]["by"] == MADE_BY
    except (ValueError, KeyError, TypeError):
        return False


def common_kind(tars: list[TarSummary]) -> DataKind:
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


def index_tar(folder: Path, location: str, classes: int | None, file: str) -> TarSummary | Skipped:
    """Read one tar and write its index to `folder`, or return why it is skipped."""
    try:
        if is_remote(location):
            indexed = retry(join_url(location, file), lambda: read_tar(location, file, classes), TRIES)
        else:
            indexed = read_tar(location, file, classes)
    except OSError as error:
        return Skipped(file=file, reason=f"it cannot be read ({error.strerror or error})")
    except UserError as error:
        return Skipped(file=file, reason=str(error))
    if isinstance(indexed, ShardError):
        return Skipped(file=file, reason=str(indexed))
    folder.mkdir(parents=True, exist_ok=True)
    save_index(indexed.index, folder / file)
    extensions = {*indexed.index.members, *({LABEL} if indexed.labeled_by[LABEL] else ())}
    largest = max((label for label in indexed.index.labels if label is not None), default=-1)
    return TarSummary(indexed.shard, extensions, indexed.labeled_by, largest, indexed.defects, metadata_table(indexed.index.videos))


def read_tar(location: str, file: str, classes: int | None) -> IndexedShard | ShardError:
    # The error of a damaged tar is returned, because `retry` would try a raised one again.
    with open_file(location, file) as stream:
        try:
            return index_shard(stream, file, classes)
        except ShardError as error:
            return error


def drop_labels(folder: Path, file: str) -> None:
    save_index(load_index(folder / file).without_labels(), folder / file)


def skipped_samples(tars: list[TarSummary]) -> Iterator[Skipped]:
    for tar in tars:
        yield from (Skipped(file=f"{tar.shard.file}/{f.name}", reason=f.reason) for f in tar.defects if f.skipped)


def summary_lines(folder: Path, manifest: Manifest, tars: list[TarSummary], labeled: int) -> Iterator[str]:
    defects = [(tar.shard.file, defect) for tar in tars for defect in tar.defects]
    yield from abridge((defect.kind, f"{printable(file)}: {defect}") for file, defect in defects)
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    lost = sum(defect.skipped for _, defect in defects)
    yield f"{folder}: {manifest.samples} samples, shards: {len(manifest.shards)}, {size:.1f} MB"
    yield f"  members: {', '.join(map(printable, manifest.extensions))}"
    yield from (f"  {line}" for line in format_video_stats(compute_video_stats(tar.videos for tar in tars)))
    if manifest.classes:
        yield f"  {len(manifest.classes)} classes, labels from {manifest.made['labels']}"
    elif labeled:
        yield f"  no classes, because only {labeled} samples have a label: --classes FILE would skip the others instead"
    else:
        yield "  no classes, because no sample has a label, neither in a .cls nor in a .json"
    if manifest.skipped:
        yield f"  skipped, all listed in the manifest: {len(manifest.skipped) - lost} tars, {lost} samples"
