"""What is counted in a data set, and how it is said on the terminal."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float64
from rich.console import Console

from jepa_pipeline.config.section import Section
from jepa_pipeline.data.manifest import MANIFEST
from jepa_pipeline.data.remote import is_remote
from jepa_pipeline.data.samples import Kind
from jepa_pipeline.data.tar import shown
from jepa_pipeline.data.video import VideoFacts

PARTS = ("train", "test")
SENTENCES_SHOWN = 20
"""Of each kind of problem."""
CLASSES_SHOWN = 10
"""Of the most frequent and of the least frequent classes."""
SIZES_SHOWN = 5
"""Of the most frequent."""

Item = TypeVar("Item")
Number = TypeVar("Number", int, float)


class Spread(Section):
    """Smallest, middle and largest of some numbers."""

    min: int | float
    median: int | float
    max: int | float

    def __str__(self) -> str:
        return f"{self.min} to {self.max}, median {self.median}"


class Videos(Section):
    """What videos there are. fps: frames a second; sizes: how many are of each, such as 320x240, the most frequent first."""

    videos: int
    hours: float
    frames: Spread
    fps: Spread
    shorter_side: Spread
    sizes: dict[str, int]
    under_1s: int


def parts(folder: str) -> list[str]:
    """The folders to look at: one data set, or a train/ and a test/."""
    found = [] if is_remote(folder) else [str(Path(folder) / part) for part in PARTS if (Path(folder) / part / MANIFEST).is_file()]
    return found or [folder]


def add(counters: Iterable[Counter[Item]]) -> Counter[Item]:
    total: Counter[Item] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def spread(values: Mapping[Number, int]) -> Spread:
    """Of values that occur as often as is said."""
    ordered = sorted(values)
    reached = np.cumsum([values[value] for value in ordered])
    return Spread(min=ordered[0], median=ordered[np.searchsorted(reached, reached[-1] / 2)], max=ordered[-1])


def facts_table(facts: Iterable[VideoFacts | None] | None) -> Float64[np.ndarray, "N 5"]:
    """Seconds, frames a second, width, height and frames of videos: a row each, which takes little memory."""
    rows = [(f.duration_s, f.fps, f.width, f.height, f.frames) for f in facts or () if f]
    return np.array(rows, np.float64).reshape(-1, 5)


def count_videos(tables: Iterable[Float64[np.ndarray, "_ 5"]]) -> Videos | None:
    """What videos there are in the shards that have these tables; None if there are none."""
    table = np.concatenate([np.empty((0, 5)), *tables])
    if not len(table):
        return None
    seconds, fps = table[:, 0], table[:, 1].round(2)
    widths, heights, frames = table[:, 2:].astype(int).T
    sizes = Counter(zip(widths.tolist(), heights.tolist(), strict=True))
    return Videos(
        videos=len(table),
        hours=round(float(seconds.sum()) / 3600, 6),
        frames=spread(Counter(frames.tolist())),
        fps=spread(Counter(fps.tolist())),
        shorter_side=spread(Counter(np.minimum(widths, heights).tolist())),
        sizes={f"{width}x{height}": count for (width, height), count in sizes.most_common()},
        under_1s=int((seconds < 1).sum()),
    )


def video_lines(found: Videos | None) -> list[str]:
    """What is found of videos, in words."""
    if found is None:
        return []
    length = f"{found.hours:,.1f} hours" if found.hours >= 1 else f"{60 * found.hours:.1f} minutes"
    sizes = [f"{size} ({count})" for size, count in list(found.sizes.items())[:SIZES_SHOWN]]
    more = f" and {len(found.sizes) - SIZES_SHOWN} more sizes" if len(found.sizes) > SIZES_SHOWN else ""
    return [
        f"{length} of video; shorter than 1 s: {found.under_1s}",
        f"frames: {found.frames}; frames a second: {found.fps}",
        f"shorter side: {found.shorter_side} pixels; {', '.join(sizes)}{more}",
    ]


def say(lines: Iterable[str]) -> None:
    """Print to the terminal, not to the output that others may read."""
    console = Console(stderr=True, soft_wrap=True)
    for line in lines:
        console.print(line, markup=False, highlight=False)


def abridged(sentences: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Of sentences with their kind, the first few of each kind."""
    kinds: dict[str, list[str]] = {}
    for kind, sentence in sentences:
        kinds.setdefault(kind, []).append(sentence)
    for kind, same in kinds.items():
        yield from same[:SENTENCES_SHOWN]
        if len(same) > SENTENCES_SHOWN:
            yield f"... and {len(same) - SENTENCES_SHOWN} more of this kind ({kind})"


def normalization(mean: Iterable[float], std: Iterable[float], kind: Kind = "images") -> str:
    """The settings of a run that would normalize the images, or the first frames of the videos, exactly."""
    them = "them" if kind == "images" else "their first frames"
    return f"views.mean={short(mean)} views.std={short(std)} would normalize {them} exactly"


def short(values: Iterable[float]) -> str:
    return f"[{', '.join(f'{value:.3f}' for value in values)}]"


def by_class(names: Sequence[str], labels: Mapping[int | None, int]) -> dict[str, int]:
    """Samples of each class. Of classes with one name all but the first have their label beside it."""
    counts: dict[str, int] = {}
    for label, name in enumerate(names):
        counts[f"{name} ({label})" if name in counts else name] = labels.get(label, 0)
    return counts


def class_table(counts: Mapping[str, int]) -> list[str]:
    """Samples by class, the most frequent first; of many classes only both ends."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    empty = sum(not count for count in counts.values())
    balance = f"{empty} of them empty" if empty else f"the largest {ordered[0][1] / ordered[-1][1]:.1f} times the smallest"
    width = max(len(str(ordered[0][1])), 7)
    rows = [f"  {count:>{width}}  {shown(name)}" for name, count in ordered]
    if len(rows) > 2 * CLASSES_SHOWN:
        rows[CLASSES_SHOWN:-CLASSES_SHOWN] = [f"  {'...':>{width}}  {len(rows) - 2 * CLASSES_SHOWN} more classes"]
    return [f"{len(counts)} classes, {balance}", f"  {'samples':>{width}}  class", *rows]
