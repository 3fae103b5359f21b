"""Statistics of a data set, and their text for the terminal."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float64
from rich.console import Console

from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.config.pixel_format import RGB_CHANNELS, PerChannel
from jepa_pipeline.config.section import Section
from jepa_pipeline.console import print_plain
from jepa_pipeline.data.manifest import MANIFEST, StoredPixels
from jepa_pipeline.data.remote import is_remote
from jepa_pipeline.data.sample import VideoMetadata
from jepa_pipeline.data.tar_reader import printable

PARTS = ("train", "test")
PRINTED_PROBLEMS = 20
"""Problems of each kind that are printed."""
PRINTED_CLASSES = 10
"""Classes that are printed of the most and of the least frequent ones."""
PRINTED_SIZES = 5

Item = TypeVar("Item")
Number = TypeVar("Number", int, float)


class Range(Section):
    """Smallest, median and largest of some numbers."""

    min: int | float
    median: int | float
    max: int | float

    def __str__(self) -> str:
        return f"{self.min} to {self.max}, median {self.median}"


class VideoStats(Section):
    """Statistics of videos. fps: frames per second; sizes: number of videos by size, such as 320x240, the most frequent first."""

    videos: int
    hours: float
    frames: Range
    fps: Range
    shorter_side: Range
    sizes: dict[str, int]
    under_1s: int


def list_parts(folder: str) -> list[str]:
    """Return the data sets of a folder: train/ and test/ in it, or else the folder itself."""
    parts = [] if is_remote(folder) else [str(Path(folder) / part) for part in PARTS if (Path(folder) / part / MANIFEST).is_file()]
    return parts or [folder]


def sum_counters(counters: Iterable[Counter[Item]]) -> Counter[Item]:
    total: Counter[Item] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def weighted_range(values: Mapping[Number, int]) -> Range:
    """Return the range of values, given how often each occurs."""
    ordered = sorted(values)
    cumulative = np.cumsum([values[value] for value in ordered])
    return Range(min=ordered[0], median=ordered[np.searchsorted(cumulative, cumulative[-1] / 2)], max=ordered[-1])


def metadata_table(videos: Iterable[VideoMetadata | None] | None) -> Float64[np.ndarray, "N 5"]:
    """Return a row per video: seconds, frames per second, width, height and frames. An array takes little memory."""
    rows = [(v.duration_s, v.fps, v.width, v.height, v.frames) for v in videos or () if v]
    return np.array(rows, np.float64).reshape(-1, 5)


def compute_video_stats(tables: Iterable[Float64[np.ndarray, "_ 5"]]) -> VideoStats | None:
    """Return the statistics of the videos of shards, given the metadata table of each; None if there are no videos."""
    table = np.concatenate([np.empty((0, 5)), *tables])
    if not len(table):
        return None
    seconds, fps = table[:, 0], table[:, 1].round(2)
    widths, heights, frames = table[:, 2:].astype(int).T
    sizes = Counter(zip(widths.tolist(), heights.tolist(), strict=True))
    return VideoStats(
        videos=len(table),
        hours=round(float(seconds.sum()) / 3600, 6),
        frames=weighted_range(Counter(frames.tolist())),
        fps=weighted_range(Counter(fps.tolist())),
        shorter_side=weighted_range(Counter(np.minimum(widths, heights).tolist())),
        sizes={f"{width}x{height}": count for (width, height), count in sizes.most_common()},
        under_1s=int((seconds < 1).sum()),
    )


def format_video_stats(stats: VideoStats | None) -> list[str]:
    if stats is None:
        return []
    length = f"{stats.hours:,.1f} hours" if stats.hours >= 1 else f"{60 * stats.hours:.1f} minutes"
    sizes = [f"{size} ({count})" for size, count in list(stats.sizes.items())[:PRINTED_SIZES]]
    more = f" and {len(stats.sizes) - PRINTED_SIZES} more sizes" if len(stats.sizes) > PRINTED_SIZES else ""
    return [
        f"{length} of video; shorter than 1 s: {stats.under_1s}",
        f"frames: {stats.frames}; frames per second: {stats.fps}",
        f"shorter side: {stats.shorter_side} pixels; {', '.join(sizes)}{more}",
    ]


def print_lines(lines: Iterable[str]) -> None:
    """Print to stderr, so that stdout holds results alone."""
    console = Console(stderr=True)
    for line in lines:
        print_plain(console, line)


def abridge(sentences: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield the first few of each kind of (kind, sentence), and how many more there are."""
    kinds: dict[str, list[str]] = {}
    for kind, sentence in sentences:
        kinds.setdefault(kind, []).append(sentence)
    for kind, same in kinds.items():
        yield from same[:PRINTED_PROBLEMS]
        if len(same) > PRINTED_PROBLEMS:
            yield f"... and {len(same) - PRINTED_PROBLEMS} more of this kind ({kind})"


def format_pixels(kind: DataKind, mean: PerChannel | None, std: PerChannel | None, stored: Sequence[StoredPixels]) -> Iterator[str]:
    """Yield the channels and bits of the images, and the settings of a run that would normalize them, or first frames, exactly;
    the arguments are those of a manifest.
    """
    if stored:
        yield f"channels: {', '.join(part.describe() for part in stored)}"
    if mean and std:
        pixels = "them" if kind == "images" else "their first frames"
        means, stds = (", ".join(f"{value:.3f}" for value in values) for values in (mean, std))
        yield f"views.mean=[{means}] views.std=[{stds}] would normalize {pixels} exactly"
    for part in stored:
        if (part.channels, part.deep) != (RGB_CHANNELS, 0):  # else they are those above
            means, stds = (", ".join(f"{value:.6g}" for value in values) for values in (part.mean, part.std))
            bits = " data.bits=16" if part.channels == RGB_CHANNELS else ""
            yield f"data.channels={part.channels}{bits}: views.mean=[{means}] views.std=[{stds}]"


def count_by_class(names: Sequence[str], labels: Mapping[int | None, int]) -> dict[str, int]:
    """Return the samples of each class by name. Repeated names get their label in parentheses."""
    counts: dict[str, int] = {}
    for label, name in enumerate(names):
        counts[f"{name} ({label})" if name in counts else name] = labels.get(label, 0)
    return counts


def format_class_table(counts: Mapping[str, int]) -> list[str]:
    """Return the lines of a table of classes, the most frequent first; the middle of a long one is left out."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    empty = sum(not count for count in counts.values())
    balance = f"{empty} of them empty" if empty else f"the largest {ordered[0][1] / ordered[-1][1]:.1f} times the smallest"
    width = max(len(str(ordered[0][1])), 7)
    rows = [f"  {count:>{width}}  {printable(name)}" for name, count in ordered]
    if len(rows) > 2 * PRINTED_CLASSES:
        rows[PRINTED_CLASSES:-PRINTED_CLASSES] = [f"  {'...':>{width}}  {len(rows) - 2 * PRINTED_CLASSES} more classes"]
    return [f"{len(counts)} classes, {balance}", f"  {'samples':>{width}}  class", *rows]
