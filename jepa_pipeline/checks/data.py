"""Checks that the data of a run is complete, readable, of the right kind and sufficient."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jepa_pipeline.checks.recipe import check_manifests
from jepa_pipeline.checks.result import CheckResult, format_bytes, pluralize
from jepa_pipeline.config.data import DataConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.dataset import open_media
from jepa_pipeline.data.index import index_path
from jepa_pipeline.data.local_files import describe_unhashed, wrong_hashes, wrong_sizes
from jepa_pipeline.data.manifest import Manifest, locate_tars
from jepa_pipeline.data.remote import is_remote
from jepa_pipeline.data.sample import DecodeError, name_missing
from jepa_pipeline.data.shards import SampleError, Shards
from jepa_pipeline.data.video import Video
from jepa_pipeline.redaction import redact

SAMPLES, FEW_SAMPLES = 200, 20


def check_data(config: RunConfig, quick: bool) -> list[CheckResult]:
    """Check manifest, kind, files and some samples of every source, and whether all of them together are enough."""

    def check_source(path: str, manifest: Manifest) -> Iterator[CheckResult]:
        samples, shards = pluralize(manifest.samples, "sample"), pluralize(len(manifest.shards), "shard")
        text = f"{redact(path)}: {samples} ({manifest.kind}) in {shards}, hash {manifest.hash()}"
        yield CheckResult("data", "ok", text)
        yield check_files(path, manifest, quick)
        yield check_samples(path, config.data, FEW_SAMPLES if quick else SAMPLES, quick)

    return check_manifests(config, check_source=check_source)


def check_files(location: str, manifest: Manifest, quick: bool) -> CheckResult:
    """Check that every local shard and index is that of the manifest; in a quick check by the size of the shards alone."""
    name, tars = redact(location), locate_tars(location, manifest)
    if is_remote(tars):
        return CheckResult("shards", "skipped", f"{redact(tars)} is remote: shards are verified when they are downloaded")
    problems = wrong_sizes(location, manifest)
    indexes = [] if is_remote(location) else [index_path(Path(location) / shard.file) for shard in manifest.shards]
    problems += [f"{path.name} is missing" for path in indexes if not path.is_file()]
    problems = problems or ([] if quick else wrong_hashes(location, manifest))
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        cure = f"copy these files again; `jepa shards check {name}` lists all damage"
        return CheckResult("shards", "fail", f"{name}: {'; '.join(problems[:3])}{more}", cure)
    total = format_bytes(sum(shard.bytes for shard in manifest.shards))
    if quick:
        return CheckResult("shards", "ok", f"{name}: all {len(manifest.shards)} shards exist with the right size, {total}")
    for sentence in describe_unhashed(location, manifest):
        return CheckResult("shards", "warn", sentence, "build or index the data set again to have the hashes")
    text = f"{name}: all {len(manifest.shards)} shards and their indexes have the SHA-256 of the manifest, {total}"
    return CheckResult("shards", "ok", text)


def check_samples(location: str, data: DataConfig, count: int, quick: bool) -> CheckResult:
    """Decode evenly spaced samples of a data set, from first to last; of a remote one, those of its first shard."""
    name = redact(location)
    shards = Shards(location, cache=data.cache, max_pixels=data.damage.max_megapixels * 1e6, form=data.pixel_format)
    remote = shards.cache is not None
    if remote and quick:
        return CheckResult("samples", "skipped", f"{name} is remote: run without --quick to download and decode some samples")
    available = shards.counts[0] if remote else shards.manifest.samples
    numbers = np.unique(np.linspace(0, available - 1, min(count, available)).astype(np.int64))
    start, errors = time.perf_counter(), []
    for shard, member in shards.locate(numbers.tolist()):
        try:
            decode_sample(shards, shard, member)
        except SampleError as error:
            errors.append(str(error))
    rate = len(numbers) / (time.perf_counter() - start)
    if not errors:
        return CheckResult(
            "samples", "ok", f"{name}: {len(numbers)} of {available:,} decoded, {rate:,.0f} per second in one process"
        )
    first, _, cure = errors[0].rpartition(": ")
    text = f"{name}: {len(errors)} of {len(numbers)} samples cannot be used; {first}"
    fatal = data.damage.policy == "stop" or len(errors) > data.damage.limit * len(numbers)
    return CheckResult("samples", "fail" if fatal else "warn", text, cure)


def decode_sample(shards: Shards, shard: int, member: int) -> None:
    """Decode an image, or the first and the last frame of a video.

    Raises:
        SampleError: it cannot be used.
    """
    sample = shards.read(shard, member)
    try:
        with name_missing(shards.describe(shard, member)):
            media = open_media(shards, sample)
        if isinstance(media, Video):
            media.frames(np.unique([0, len(media) - 1]))
    except DecodeError as error:
        raise shards.sample_error(shard, sample.key, str(error), error.cure) from error
