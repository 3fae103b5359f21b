"""jepa shards index: tar shards of any writer as a data set."""

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
from jepa_pipeline.data.index import Indexed, index_shard, load_index, save_index, save_manifest
from jepa_pipeline.data.manifest import MANIFEST, Manifest, Shard, Skipped, read_manifest
from jepa_pipeline.data.remote import TRIES, is_remote, join, retried, without_secrets
from jepa_pipeline.data.samples import LABEL, Fault, Kind
from jepa_pipeline.data.summary import abridged, count_videos, facts_table, say, video_lines
from jepa_pipeline.data.tar import ShardError, open_tar, shown
from jepa_pipeline.data.tar_patterns import find_tars
from jepa_pipeline.data.worker_pool import available_cores, in_order, progress
from jepa_pipeline.version import __version__

MADE_BY = "jepa shards index"


class Tar(NamedTuple):
    """What is kept of an indexed tar; labeled_by: how many samples have a label from where; videos: a table of their facts."""

    shard: Shard
    extensions: set[str]
    labeled_by: Counter[str | None]
    largest_label: int
    faults: list[Fault]
    videos: Float64[np.ndarray, "N 5"]


class Indexing(NamedTuple):
    """The manifest that `index` wrote, and the tars that are not in it."""

    manifest: Manifest
    left_out: list[Skipped]


def index(tars: Sequence[str], *, out: Path | None = None, classes: Path | None = None, workers: int | None = None) -> Indexing:
    """Read tars once each and write an index for each and a manifest, in `out` or beside them. They are not changed.

    A sample with a video is a video, whatever images lie beside it. Videos are opened for their facts, and left out if they do not.

    tars: a folder of *.tar, files, glob patterns, or URLs; names in braces, such as {000000..000099}, are expanded. classes: a file
    with the name of a class in each line; then samples without a label below their number are left out. Without it the classes
    are numbers, and if not all samples have labels then none has. workers: processes, all cores unless said.

    Raises:
        UserError: there are no tars or none can be used, some hold images and others videos, the manifest that is there was made
            otherwise, or a value is wrong.
    """
    names = None if classes is None else read_classes(classes)
    location, files = find_tars(tars)
    folder = place_to_write(location, out, files)
    workers = workers or available_cores()
    with ProcessPoolExecutor(workers) as pool:
        work = partial(index_tar, folder, location, len(names) if names else None)
        read = list(progress(in_order(pool, workers, work, files), f"indexing {without_secrets(location)}", len(files)))
        indexed = [tar for tar in read if isinstance(tar, Tar)]
        left_out = [tar for tar in read if isinstance(tar, Skipped)]
        say(f"left out {shown(tar.file)}: {tar.reason}" for tar in left_out)
        if not indexed:
            raise UserError(f"none of {len(left_out)} tars could be used ({left_out[0].file}: {left_out[0].reason})")
        kind = one_kind(indexed)
        labeled_by = sum((tar.labeled_by for tar in indexed), Counter[str | None]())
        if names is None and None in labeled_by:
            some = [tar.shard.file for tar in indexed if tar.largest_label >= 0]
            list(in_order(pool, workers, partial(drop_labels, folder), some))
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
        skipped=(*left_out, *skipped_samples(indexed)),
        mean=None,
        std=None,
    )
    save_manifest(manifest, folder)
    say(summary(folder, manifest, indexed, labeled_by.total() - labeled_by[None]))
    return Indexing(manifest, left_out)


def read_classes(path: Path) -> tuple[str, ...]:
    try:
        names = tuple(path.read_text("utf-8").rstrip().splitlines())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as text ({error}): name a file with one class name a line") from error
    if not all(name.strip() for name in names) or not names:
        raise UserError(f"{path} has an empty line or nothing in it: each line is the name of a class, the first that of label 0")
    return tuple(name.strip() for name in names)


