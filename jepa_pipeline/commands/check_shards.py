"""`jepa shards check`: find the damage in a data set by reading all of it."""

from collections.abc import Iterator
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import computed_field

from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.config.pixel_format import PerChannel
from jepa_pipeline.config.section import Section
from jepa_pipeline.console import track
from jepa_pipeline.data.channel_stats import mean_and_std
from jepa_pipeline.data.manifest import Manifest, StoredPixels, locate_tars, read_manifest
from jepa_pipeline.data.shard_report import Finding
from jepa_pipeline.data.summary import (
    Range,
    VideoStats,
    abridge,
    compute_video_stats,
    count_by_class,
    format_class_table,
    format_pixels,
    format_video_stats,
    list_parts,
    sum_counters,
    weighted_range,
)
from jepa_pipeline.data.tar_reader import printable
from jepa_pipeline.data.verify import Contents, check_shard
from jepa_pipeline.data.verify_set import dim_images, mixed_channels, repeated_keys, total_stored
from jepa_pipeline.data.worker_pool import available_cores, parallel_map, process_pool
from jepa_pipeline.redaction import redact


class PartReport(Section):
    """Results of one data set.

    mean, std: of images or first frames, each of which counts the same, on pixels scaled to 0..1. lost: a sentence on labels that
    could not be used when it was made.
    """

    folder: str
    kind: DataKind
    samples: int
    shards: int
    problems: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    extensions: dict[str, int]
    classes: dict[str, int] | None
    shorter_side: Range | None
    videos: VideoStats | None
    mean: PerChannel | None
    std: PerChannel | None
    stored: tuple[StoredPixels, ...] = ()
    lost: str | None = None


class Report(Section):
    """Results of all parts."""

    parts: tuple[PartReport, ...]

    @computed_field
    @property
    def ok(self) -> bool:
        """Return whether there are no problems; warnings are allowed."""
        return not self.problems

    @computed_field
    @property
    def samples(self) -> int:
        return sum(part.samples for part in self.parts)

    @property
    def problems(self) -> list[str]:
        """A sentence for each damage that training or counting would meet."""
        return [str(problem) for part in self.parts for problem in part.problems]

    @property
    def warnings(self) -> list[str]:
        """A sentence for each harmless oddity, such as a sample that was skipped or is tiny."""
        return [str(warning) for part in self.parts for warning in part.warnings]


def check(folder: str | Path, *, workers: int | None = None, json: bool = False) -> Report:
    """Read every byte of a data set, or of the train/ and test/ in it, decode every image or frame, and print the results.

    Args:
        folder: folder or URL.
        workers: processes. Default: all cores.
        json: print one JSON object.

    Raises:
        UserError: there is no manifest, or it cannot be read.
    """
    workers = workers or available_cores()
    sets = {part: read_manifest(part) for part in list_parts(str(folder))}
    with process_pool(workers) as pool:
        report = Report(parts=tuple(check_part(pool, workers, part, manifest) for part, manifest in sets.items()))
    if json:
        print(report.model_dump_json())
    else:
        print(*(line for part in report.parts for line in report_lines(part)), sep="\n")
    return report


def check_part(pool: Executor, workers: int, folder: str, manifest: Manifest) -> PartReport:
    names = manifest.classes
    work = partial(check_shard, folder, locate_tars(folder, manifest), Contents.of(manifest))
    checked = parallel_map(pool, workers, work, manifest.shards)
    shards = list(track(checked, f"checking {redact(str(folder))}", len(manifest.shards)))
    decoded, stored = sum(shard.decoded for shard in shards), total_stored(shards)
    has_rgb = decoded and not any(shard.without_rgb for shard in shards)
    mean, std = mean_and_std(sum((shard.channel_stats for shard in shards), np.zeros((2, 3))), decoded) if has_rgb else (None, None)
    return PartReport(
        folder=redact(folder),
        kind=manifest.kind,
        samples=manifest.samples,
        shards=len(shards),
        problems=tuple(problem for shard in shards for problem in shard.problems),
        warnings=(
            *(warning for shard in shards for warning in shard.warnings),
            *repeated_keys(folder, shards),
            *dim_images(shards),
            *mixed_channels(shards, stored),
        ),
        extensions=dict(sorted(sum_counters(shard.extensions for shard in shards).items())),
        classes=None if names is None else count_by_class(names, sum_counters(shard.labels for shard in shards)),
        shorter_side=weighted_range(sum_counters(shard.sides for shard in shards)) if decoded else None,
        videos=compute_video_stats(shard.videos for shard in shards),
        mean=mean,
        std=std,
        stored=stored,
        lost=manifest.lost,
    )


def report_lines(part: PartReport) -> Iterator[str]:
    yield from abridge((problem.kind, f"problem: {problem}") for problem in part.problems)
    yield from abridge((warning.kind, f"warning: {warning}") for warning in part.warnings)
    counts = f"problems: {len(part.problems)}, warnings: {len(part.warnings)}"
    yield f"{part.folder}: samples: {part.samples}, shards: {part.shards}, {counts}"
    yield f"  members: {', '.join(f'{count} {printable(extension)}' for extension, count in part.extensions.items())}"
    yield from (f"  {line}" for line in format_video_stats(part.videos))
    if part.lost:
        yield f"  {part.lost}"
    if part.kind == "images" and part.shorter_side:
        yield f"  shorter side of the images: {part.shorter_side} pixels"
    yield from (f"  {line}" for line in format_pixels(part.kind, part.mean, part.std, part.stored))
    if part.classes:
        yield from (f"  {line}" for line in format_class_table(part.classes))
