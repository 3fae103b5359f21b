"""Findings that no shard has alone: keys repeated in several shards, images that use a small part of their range or differ in
channels.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jepa_pipeline.data.channel_stats import DeepRange, StoredTotals, warn_of_mixture
from jepa_pipeline.data.index import load_index
from jepa_pipeline.data.manifest import StoredPixels
from jepa_pipeline.data.shard_report import Finding, ShardReport
from jepa_pipeline.data.tar_reader import printable


def dim_images(reports: Sequence[ShardReport]) -> Iterator[Finding]:
    """Yield a finding, of the first shard that has any, if the 16-bit images of all shards use a small part of their range."""
    total, with_any = DeepRange(), [report for report in reports if report.deep.images]
    for report in with_any:
        total.add(report.deep.brightest, report.deep.images)
    if sentence := total.describe():
        yield Finding(kind="range", shard=with_any[0].shard, sentence=sentence)


def total_stored(reports: Sequence[ShardReport]) -> tuple[StoredPixels, ...]:
    """Return the images of all shards by their number of channels, as they are stored."""
    total = StoredTotals()
    for report in reports:
        total.merge(report.stored)
    return total.summarize()


def mixed_channels(reports: Sequence[ShardReport], stored: Sequence[StoredPixels]) -> Iterator[Finding]:
    """Yield a finding, of the first shard, if the images of all shards differ in channels or bits."""
    if sentence := warn_of_mixture(stored):
        yield Finding(kind="channels", shard=next(report for report in reports if report.stored).shard, sentence=sentence)


def repeated_keys(folder: str, reports: Sequence[ShardReport]) -> Iterator[Finding]:
    """Yield a finding for each shard that repeats keys of an earlier one. 1e8 samples take about 2 GB."""
    keys = np.sort(np.concatenate([report.keys for report in reports]))
    repeated = np.unique(keys[1:][keys[1:] == keys[:-1]])
    first = np.full(len(repeated), -1)
    for number, report in enumerate(reports):
        if not len(repeated):
            return
        rows = np.searchsorted(repeated, report.keys).clip(max=len(repeated) - 1)
        members = np.flatnonzero(repeated[rows] == report.keys)
        rows = rows[members]
        repeats = members[first[rows] >= 0]
        if len(repeats):
            key = load_index(Path(folder) / report.shard).keys[int(repeats[0])]
            earlier = reports[int(first[rows[first[rows] >= 0][0]])].shard
            sentence = f"it repeats {len(repeats)} keys of earlier shards, such as {printable(key)} of {printable(earlier)}"
            yield Finding(kind="key", shard=report.shard, sample=key, sentence=sentence)
        first[rows[first[rows] < 0]] = number
