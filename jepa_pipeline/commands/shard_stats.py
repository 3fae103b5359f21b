"""jepa shards stats: what is in a data set, by its manifest and indexes alone."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from json import dumps
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.section import Section
from jepa_pipeline.config.views import RGB
from jepa_pipeline.data.index import load_index
from jepa_pipeline.data.manifest import Manifest, Shard, read_manifest, tar_location
from jepa_pipeline.data.remote import is_remote, without_secrets
from jepa_pipeline.data.samples import Kind
from jepa_pipeline.data.summary import (
    Spread,
    Videos,
    by_class,
    class_table,
    count_videos,
    facts_table,
    normalization,
    parts,
    spread,
    video_lines,
)
from jepa_pipeline.data.tar import shown
from jepa_pipeline.data.worker_pool import available_cores, in_order


class Contents(Section):
    """What `stats` read of one folder. left_out: files or samples that the manifest names as unusable."""

    folder: str
    kind: Kind
    hash: str
    created_by: str
    location: str
    samples: int
    shards: int
    bytes: int
    samples_per_shard: Spread
    extensions: tuple[str, ...]
    classes: dict[str, int] | None
    videos: Videos | None
    left_out: int
    mean: RGB | None
    std: RGB | None


def stats(folder: str | Path, *, workers: int | None = None, json: bool = False) -> list[Contents]:
    """Print what a data set holds, or the train/ and test/ in it, by its manifest and indexes alone: no shard is opened.

    workers: processes, all cores unless said; json: print one JSON object.

    Raises:
        UserError: there is no manifest or index, or one cannot be read.
    """
    workers = workers or available_cores()
    sets = {part: read_manifest(part) for part in parts(str(folder))}
    with ProcessPoolExecutor(workers) as pool:
        contents = [contents_of(pool, workers, part, manifest) for part, manifest in sets.items()]
    if json:
        print(dumps({"parts": [part.model_dump() for part in contents]}))
    else:
        print(*(line for part in contents for line in contents_lines(part)), sep="\n")
    return contents


def contents_of(pool: Executor, workers: int, folder: str, manifest: Manifest) -> Contents:
    names, shards = manifest.classes, manifest.shards
    needed = "labels" if names else "facts of videos" if manifest.kind == "videos" else None
    if needed and is_remote(folder):
        raise UserError(
            f"{without_secrets(folder)} has no index files, which hold the {needed}: `jepa shards check` reads its shards"
        )
    labels, tables = Counter(), []
    for counted, table in in_order(pool, workers, partial(read_index, folder), shards if needed else ()):
        labels.update(counted)
        tables.append(table)
    return Contents(
        folder=without_secrets(folder),
        kind=manifest.kind,
        hash=manifest.hash(),
        created_by=manifest.created_by,
        location=without_secrets(tar_location(folder, manifest)),
        samples=manifest.samples,
        shards=len(shards),
        bytes=sum(shard.bytes for shard in shards),
        samples_per_shard=spread(Counter(shard.samples for shard in shards)),
        extensions=manifest.extensions,
        classes=by_class(names, labels) if names else None,
        videos=count_videos(tables),
        left_out=len(manifest.skipped),
        mean=manifest.mean,
        std=manifest.std,
    )


def read_index(folder: str, shard: Shard) -> tuple[Counter[int | None], Float64[np.ndarray, "N 5"]]:
    """How many samples of a shard have each label, and the facts of its videos."""
    index = load_index(Path(folder) / shard.file)
    return Counter(index.labels), facts_table(index.videos)


def contents_lines(part: Contents) -> Iterator[str]:
    yield f"{part.folder}: samples: {part.samples}, shards: {part.shards}, {part.bytes / 1e6:.1f} MB, hash {part.hash}"
    yield f"  made by {shown(part.created_by)}; the shards lie in {shown(part.location)}"
    yield f"  samples a shard: {part.samples_per_shard}; members: {', '.join(map(shown, part.extensions))}"
    yield from (f"  {line}" for line in video_lines(part.videos))
    if part.left_out:
        yield f"  left out: {part.left_out}, all named in the manifest"
    if part.mean and part.std:
        yield f"  {normalization(part.mean, part.std, part.kind)}"
    yield from (f"  {line}" for line in (class_table(part.classes) if part.classes else ["no classes"]))
