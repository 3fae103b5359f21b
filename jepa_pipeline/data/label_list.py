"""Labels of a list: which label each row of it gives to a file or sample."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.class_names import compose, count_names, describe_alike
from jepa_pipeline.data.data_parts import part_of
from jepa_pipeline.data.label_rows import Row
from jepa_pipeline.data.label_table import read_rows
from jepa_pipeline.data.sample import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from jepa_pipeline.data.tar_reader import printable

SUFFIXES = {f".{extension}" for extension in (*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS)}

FEWEST_ROWS = 10
"""Rows of which not all have a label of their own, if these are classes."""


class LabelList:
    """The rows of a list, found by the path of a file or the key of a sample.

    A row names a file by its path, by the end of its path, or by its name, each with or without a suffix. A row fits one file.

    Args:
        source: the list, for sentences.
        rows: of the list.
    """

    def __init__(self, source: Path, rows: Iterable[Row]) -> None:
        self.source = source
        self.rows = list(rows)
        self.fitted: dict[int, str] = {}
        """The file that a row was found for."""
        self._above: list[str] = []
        self._siblings: set[str] = set()
        self._folders: Counter[str] = Counter()
        """The number of rows with each folder in their path."""
        self._by_stem: dict[str, list[tuple[int, str, PurePosixPath]]] = defaultdict(list)
        for number, row in enumerate(self.rows):
            for name in row.names:
                path = composed(name.replace("\\", "/"))
                self._by_stem[stem(path)].append((number, name, path))
                self._folders.update({*path.parts[:-1]})

    @property
    def labels(self) -> set[str]:
        """All labels, also of rows that fit no file."""
        return {row.label for row in self.rows if row.label}

    def locate(self, folder: str | Path, tars: Iterable[str] = ()) -> None:
        """Set the folder that all files are in, and the tars: rows of another part or tar fit no file."""
        self._above = [*composed(str(folder)).parts[-2:]]
        self._siblings = {form for tar in tars for part in composed(tar).parts for form in forms(part)}

    def find(self, name: str, place: str = "") -> str | None:
        """Return the label of a file or sample; None if no row fits it, or the row has no label.

        Args:
            name: its path or key.
            place: what tells apart files of the same name, such as the tar they are in.

        Raises:
            UserError: several rows with different labels fit it, or its row fits another file as well.
        """
        path = composed(name)
        above = [*self._above, *composed(place).parts]
        fits = [
            ((*fit, is_end(other, name)), number)
            for number, other, row in self._by_stem.get(stem(path), ())
            if (fit := self._fit(row, path, above))
        ]
        best = max((fit for fit, _ in fits), default=None)
        rows = sorted({number for fit, number in fits if fit == best})
        labels = sorted({self.rows[number].label for number in rows})
        if len(labels) > 1:
            first, second = (printable(label) for label in labels[:2])
            raise UserError(
                f"{self.source} gives {printable(name)} the labels {first!r} and {second!r}: a sample has one, so correct it"
            )
        for number in rows:
            other = self.fitted.setdefault(number, place + name)
            if other != place + name:
                alike = composed(other) == composed(place + name)
                cure = "rename one, as they differ in how accents are stored only" if alike else "write paths that tell them apart"
                raise UserError(
                    f"the row {printable(self.rows[number].names[0])} of {self.source} fits {printable(other)} and "
                    f"{printable(place + name)}: {cure}"
                )
        return labels[0] or None if labels else None

    def _fit(self, row: PurePosixPath, file: PurePosixPath, above: Sequence[str]) -> tuple[bool, int] | None:
        """Return how well a row fits a file, see fit_paths; where the row has more folders, by those above the file too.

        The first of them that differs must not be another tar, another part of the data, or, if only other rows have the
        name of this one, any other folder.
        """
        fit = fit_paths(row, file)
        more = [part for part in row.parts[:-1] if part != "."]
        more = more[: max(len(more) - (len(file.parts) - 1), 0)]
        if fit is None:
            return None
        exact, shared = fit
        is_named = any(0 < self._folders[form] < len(self.rows) for name in above[-1:] for form in forms(name))
        remaining = list(above)
        while more and remaining and more[-1] in forms(remaining[-1]):
            more, remaining, shared, is_named = more[:-1], remaining[:-1], shared + 1, False
        if more and remaining:
            nearest = remaining[-2:] if remaining[-1].endswith(".tar") else remaining[-1:]  # a list may leave out tars
            part = next(filter(None, map(part_of, reversed(nearest))), None)
            if is_named or more[-1] in self._siblings or (part and part_of(more[-1]) not in (None, part)):
                return None
        return exact, shared

    def unfitted(self) -> Iterator[Row]:
        """Yield the rows with a label for which no file was found."""
        yield from (row for number, row in enumerate(self.rows) if row.label and number not in self.fitted)

    def check_parts(self) -> None:
        """Check that the rows in use are of one part of the data.

        Raises:
            UserError: some are of the training set and others of a test set.
        """
        parts = sorted({self.rows[number].part for number in self.fitted if self.rows[number].part})
        if len({part_of(part) for part in parts if part_of(part)}) > 1:
            raise UserError(
                f"{self.source} has rows of {' and '.join(parts)}, which belong in separate data sets: write the rows of each to a "
                "list of its own, and build each by itself"
            )

    def check_fits(self, example: str, location: str) -> None:
        """Raise UserError if no row fits a file; example: one that should have fitted."""
        if not self.fitted:
            row = next((row.names[0] for row in self.rows), "none")
            raise UserError(
                f"no row of {self.source} fits a file of {location}: a row names {printable(row)}, a file is {printable(example)}; "
                "write paths, names or IDs as the files have them"
            )

    def describe_unfitted(self) -> list[str]:
        """Return sentences on the rows without a label or a file, and on the classes of which no row has one."""
        missing = list(self.unfitted())
        unlabeled = [printable(row.names[0]) for row in self.rows if not row.label]
        lines = []
        if unlabeled:
            rows = f"{len(unlabeled)} of {len(self.rows)} rows of {self.source}"
            lines.append(f"{rows} have no label, but nothing or a placeholder such as -1 or NA, such as {unlabeled[0]}")
        lines += describe_alike(sorted(self.labels))
        count = sum(bool(row.label) for row in self.rows)
        if len(self.labels) == count >= FEWEST_ROWS:
            lines.append(
                f"each of {count} rows of {self.source} is a class of its own: see that its labels are in the right column"
            )
        if not missing:
            return lines
        lines.append(
            f"{len(missing)} of {len(self.rows)} rows of {self.source} have no file, such as {printable(missing[0].names[0])}"
        )
        if lost := self.lost_classes():
            lines.append(f"{count_names([*map(printable, lost)], 'class')} of {self.source} with no file at all")
        return lines

    def lost_classes(self) -> list[str]:
        """Return the labels of which no row fits a file."""
        return sorted(self.labels - {self.rows[number].label for number in self.fitted})


def read_label_list(path: Path) -> LabelList:
    """Read a list of labels; see read_rows.

    Raises:
        UserError: it cannot be read, or has no column of files or of labels.
    """
    rows = read_rows(path)
    if not any(row.label for row in rows):
        raise UserError(f"{path} gives no file a label: name a list with a label for each file")
    return LabelList(path, rows)


def hash_labels(keys_and_labels: Iterable[tuple[str, int | None]]) -> str:
    """Return the SHA-256 of the labels of samples."""
    digest = hashlib.sha256()
    for pair in keys_and_labels:
        digest.update(json.dumps(pair).encode() + b"\n")
    return digest.hexdigest()


def composed(path: str) -> PurePosixPath:
    """Return a path with composed accents (NFC): macOS stores them apart from their letters, and lists come from elsewhere."""
    return PurePosixPath(compose(path))


def is_end(row: str, name: str) -> bool:
    """Return whether the last part of a row is stored as that of a file, up to its suffix."""
    return row == name or stem(PurePosixPath(row.replace("\\", "/"))) == stem(PurePosixPath(name))


def forms(name: str) -> tuple[str, ...]:
    """Return the names that a list may have for a folder or tar."""
    return name, name.removesuffix(".tar")


def stem(path: PurePosixPath) -> str:
    """Return the last part of a path without the suffix of an image or video; other dots belong to the name."""
    return path.stem if path.suffix.lower() in SUFFIXES else path.name


def fit_paths(row: PurePosixPath, file: PurePosixPath) -> tuple[bool, int] | None:
    """Return how well the path of a row fits that of a file of the same stem: better with its suffix, and with more folders.

    One of the two must be the end of the other: lists and folders often begin at different levels.
    """
    first, second = ([part for part in path.parts[:-1] if part != "."] for path in (row, file))
    shared = min(len(first), len(second))
    if shared and first[-shared:] != second[-shared:]:
        return None
    suffixes = [suffix if suffix in SUFFIXES else "" for suffix in (row.suffix.lower(), file.suffix.lower())]
    return suffixes[0] in ("", suffixes[1]) or suffixes[1] == "", shared
