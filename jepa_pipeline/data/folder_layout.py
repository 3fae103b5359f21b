"""Layouts of folders that are no classes: parts of a data set, pieces of one, and recordings of robots."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.data_parts import are_pieces, find_parts, target_names
from jepa_pipeline.data.manifest import MANIFEST
from jepa_pipeline.data.recordings import name_episode

ROBOT_INFO = "meta/info.json"
"""File of a LeRobot data set that describes it."""
ROBOT_LEVELS = 4
"""Folders from the videos of a LeRobot data set up to its own, at most."""
JOINED_EPISODES = re.compile(r"chunk-\d+/file-\d+\.mp4$")
"""Videos of LeRobot since version 3: each has the episodes of many, one after the other."""
WORDNET = re.compile(r"(?<![A-Za-z0-9])n\d{8}(?!\d)")
"""ID of a WordNet synset in the name of an ImageNet file, such as n01440764_10026.JPEG."""

NOTES = {
    *(".csv", ".db", ".htm", ".html", ".ini", ".json", ".jsonl", ".log", ".md", ".pdf", ".rst"),
    *(".tsv", ".txt", ".xml", ".yaml", ".yml"),
}
"""Suffixes of files that describe data, and are not data that is lost."""

Parents = tuple[str, ...]
"""Folders from the data set's down to that of a file."""


def subfolders(parents: Iterable[Parents]) -> dict[Parents, set[str]]:
    """Return the subfolders with files of each folder."""
    found: dict[Parents, set[str]] = defaultdict(set)
    for folders in {*parents}:
        for level, name in enumerate(folders):
            found[folders[:level]].add(name)
    return found


def check_parts(folder: Path, tree: Mapping[Parents, set[str]], options: str = "") -> None:
    """Check that no folder holds the parts of a data set side by side, which would become classes, or one training set.

    options: those of `jepa shards build` that each part needs too.

    Raises:
        UserError: one does; with the commands that build each part.
    """
    for above in sorted(tree, key=lambda parents: (len(parents), parents)):
        parts = find_parts(tree[above])
        if not parts:
            continue
        place, names = folder.joinpath(*above), sorted(name for kind in parts.values() for name in kind)
        sentence = f"{place} holds {' and '.join(names)}, which are parts of a data set and not classes"
        if all(len(tree[above[:level]]) == 1 for level in range(len(above))):
            targets = target_names(parts)
            taken = Counter(targets.values())  # train and train_extra would both be OUT/train
            outs = {name: name if taken[target] > 1 else target for name, target in targets.items()}
            commands = [f"`jepa shards build {place / name} OUT/{out}{options}`" for name, out in outs.items()]
            raise UserError(
                f"{sentence}: build each by itself, {' and '.join(commands)}, or add --labels none to pack all as one set; rename "
                "them if they are classes"
            )
        raise UserError(
            f"{sentence}: move them so that {names[-1]} holds the files of all other folders too and build each by itself, or add "
            "--labels none to pack all as one set"
        )


def check_pieces(folder: Path, tops: Sequence[str]) -> None:
    """Raise UserError if the first-level folders are pieces of a data set or recordings, which are no classes."""
    if are_pieces(tops):
        raise UserError(
            f"{folder} holds {tops[0]} and {tops[-1]}, which look like pieces of a data set and not like classes: add "
            "--labels none to pack all as one set, --labels FILE to have labels, or rename them to make them classes"
        )


def find_robot_root(folder: Path) -> Path | None:
    """Return the folder of the LeRobot data set that a folder is, or is in."""
    places = [folder.resolve(), *folder.resolve().parents][:ROBOT_LEVELS]
    return next((place for place in places if "codebase_version" in read_info(place)), None)


def check_episodes(folder: Path, names: Sequence[str]) -> bool:
    """Return whether a folder holds videos of a LeRobot data set, of which each is one episode.

    Raises:
        UserError: each holds many: clips would cross from one to the next, and both parts of a split could have the same.
    """
    root = find_robot_root(folder)
    joined = next((name for name in names if JOINED_EPISODES.search(name)), None)
    if joined is None or (root and read_info(root).get("total_episodes") == len({*map(name_episode, names)})):
        return root is not None
    raise UserError(
        f"{folder} is a LeRobot data set of version 3 or later, where a video such as {joined} holds many episodes one after the "
        "other: cut each into one file per episode by the timestamps in meta/episodes (`ffmpeg -ss FROM -to TO`), and build those"
    )


def read_info(root: Path) -> dict[str, Any]:
    """Return what a LeRobot data set says of itself; nothing if the folder is none."""
    try:
        info = json.loads((root / ROBOT_INFO).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return info if isinstance(info, dict) else {}


def find_wordnet_ids(paths: Sequence[Path]) -> list[str] | None:
    """Return the WordNet ID in the name of each file, if every one has a single ID and there are several."""
    found = [{*WORDNET.findall(path.stem)} for path in paths]
    if any(len(ids) != 1 for ids in found):
        return None
    ids = [min(single) for single in found]
    return ids if len({*ids}) > 1 else None


def describe_wordnet_ids(paths: Sequence[Path]) -> str | None:
    """Return a sentence if most files, but not all, have a WordNet ID in their names, which would be their classes."""
    plain = [path for path in paths if len({*WORDNET.findall(path.stem)}) != 1]
    if not 0 < len(plain) < len(paths) / 2:
        return None
    return (
        f"no classes, because {plain[0]} has no single WordNet ID in its name, as {len(paths) - len(plain)} of {len(paths)} files "
        "have: move such files elsewhere to have labels, or give them with --labels FILE"
    )


def find_unread_folders(folder: Path, contents: Mapping[Path, Collection[Path]], read: Iterable[Path]) -> list[Path]:
    """Return the highest folders without a file that is read: with other data, or, among several of the first level, empty.

    contents: the files of each folder at any depth. read: the files that are read. Notes are no data, and shards that were built
    beside the images are none of it.
    """
    shards = {place for place, found in contents.items() if place / MANIFEST in found}
    data = (place for place, found in contents.items() if place not in shards and any(map(is_data, found)))
    with_read, with_data = with_above(path.parent for path in read), with_above(data)
    with_any = with_above(place for place, found in contents.items() if found)
    lost = {place for place in with_data - with_read if place.parent in with_read}
    siblings = {place for place in contents if place.parent == folder}
    return sorted(lost | (siblings - with_any if len(siblings & with_read) > 1 else set()))


def is_data(path: Path) -> bool:
    return path.suffix.lower() not in NOTES


def with_above(places: Iterable[Path]) -> set[Path]:
    """Return folders and all folders above them."""
    return {above for place in {*places} for above in (place, *place.parents)}
