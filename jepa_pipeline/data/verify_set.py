"""Findings that no shard has alone: keys repeated in several shards, and images that use a small part of their range."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jepa_pipeline.data.channel_stats import DeepRange
from jepa_pipeline.data.index import load_index
from jepa_pipeline.data.tar_reader import printable
from jepa_pipeline.data.verify import Finding, ShardReport


def dim_images(reports: Sequence[ShardReport]) -> Iterator[Finding]:
    """Yield a finding, of the first shard that has any, if the 16-bit images of all shards use a small part of their range."""
    total, with_any = DeepRange(), [report for report in reports if report.deep.images]
    for report in with_any:
        total.add(report.deep.brightest, report.deep.images)
    if sentence := total.describe():
        yield Finding(kind="range", shard=with_any[0].shard, sentence=sentence)


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
