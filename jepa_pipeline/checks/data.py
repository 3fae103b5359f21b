"""Whether the data of a run is there, whole, of the right kind and enough."""

import time
from pathlib import Path

import numpy as np

from jepa_pipeline.checks.finding import Finding, as_finding, plural, size
from jepa_pipeline.config.data import SourceConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.dataset import picture
from jepa_pipeline.data.decode import DecodeError
from jepa_pipeline.data.index import index_path
from jepa_pipeline.data.manifest import Manifest, load_manifest, tar_location
from jepa_pipeline.data.media import check_kind, check_moves
from jepa_pipeline.data.remote import is_remote, without_secrets
from jepa_pipeline.data.shards import SampleError, Shards
from jepa_pipeline.data.video import Video

SAMPLES, FEW_SAMPLES = 200, 20
MIXED_BATCHES = 2
"""Global batches that a window should hold at least, so that neighbors in a shard do not meet in every batch."""


def check_data(config: RunConfig, quick: bool) -> list[Finding]:
    """Of every source its manifest, kind, files and some samples; of all together, whether they are enough."""
    findings, manifests = [], []
    for source in config.data.train:
        place = without_secrets(source.path)
        try:
            manifest = load_manifest(source.path)
            check_kind(place, manifest.kind, config)
            counts = f"{plural(manifest.samples, 'sample')} ({manifest.kind}) in {plural(len(manifest.shards), 'shard')}"
            findings.append(Finding("data", "ok", f"{place}: {counts}, hash {manifest.hash()}"))
            findings.append(check_files(source.path, manifest))
            findings.append(check_samples(source, config, FEW_SAMPLES if quick else SAMPLES, quick))
            manifests.append(manifest)
        except UserError as error:
            findings.append(as_finding("data", error))
        except OSError as error:
            findings.append(Finding("data", "fail", f"{place} cannot be read ({error.strerror})", "see to its rights"))
    if len(manifests) == len(config.data.train):
        try:
            check_moves([manifest.kind for manifest in manifests], config)
        except UserError as error:
            findings.append(as_finding("data", error))
        findings.append(check_amount(config, manifests))
    return findings


def check_files(location: str, manifest: Manifest) -> Finding:
    """Whether every local shard and its index are there, and the shard has its size."""
    place, tars = without_secrets(location), tar_location(location, manifest)
    if is_remote(tars):
        return Finding("shards", "skipped", f"{without_secrets(tars)} is remote: shards are checked by their SHA-256 when fetched")
    wrong = [text for shard in manifest.shards if (text := wrong_file(Path(tars) / shard.file, shard.bytes))]
    indexes = [] if is_remote(location) else [index_path(Path(location) / shard.file) for shard in manifest.shards]
    wrong += [f"{path.name} is missing" for path in indexes if not path.is_file()]
    if not wrong:
        total = sum(shard.bytes for shard in manifest.shards)
        return Finding("shards", "ok", f"{place}: all {len(manifest.shards)} are there with their sizes, {size(total)}")
    more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    cure = f"copy these files again; `jepa shards check {place}` names all damage"
    return Finding("shards", "fail", f"{place}: {'; '.join(wrong[:3])}{more}", cure)


def wrong_file(path: Path, expected: int) -> str:
    """What is wrong with a shard, as far as its size tells; nothing if nothing."""
    try:
        found = path.stat().st_size
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return "" if found == expected else f"{path.name} has {found:,} bytes, the manifest says {expected:,}"


def check_samples(source: SourceConfig, config: RunConfig, count: int, quick: bool) -> Finding:
    """Decode samples spread over the data set, the first and the last among them; of a remote one, of its first shard alone."""
    place = without_secrets(source.path)
    shards = Shards(source.path, cache=config.data.cache)
    remote = shards.cache is not None
    if remote and quick:
        return Finding("samples", "skipped", f"{place} is remote: without --quick some are fetched and decoded")
    reach = shards.counts[0] if remote else shards.manifest.samples
    numbers = np.unique(np.linspace(0, reach - 1, min(count, reach)).astype(np.int64))
    ends = np.cumsum(shards.counts)
    which = np.searchsorted(ends, numbers, side="right")
    members = numbers - (ends - shards.counts)[which]
    started, bad = time.perf_counter(), []
    for shard, member in zip(which.tolist(), members.tolist(), strict=True):
        try:
            look(shards, shard, member)
        except SampleError as error:
            bad.append(str(error))
    rate = len(numbers) / (time.perf_counter() - started)
    if not bad:
        text = f"{place}: {len(numbers)} of {reach:,} decoded, {rate:,.0f} a second in one process"
        return Finding("samples", "ok", text)
    text, _, cure = bad[0].rpartition(": ")
    text = f"{place}: {len(bad)} of {len(numbers)} samples cannot be used; {text}"
    fatal = config.data.damage.policy == "stop" or len(bad) > config.data.damage.limit * len(numbers)
    return Finding("samples", "fail" if fatal else "warn", text, cure)


def look(shards: Shards, shard: int, member: int) -> None:
    """Decode an image, or the first and the last frame of a video.

    Raises:
        SampleError: it cannot be used.
    """
    sample = shards.read(shard, member)
    try:
        shown = picture(shards, sample)
        if isinstance(shown, Video):
            shown.frames(np.unique([0, len(shown) - 1]))
    except DecodeError as error:
        raise shards.error(shard, sample.key, str(error)) from error


def check_amount(config: RunConfig, manifests: list[Manifest]) -> Finding:
    """Samples against those of a global batch, and of the window in which they are shuffled, by each source's share."""
    batch, total = config.optim.batch_size_global, sum(source.weight for source in config.data.train)
    samples = sum(manifest.samples for manifest in manifests)
    epochs = f"{config.optim.total_samples / samples:,.1f}"
    text = f"{plural(samples, 'sample')} for global batches of {batch:,}; the run sees each {epochs} times on average"
    for source, manifest in zip(config.data.train, manifests, strict=True):
        part = batch * source.weight / total
        window = manifest.samples * min(1.0, config.data.window_shards / len(manifest.shards))
        place = without_secrets(source.path)
        if manifest.samples < part:
            cure = "lower optim.batch_size_global, or give more data"
            return Finding("amount", "warn", f"{text}; {place} has fewer than one batch takes of it: a batch repeats samples", cure)
        if window < MIXED_BATCHES * part and len(manifest.shards) > config.data.window_shards:
            text += f"; {place} is shuffled in windows of {window:,.0f} samples, fewer than {MIXED_BATCHES} batches"
            needed = int(np.ceil(MIXED_BATCHES * part * len(manifest.shards) / manifest.samples))
            return Finding("amount", "warn", text, f"set data.window_shards={min(needed, len(manifest.shards))}")
    return Finding("amount", "ok", text)
