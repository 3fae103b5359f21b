"""jepa shards check: whether a data set is whole, by reading all of it."""

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import computed_field

from jepa_pipeline.config.section import Section
from jepa_pipeline.config.views import RGB
from jepa_pipeline.data.channel_stats import mean_and_std
from jepa_pipeline.data.manifest import Manifest, read_manifest, tar_location
from jepa_pipeline.data.remote import without_secrets
from jepa_pipeline.data.samples import Kind
from jepa_pipeline.data.summary import (
    Spread,
    Videos,
    abridged,
    add,
    by_class,
    class_table,
    count_videos,
    normalization,
    parts,
    spread,
    video_lines,
)
from jepa_pipeline.data.tar import shown
from jepa_pipeline.data.verify import Finding, check_shard, repeated_keys
from jepa_pipeline.data.worker_pool import available_cores, in_order, progress


class PartReport(Section):
    """What `check` found in one folder. mean, std: on pixels scaled to 0..1, every image, or first frame, counts the same."""

    folder: str
    kind: Kind
    samples: int
    shards: int
    problems: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    extensions: dict[str, int]
    classes: dict[str, int] | None
    shorter_side: Spread | None
    videos: Videos | None
    mean: RGB | None
    std: RGB | None


class Report(Section):
    """What `check` found."""

    parts: tuple[PartReport, ...]

    @computed_field
    @property
    def ok(self) -> bool:
        """Whether there is no problem; there may be warnings."""
        return not self.problems

    @computed_field
    @property
    def samples(self) -> int:
        return sum(part.samples for part in self.parts)

    @property
    def problems(self) -> list[str]:
        """One sentence for each thing that training or a count would meet."""
        return [str(problem) for part in self.parts for problem in part.problems]

    @property
    def warnings(self) -> list[str]:
        """One sentence for each thing that is odd and harms nothing, such as a sample that was left out or is tiny."""
        return [str(warning) for part in self.parts for warning in part.warnings]


def check(folder: str | Path, *, workers: int | None = None, json: bool = False) -> Report:
    """Read every byte of a data set, or of the train/ and test/ in it, decode every image or frame, and print what was found.

    workers: processes, all cores unless said; json: print one JSON object.

    Raises:
        UserError: there is no manifest, or it cannot be read.
    """
    workers = workers or available_cores()
    sets = {part: read_manifest(part) for part in parts(str(folder))}
    with ProcessPoolExecutor(workers) as pool:
        report = Report(parts=tuple(check_part(pool, workers, part, manifest) for part, manifest in sets.items()))
    if json:
        print(report.model_dump_json())
    else:
        print(*(line for part in report.parts for line in report_lines(part)), sep="\n")
    return report


def check_part(pool: Executor, workers: int, folder: str, manifest: Manifest) -> PartReport:
    names = manifest.classes
    work = partial(check_shard, folder, tar_location(folder, manifest), manifest.kind, None if names is None else len(names))
    checked = in_order(pool, workers, work, manifest.shards)
    shards = list(progress(checked, f"checking {without_secrets(str(folder))}", len(manifest.shards)))
    decoded = sum(shard.decoded for shard in shards)
    mean, std = mean_and_std(sum((shard.moments for shard in shards), np.zeros((2, 3))), decoded) if decoded else (None, None)
    return PartReport(
        folder=without_secrets(folder),
        kind=manifest.kind,
        samples=manifest.samples,
        shards=len(shards),
        problems=tuple(problem for shard in shards for problem in shard.problems),
        warnings=(*(warning for shard in shards for warning in shard.warnings), *repeated_keys(folder, shards)),
        extensions=dict(sorted(add(shard.extensions for shard in shards).items())),
        classes=None if names is None else by_class(names, add(shard.labels for shard in shards)),
        shorter_side=spread(add(shard.sides for shard in shards)) if decoded else None,
        videos=count_videos(shard.videos for shard in shards),
        mean=mean,
        std=std,
    )


def report_lines(part: PartReport) -> Iterator[str]:
    yield from abridged((problem.kind, f"problem: {problem}") for problem in part.problems)
    yield from abridged((warning.kind, f"warning: {warning}") for warning in part.warnings)
    counts = f"problems: {len(part.problems)}, warnings: {len(part.warnings)}"
    yield f"{part.folder}: samples: {part.samples}, shards: {part.shards}, {counts}"
    yield f"  members: {', '.join(f'{count} {shown(extension)}' for extension, count in part.extensions.items())}"
    yield from (f"  {line}" for line in video_lines(part.videos))
    if part.kind == "images" and part.shorter_side:
        yield f"  shorter side of the images: {part.shorter_side} pixels"
    if part.mean and part.std:
        yield f"  {normalization(part.mean, part.std, part.kind)}"
    if part.classes:
        yield from (f"  {line}" for line in class_table(part.classes))
