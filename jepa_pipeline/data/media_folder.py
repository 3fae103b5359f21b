"""The images or videos of a folder, their classes, and their split into train and test."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.modality import DataKind
from jepa_pipeline.data.class_names import compose, count_names, describe_alike, number_classes
from jepa_pipeline.data.data_parts import are_pieces, find_parts
from jepa_pipeline.data.folder_layout import (
    check_episodes,
    check_parts,
    check_pieces,
    describe_wordnet_ids,
    find_unread_folders,
    find_wordnet_ids,
    subfolders,
    with_above,
)
from jepa_pipeline.data.label_list import LabelList
from jepa_pipeline.data.manifest import Skipped
from jepa_pipeline.data.recordings import describe_recordings, group_files
from jepa_pipeline.data.sample import ARRAY, IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from jepa_pipeline.data.tar_reader import printable

IMAGE_SUFFIXES = {f".{extension}" for extension in IMAGE_EXTENSIONS}
VIDEO_SUFFIXES = {f".{extension}" for extension in VIDEO_EXTENSIONS}
PRINTED_SUFFIXES = 8
"""Most frequent suffixes of other files that are printed."""


class MediaFile(NamedTuple):
    """An image or video file, its label, and the recording that it is a part of."""

    path: Path
    label: int | None
    group: str | None = None

    @property
    def kind(self) -> DataKind:
        return "videos" if self.path.suffix.lower() in VIDEO_SUFFIXES else "images"


class Labeling(NamedTuple):
    """A choice of labels for the files of a folder. labels: a list of them; names: of the classes, in order; without: no labels."""

    labels: LabelList | None = None
    names: tuple[str, ...] | None = None
    without: bool = False


BY_FOLDER = Labeling()


class FolderListing(NamedTuple):
    """All images or all videos of a folder sorted by name.

    files: labeled if there are classes. others: the number of other files by suffix. skipped: files and rows of a list of labels
    without the other. notes: sentences on the labels. lost: classes of a list without a file. recordings: sentences on what a
    split does with them.
    """

    files: list[MediaFile]
    classes: tuple[str, ...] | None
    others: Counter[str]
    skipped: list[Skipped]
    notes: list[str]
    lost: list[str]
    recordings: Sequence[str] = ()


def list_media(folder: Path, labeling: Labeling = BY_FOLDER) -> FolderListing:
    """List the images or videos of a folder at any depth.

    First-level folders are classes if there are several and no file is beside them.

    Raises:
        UserError: there are neither, or both; first-level folders are parts of a data set; labels do not fit the files.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name the folder that holds the images or videos")
    contents = dict(walk(folder))
    found = sorted(chain.from_iterable(contents.values()))
    paths = [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
    paths = [path for path in paths if path.suffix.lower() != f".{ARRAY}"] or paths
    unread = sorted({*found} - {*paths})
    others = Counter(path.suffix.lower() for path in unread)
    if not paths:
        instead = f", but {describe_suffixes(others)}" if others else ""
        images, videos = (", ".join(sorted(suffixes)) for suffixes in (IMAGE_SUFFIXES, VIDEO_SUFFIXES))
        raise UserError(
            f"{folder} has no {images} and no {videos} file at any depth{instead}: name the folder that holds the images or videos"
        )
    check_same_kind(paths, folder)
    names = [to_utf8(path.relative_to(folder).as_posix()) for path in paths]
    robot = check_episodes(folder, names)
    empty = find_unread_folders(folder, contents, paths)
    if labeling.labels:
        listing = label_by_list(folder, paths, names, labeling)
    else:
        filled = with_above(path.parent for path in unread)
        lost = [place.name for place in empty if place.parent == folder and place in filled]
        listing = label_by_folder(folder, paths, labeling, robot, lost)
    parents = [file.path.relative_to(folder).parts[:-1] for file in listing.files]
    if not labeling.without and not robot:
        check_parts(folder, subfolders(parents), f" --labels {labeling.labels.source}" if labeling.labels else "")
    names = [to_utf8(file.path.relative_to(folder).as_posix()) for file in listing.files]
    classes = listing.classes is not None and not labeling.labels and all(parents)
    groups = group_files(names, robot, classes)
    files = [file._replace(group=group) for file, group in zip(listing.files, groups, strict=True)]
    notes = [f"{count_names([*map(printable, map(to_utf8, map(str, empty)))], 'folder')} without a file of a format that is read"]
    recordings = [*describe_recordings(names, groups, classes)]
    return listing._replace(files=files, others=others, notes=[*listing.notes, *(notes if empty else [])], recordings=recordings)


def label_by_folder(folder: Path, paths: list[Path], labeling: Labeling, robot: bool, unread: Sequence[str] = ()) -> FolderListing:
    """Return files labeled by their first-level folders, by the WordNet IDs in their names if there are none, or not at all.

    unread: first-level folders without a file that is read, which are classes that are lost.

    Raises:
        UserError: first-level folders are pieces of a data set, two have the same name, or one has no name among those given.
    """
    parents = [path.relative_to(folder).parts[:-1] for path in paths]
    inner = {folders[0] for folders in parents if folders}
    tops = sorted({*inner, *unread} if inner else ())
    lost: list[str] = []
    notes: list[str] = []
    labels: list[str] | None = None
    if labeling.without or robot:
        notes.append("no classes, because " + ("its videos are a robot's episodes" if robot else "labels are not wanted"))
    elif len(tops) > 1 and all(parents):
        if not find_parts(tops):
            check_pieces(folder, tops)
        check_names(folder, tops)
        labels = [compose(to_utf8(folders[0])) for folders in parents]
        lost = [compose(to_utf8(name)) for name in unread]
        notes += describe_alike(sorted({*labels, *lost}))
    elif not tops and (labels := find_wordnet_ids(paths)):
        notes.append("classes are the WordNet IDs in the names of the files")
    elif not tops and (mixed := describe_wordnet_ids(paths)):
        notes.append(mixed)
    elif not all(parents) and tops:
        beside = next(path for path, folders in zip(paths, parents, strict=True) if not folders)
        notes.append(f"no classes, because {beside} is beside the folders: move such files into one of them to have labels")
    else:
        notes.extend(describe_nested(folder, parents))
    if labels is None and labeling.names:
        reason = "; ".join(notes) or f"{folder} has no class folders"
        raise UserError(f"--classes names {len(labeling.names)} classes, but {reason}: add --labels FILE, or leave --classes out")
    if labels is None:
        return FolderListing([MediaFile(path, None) for path in paths], None, Counter(), [], notes, [])
    classes, numbers = number_classes({*labels, *lost}, labeling.names, str(folder))
    if empty := [name for name in classes.names if name not in {*labels, *lost}]:
        notes.append(f"no folder has the name of {count_names(empty, 'class')} that --classes names")
    files = [MediaFile(path, numbers[label]) for path, label in zip(paths, labels, strict=True)]
    return FolderListing(files, classes.names, Counter(), [], notes, lost)


def describe_nested(folder: Path, parents: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Yield a sentence if all files are in one folder, which is not a class beside others."""
    tree, above = subfolders(parents), ()
    while len(tree.get(above, ())) == 1:
        above = (*above, *tree[above])
    inner, names = folder.joinpath(*above), tree.get(above, set())
    if len(names) > 1 and not are_pieces(names):
        yield f"no classes, because {folder} has one folder: build {inner} to make its {len(names)} folders classes"
    elif above:
        yield f"no classes, because {folder} has one folder, {above[0]}, and classes are two folders or more"


def check_names(folder: Path, tops: Sequence[str]) -> None:
    """Raise UserError if two folders have names that look the same: composed differently, as macOS does, or with a space."""
    shown: dict[str, str] = {}
    for top in tops:
        first = shown.setdefault(compose(to_utf8(top)).strip(), top)
        if first != top:
            raise UserError(f"{folder} has two folders with the name {to_utf8(top)!r} in different spellings: move them into one")


def label_by_list(folder: Path, paths: list[Path], names: list[str], labeling: Labeling) -> FolderListing:
    """Return the files that a list gives a label, and the others and the rows without a file as skipped.

    Raises:
        UserError: the list does not fit the files or the names of classes, or has rows of several parts of the data.
    """
    labels = labeling.labels
    assert labels is not None
    labels.locate(folder.resolve())
    found = [labels.find(name) for name in names]
    labels.check_fits(names[0], str(folder))
    labels.check_parts()
    classes, numbers = number_classes(labels.labels, labeling.names, str(labels.source))
    files = [MediaFile(path, numbers[label]) for path, label in zip(paths, found, strict=True) if label is not None]
    unlisted = [name for name, label in zip(names, found, strict=True) if label is None]
    skipped = [Skipped(file=name, reason=f"{labels.source.name} has no label for it") for name in unlisted]
    missing = [row.names[0] for row in labels.unfitted()]
    skipped += [Skipped(file=to_utf8(name), reason=f"{labels.source.name} names it, but there is no such file") for name in missing]
    notes = labels.describe_unfitted()
    if unlisted:
        notes.append(
            f"{len(unlisted)} of {len(paths)} files have no label in {labels.source}, such as {unlisted[0]}: they are skipped"
        )
    lost = labels.lost_classes()
    return FolderListing(files, classes.names, Counter(), skipped, notes, lost)


def describe_suffixes(files: Counter[str]) -> str:
    """Return the number of files by suffix in words, the most frequent first."""
    common = [f"{count} {to_utf8(suffix) or 'without a suffix'}" for suffix, count in files.most_common(PRINTED_SUFFIXES)]
    rest = files.total() - sum(count for _, count in files.most_common(PRINTED_SUFFIXES))
    return ", ".join([*common, f"{rest} more"] if rest else common)


def check_same_kind(paths: Sequence[Path], folder: Path) -> None:
    files = [MediaFile(path, None) for path in paths]
    examples = {file.kind: file.path.relative_to(folder) for file in files}
    if len(examples) > 1:
        counts = Counter(file.kind for file in files)
        raise UserError(
            f"{folder} holds {counts['images']} images, such as {examples['images']}, and {counts['videos']} videos, such as "
            f"{examples['videos']}: move them into two folders, build those separately, and mix them in data.train"
        )


def walk(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Yield every folder at any depth with its files, except hidden ones, such as those of macOS beside files on foreign disks.

    Raises:
        UserError: a folder cannot be read.
    """
    for root, folders, files in os.walk(folder, followlinks=True, onerror=refuse_unreadable):
        parent = Path(root)
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX")) and not leads_above(parent, name)]
        yield parent, [parent / name for name in files if not name.startswith(".")]


def refuse_unreadable(error: OSError) -> None:
    raise UserError(
        f"{error.filename} cannot be read ({error.strerror}), so that its files would be missing: allow reading it, or move it away"
    ) from error


def leads_above(folder: Path, name: str) -> bool:
    """Return whether a subfolder is a link to a folder that contains it, which would be walked for ever."""
    return folder.resolve().is_relative_to((folder / name).resolve())


def split_files(files: Sequence[MediaFile], split: float, seed: int) -> dict[str, list[MediaFile]]:
    """Return the shuffled files by part: `split` of every class in "test" and the rest in "train", or all in "" without a split.

    All files of a recording are in the same part; where there are recordings, `split` is the share of those.

    Raises:
        UserError: a part would be empty.
    """
    shuffled = [files[index] for index in np.random.default_rng(seed).permutation(len(files))]
    if not split:
        return {"": shuffled}
    units = {file.group or file.path: file.label for file in reversed(shuffled)}  # the first of each, which is the last written
    left = {label: round(count * split) for label, count in Counter(units.values()).items()}
    part_of_unit: dict[str | Path, str] = {}
    parts: dict[str, list[MediaFile]] = {"train": [], "test": []}
    for file in shuffled:
        unit = file.group or file.path
        if unit not in part_of_unit:
            part_of_unit[unit] = "test" if left[units[unit]] > 0 else "train"
            left[units[unit]] -= 1
        parts[part_of_unit[unit]].append(file)
    check_parts_filled(parts, units, split)
    return parts


def check_parts_filled(parts: Mapping[str, Sequence[MediaFile]], units: Mapping[str | Path, int | None], split: float) -> None:
    recordings = any(isinstance(unit, str) for unit in units)
    for part, selected in parts.items():
        if not selected:
            single = recordings and max(Counter(units.values()).values()) == 1
            cure = "build each part by itself, or rename what is not a recording" if single else "choose another share"
            of = f"{len(units)} recordings, such as {next(iter(units))}," if recordings else f"{len(units)} files"
            raise UserError(f"split {split:g} of {of} leaves none for {part}: {cure}")


def to_utf8(name: str) -> str:
    """Return a file name as text that JSON can hold, escaped where its bytes are not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()
