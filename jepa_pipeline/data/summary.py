"""What is counted in a data set, and how it is said on the terminal."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console

from jepa_pipeline.config.section import Section
from jepa_pipeline.data.manifest import MANIFEST
from jepa_pipeline.data.remote import is_remote
from jepa_pipeline.data.tar import shown

PARTS = ("train", "test")
SENTENCES_SHOWN = 20
"""Of each kind of problem."""
CLASSES_SHOWN = 10
"""Of the most frequent and of the least frequent classes."""


Item = TypeVar("Item")


class Spread(Section):
    """Smallest, middle and largest of some numbers."""

    min: int
    median: int
    max: int

    def __str__(self) -> str:
        return f"{self.min} to {self.max}, median {self.median}"


def parts(folder: str) -> list[str]:
    """The folders to look at: one data set, or a train/ and a test/."""
    found = [] if is_remote(folder) else [str(Path(folder) / part) for part in PARTS if (Path(folder) / part / MANIFEST).is_file()]
    return found or [folder]


def add(counters: Iterable[Counter[Item]]) -> Counter[Item]:
    total: Counter[Item] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def spread(values: Mapping[int, int]) -> Spread:
    """Of values that occur as often as is said."""
    ordered = sorted(values)
    reached = np.cumsum([values[value] for value in ordered])
    return Spread(min=ordered[0], median=ordered[np.searchsorted(reached, reached[-1] / 2)], max=ordered[-1])


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


def normalisation(mean: Iterable[float], std: Iterable[float]) -> str:
    """The settings of a run that would normalise the images exactly."""
    return f"views.mean={short(mean)} views.std={short(std)} would normalise them exactly"


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
