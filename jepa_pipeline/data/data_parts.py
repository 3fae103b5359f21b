"""Names of folders and files that are parts of a data set (train, val, chunk-000, episode_7) and not classes."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

PARTS = {
    "train": ("train", "training", "trainset", "trainval", "trn"),
    "val": ("val", "valid", "validation", "validate", "valset", "dev", "devel", "development"),
    "test": ("test", "testing", "testset", "tst", "eval", "evaluation", "holdout", "heldout"),
    "unlabeled": ("unlabeled", "unsupervised", "extra"),
}
KINDS = {word: kind for kind, words in PARTS.items() for word in words}
FILLERS = {
    *("set", "split", "data", "dataset", "images", "image", "imgs", "img", "videos", "video", "clips", "frames"),
    *("folder", "files", "public", "private"),
}
"""Words that say nothing of what a part is of."""
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
PIECE = re.compile(
    r"(?:[a-z0-9]+[-_ ])*(?:chunk|part|shard|batch|fold|split|archive|volume|disk|subset|section)[-_ ]?[0-9]+", re.IGNORECASE
)
EPISODE = re.compile(
    r"(?:[a-z0-9]+[-_ ])*(?:episode|ep|trajectory|traj|demo|demonstration|rollout|trial|session|recording|take|video|vid|clip|"
    r"sequence|seq|scene)[-_ ]?[0-9]+",
    re.IGNORECASE,
)


class Part(NamedTuple):
    """A part of a data set, and the rest of its name, such as "cars" of cars_train."""

    kind: str
    rest: str


def part_of(name: str) -> str | None:
    """Return the part that a name is of (train, val, test or unlabeled), None if it is of none."""
    part = parse_part(name)
    return part.kind if part else None


def parse_part(name: str) -> Part | None:
    words = [word.lower().replace("ll", "l") for word in WORD.findall(name)]  # "unlabeled" in both spellings
    kind = next((KINDS[word] for word in words if word in KINDS), None)
    return Part(kind, " ".join(word for word in words if word not in KINDS and word not in FILLERS)) if kind else None


def find_parts(names: Iterable[str]) -> dict[str, list[str]]:
    """Return by part the names among siblings that are parts of a data set, if there are several parts; otherwise nothing.

    They differ in the part alone, or all siblings are parts. A class may be named train; only with a sibling such as val, or
    cars_test beside cars_train, it is a part.
    """
    parsed = {name: parse_part(name) for name in sorted(names)}
    by_rest: dict[str, dict[str, list[str]]] = {}
    for name, part in parsed.items():
        if part:
            rest = "" if all(parsed.values()) else part.rest
            by_rest.setdefault(rest, {}).setdefault(part.kind, []).append(name)
    return next((kinds for kinds in by_rest.values() if len(kinds) > 1), {})


def target_names(parts: Mapping[str, list[str]]) -> dict[str, str]:
    """Return the folder of shards that each name becomes: train, and test for the first of test and val."""
    test = "test" if "test" in parts else "val"
    kinds = {name: "test" if kind == test else kind for kind, names in parts.items() for name in names}
    order = ("train", "test", "val", "unlabeled")
    return dict(sorted(kinds.items(), key=lambda item: order.index(item[1])))


def are_pieces(names: Iterable[str]) -> bool:
    """Return whether all names are those of pieces of a data set, such as chunk-000, or of recordings, such as episode_7."""
    ordered = list(names)
    return len(ordered) > 1 and (all(map(PIECE.fullmatch, ordered)) or are_episodes(ordered))


def are_episodes(names: Iterable[str]) -> bool:
    return all(map(EPISODE.fullmatch, names))
