"""`jepa shards stats`: describe a data set by its manifest and indexes alone."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor
from functools import partial
from json import dumps
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.config.pixel_format import PerChannel
from jepa_pipeline.config.section import Section
from jepa_pipeline.data.index import load_index
from jepa_pipeline.data.manifest import Manifest, Shard, StoredPixels, locate_tars, read_manifest
from jepa_pipeline.data.remote import is_remote
from jepa_pipeline.data.summary import (
    Range,
    VideoStats,
    compute_video_stats,
    count_by_class,
    format_class_table,
    format_pixels,
    format_video_stats,
    list_parts,
    metadata_table,
    weighted_range,
)
from jepa_pipeline.data.tar_reader import printable
from jepa_pipeline.data.worker_pool import available_cores, parallel_map, process_pool
from jepa_pipeline.redaction import redact


class Contents(Section):
    """Contents of one data set. left_out: files or samples that the manifest lists as skipped. lost: a sentence on lost labels."""

    folder: str
    kind: DataKind
    hash: str
    created_by: str
    location: str
    samples: int
    shards: int
    bytes: int
    samples_per_shard: Range
    extensions: tuple[str, ...]
    classes: dict[str, int] | None
    videos: VideoStats | None
    left_out: int
    lost: str | None = None
    mean: PerChannel | None
    std: PerChannel | None
    stored: tuple[StoredPixels, ...] = ()


def stats(folder: str | Path, *, workers: int | None = None, json: bool = False) -> list[Contents]:
    """Print the contents of a data set, or of the train/ and test/ in it, without opening a shard.

    Args:
        folder: folder or URL.
        workers: processes. Default: all cores.
        json: print one JSON object.

    Raises:
        UserError: there is no manifest or index, or one cannot be read.
    """
    workers = workers or available_cores()
    sets = {part: read_manifest(part) for part in list_parts(str(folder))}
    with process_pool(workers) as pool:
        contents = [read_contents(pool, workers, part, manifest) for part, manifest in sets.items()]
    if json:
        print(dumps({"parts": [part.model_dump() for part in contents]}))
    else:
        print(*(line for part in contents for line in contents_lines(part)), sep="\n")
    return contents


def read_contents(pool: Executor, workers: int, folder: str, manifest: Manifest) -> Contents:
    names, shards = manifest.classes, manifest.shards
    needed = "labels" if names else "metadata of videos" if manifest.kind == "videos" else None
    if needed and is_remote(folder):
        raise UserError(f"{redact(folder)} has no index files for the {needed}: `jepa shards check` reads its shards instead")
    labels, tables = Counter(), []
    for counted, table in parallel_map(pool, workers, partial(read_index, folder), shards if needed else ()):
        labels.update(counted)
        tables.append(table)
    return Contents(
        folder=redact(folder),
        kind=manifest.kind,
        hash=manifest.hash(),
        created_by=manifest.created_by,
        location=redact(locate_tars(folder, manifest)),
        samples=manifest.samples,
        shards=len(shards),
        bytes=sum(shard.bytes for shard in shards),
        samples_per_shard=weighted_range(Counter(shard.samples for shard in shards)),
        extensions=manifest.extensions,
        classes=count_by_class(names, labels) if names else None,
        videos=compute_video_stats(tables),
        left_out=len(manifest.skipped),
        lost=manifest.lost,
        mean=manifest.mean,
        std=manifest.std,
        stored=manifest.stored,
    )


def read_index(folder: str, shard: Shard) -> tuple[Counter[int | None], Float64[np.ndarray, "N 5"]]:
    """Return the samples of a shard by label, and the metadata table of its videos."""
    index = load_index(Path(folder) / shard.file, shard.index_sha256)
    return Counter(index.labels), metadata_table(index.videos)


def contents_lines(part: Contents) -> Iterator[str]:
    yield f"{part.folder}: samples: {part.samples}, shards: {part.shards}, {part.bytes / 1e6:.1f} MB, hash {part.hash}"
    yield f"  made by {printable(part.created_by)}; the shards are in {printable(part.location)}"
    yield f"  samples per shard: {part.samples_per_shard}; members: {', '.join(map(printable, part.extensions))}"
    yield from (f"  {line}" for line in format_video_stats(part.videos))
    if part.left_out:
        yield f"  skipped: {part.left_out}, all listed in the manifest"
    if part.lost:
        yield f"  {part.lost}"
    yield from (f"  {line}" for line in format_pixels(part.kind, part.mean, part.std, part.stored))
    if part.kind == "images" and not part.stored:
        yield "  channels and bits are unknown: `jepa shards check` decodes the images, and prints these with mean and std"
    yield from (f"  {line}" for line in (format_class_table(part.classes) if part.classes else ["no classes"]))