def place_to_write(location: str, out: Path | None, files: Sequence[str]) -> Path:
    """The folder for manifest and indexes. A manifest of other make, or that lists other tars too, is not replaced."""
    if out is None and is_remote(location):
        raise UserError(f"{without_secrets(location)} is a URL: say with --out in which folder manifest and indexes shall lie")
    folder = out or Path(location)
    if folder.is_dir() and not os.access(folder, os.W_OK):
        raise UserError(f"{folder} cannot be written: say with --out in which other folder manifest and indexes shall lie")
    path = folder / MANIFEST
    if path.exists() and not is_ours(path):
        raise UserError(f"{path} was not made by `{MADE_BY}`, so it is not replaced: give another folder with --out, or delete it")
    others = [shard.file for shard in read_manifest(folder).shards if shard.file not in files] if path.exists() else []
    if forgotten := [file for file in others if is_remote(location) or (Path(location) / file).exists()]:
        raise UserError(
            f"{path} also lists {shown(forgotten[0])}, in all {len(forgotten)} tars that are not named now: name the folder or all "
            "of its tars, or another folder with --out, or delete it"
        )
    return folder


def is_ours(manifest: Path) -> bool:
    try:
        return json.loads(manifest.read_bytes())["made"]["by"] == MADE_BY
    except (ValueError, KeyError, TypeError):
        return False


def one_kind(tars: list[Tar]) -> Kind:
    """What the samples of tars are.

    Raises:
        UserError: in some they are images, in others videos.
    """
    examples: dict[Kind, str] = {("videos" if len(tar.videos) else "images"): tar.shard.file for tar in tars}
    if len(examples) > 1:
        raise UserError(
            f"{shown(examples['images'])} holds images and {shown(examples['videos'])} videos: index them apart, each with a "
            "folder of its own as --out, and mix them in data.train"
        )
    return next(iter(examples))


def index_tar(folder: Path, location: str, classes: int | None, file: str) -> Tar | Skipped:
    """Read one tar and write its index to `folder`, or say why it is left out."""
    try:
        if is_remote(location):
            indexed = retried(join(location, file), lambda: read_tar(location, file, classes), TRIES)
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
    return Tar(indexed.shard, extensions, indexed.labeled_by, largest, indexed.faults, facts_table(indexed.index.videos))


def read_tar(location: str, file: str, classes: int | None) -> Indexed | ShardError:
    """A damaged tar is no error here, which would be tried again."""
    with open_tar(location, file) as stream:
        try:
            return index_shard(stream, file, classes)
        except ShardError as error:
            return error


def drop_labels(folder: Path, file: str) -> None:
    save_index(load_index(folder / file).unlabeled(), folder / file)


def skipped_samples(tars: list[Tar]) -> Iterator[Skipped]:
    for tar in tars:
        yield from (Skipped(file=f"{tar.shard.file}/{f.name}", reason=f.reason) for f in tar.faults if f.left_out)


def summary(folder: Path, manifest: Manifest, tars: list[Tar], labeled: int) -> Iterator[str]:
    faults = [(tar.shard.file, fault) for tar in tars for fault in tar.faults]
    yield from abridged((fault.kind, f"{shown(file)}: {fault}") for file, fault in faults)
    size, lost = sum(shard.bytes for shard in manifest.shards) / 1e6, sum(fault.left_out for _, fault in faults)
    yield f"{folder}: {manifest.samples} samples, shards: {len(manifest.shards)}, {size:.1f} MB"
    yield f"  members: {', '.join(map(shown, manifest.extensions))}"
    yield from (f"  {line}" for line in video_lines(count_videos(tar.videos for tar in tars)))
    if manifest.classes:
        yield f"  {len(manifest.classes)} classes, labels from {manifest.made['labels']}"
    elif labeled:
        yield f"  no classes, because only {labeled} samples have a label: --classes FILE would leave the others out instead"
    else:
        yield "  no classes, because no sample has a label, neither in a .cls nor in a .json"
    if manifest.skipped:
        yield f"  left out, all named in the manifest: {len(manifest.skipped) - lost} tars, {lost} samples"
