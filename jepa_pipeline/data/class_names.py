"""Class names and labels as people store them: text of any usual encoding, numbers in any usual form."""

import codecs
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jepa_pipeline.config.errors import UserError

LINE = re.compile(r"\r\n|\r|\n")
WHOLE = re.compile(r"([+-]?[0-9]{1,18})(?:\.0*)?")
QUOTES = "\"'"
NO_LABEL = ("", "na", "n/a", "nan", "null", "?")
ONE_PER_LINE = "each line is the name of a class, the first that of label 0"
PRINTED_NAMES = 3
"""Names that a sentence lists."""


class Classes(NamedTuple):
    """The names of a data set's classes, and the label of each."""

    names: tuple[str, ...]
    numbers: Mapping[str, int]

    @classmethod
    def of(cls, names: Iterable[str]) -> "Classes":
        """Return the classes of names, numbered from 0; of equal names the first counts."""
        ordered = tuple(names)
        return cls(ordered, {name: number for number, name in reversed(list(enumerate(ordered)))})


def decode_text(data: bytes, errors: str = "strict") -> str:
    """Return text without its byte order mark: UTF-8, or UTF-16 with a mark, as Windows tools write it.

    Raises:
        ValueError: it is neither.
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig", errors)


def read_text(path: Path, expected: str) -> str:
    """Return the text of a file; expected: a description of what it should hold, for the error.

    Raises:
        UserError: it cannot be read, or is not text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read as text ({error}): name {expected}") from error
    try:
        text = decode_text(data)
    except UnicodeError as error:
        line = 1 + data.count(b"\n", 0, getattr(error, "start", 0))
        raise UserError(
            f"{path} cannot be read as text, because its line {line} is not UTF-8: save it as UTF-8 text, or name {expected}"
        ) from error
    if "\0" in text:
        reason = "it has zero bytes, as UTF-16 and UTF-32 do"
        raise UserError(f"{path} cannot be read as text, because {reason}: save it as UTF-8 text, or name {expected}")
    return text


def whole_number(value: object) -> int | None:
    """Return a label in any form of a whole number (7, 7.0, "7", "7.0", [7], with quotes or spaces), None for anything else."""
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    match = WHOLE.fullmatch(unquote(value)) if isinstance(value, str) else None
    return int(match[1]) if match else None


def find_label(value: object, classes: Classes | None) -> int | None:
    """Return the label that a stored value means: a whole number, or the name of a class."""
    number = whole_number(value)
    if number is None and classes and isinstance(value, str):
        return classes.numbers.get(compose(unquote(value)))
    return number


def compose(name: str) -> str:
    """Return a name with composed accents (NFC), as which names that look the same are the same."""
    return unicodedata.normalize("NFC", name)


def means_no_label(text: str) -> bool:
    """Return whether a label is empty or a usual placeholder, such as -1 or NA, for one that is not known."""
    return whole_number(text) == -1 or unquote(text).lower() in NO_LABEL


def unquote(text: str) -> str:
    """Return text without spaces and one pair of quotes around it."""
    text = text.strip()
    paired = len(text) > 1 and text[0] == text[-1] and text[0] in QUOTES
    return text[1:-1].strip() if paired else text


def read_classes(path: Path) -> tuple[str, ...]:
    """Return the class names of a file: one per line, a JSON list, or a JSON object of names and numbers from 0.

    Raises:
        UserError: it cannot be read, has an empty line, a name twice, a number without a name, or all names on one line.
    """
    text = read_text(path, "a file with one class name per line")
    values = parse_json(path, text)
    names = tuple(map(compose, split_lines(path, text) if values is None else names_of_json(path, values)))
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        first, second = [number for number, name in enumerate(names) if name == twice][:2]
        raise UserError(f"{path} gives the labels {first} and {second} the same name, {twice!r}: give each class its own name")
    return names


def parse_json(path: Path, text: str) -> object:
    """Return the content of a JSON file, None if it is not JSON.

    Raises:
        UserError: its name ends in .json, but it cannot be read.
    """
    if path.suffix.lower() != ".json" and not text.lstrip().startswith(("[", "{")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if path.suffix.lower() != ".json":
            return None
        raise UserError(f"{path} is not readable JSON ({error}): repair it, or name another file") from error


def split_lines(path: Path, text: str) -> tuple[str, ...]:
    lines = [line.strip() for line in LINE.split(text.rstrip())]
    if not all(lines):
        raise UserError(f"{path} is empty or has an empty line: {ONE_PER_LINE}")
    if len(lines) == 1 and re.search("[,;\t]", lines[0]):
        raise UserError(f"{path} has a single line, {lines[0][:80]!r}: {ONE_PER_LINE}")
    quoted = all(unquote(line) != line for line in lines)
    return tuple(unquote(line) if quoted else line for line in lines)


def names_of_json(path: Path, values: object) -> tuple[str, ...]:
    if isinstance(values, list) and values and all(isinstance(name, str) and name.strip() for name in values):
        return tuple(name.strip() for name in values)
    pairs = numbered_names(values) if isinstance(values, dict) else {}
    if not pairs:
        raise UserError(
            f"{path} is JSON, but neither a list of class names nor an object of names and numbers: write {{'cat': 0, ...}}"
        )
    if missing := set(range(len(pairs))) - pairs.keys():
        raise UserError(f"{path} has {len(pairs)} names but none for label {min(missing)}: number them from 0 without a gap")
    return tuple(pairs[number] for number in range(len(pairs)))


def numbered_names(values: Mapping[str, object]) -> dict[int, str]:
    """Return the names by number of an object {number: name} or {name: number}; none if it is neither or repeats a number."""
    for pairs in ([*values.items()], [(number, name) for name, number in values.items()]):
        numbers = [(whole_number(number), name) for number, name in pairs]
        named = {number: name.strip() for number, name in numbers if number is not None and isinstance(name, str)}
        if len(named) == len(values):
            return named
    return {}


def number_classes(labels: Collection[str], names: Sequence[str] | None, source: str) -> tuple[Classes, dict[str, int]]:
    """Return the classes of some labels, as texts, and the number of each label.

    Without names the labels themselves are the names, sorted; numbers by value. With names a label is a name or a number.

    Args:
        labels: each once.
        names: of all classes, if they are given.
        source: of the labels, for errors.

    Raises:
        UserError: a label is not a class.
    """
    if names is None:
        numeric = all(label.isascii() and label.isdigit() for label in labels)
        classes = Classes.of(sorted(labels, key=lambda label: (int(label) if numeric else 0, label)))
        return classes, {label: classes.numbers[label] for label in labels}
    classes = Classes.of(names)
    numbers = {label: classes.numbers.get(label, whole_number(label)) for label in labels}
    if unknown := sorted(label for label, number in numbers.items() if number is None):
        raise UserError(
            f"{source} has {count_names(unknown, 'class')} that the names given lack: add a line for each of them, or correct them"
        )
    found = {label: number for label, number in numbers.items() if number is not None}
    check_range(found.values(), len(names), source)
    return classes, found


def check_range(labels: Collection[int], names: int, source: str) -> None:
    """Check that labels are below the number of names: else a line is missing, and the names of others may be wrong too.

    Raises:
        UserError: one is not.
    """
    largest = max(labels, default=0)
    if largest < names and min(labels, default=0) >= 0:
        return
    if largest == names and min(labels) > 0:
        raise UserError(
            f"the labels of {source} begin at 1 and end at {largest}, but labels count from 0, so that the first of {names} names "
            "would be that of label 0: put a line for label 0, such as `none`, before the first name"
        )
    wrong = largest if largest >= names else min(labels)
    raise UserError(
        f"{source} has the label {wrong}, but {names} names are those of the labels 0 to {names - 1}: name every label, where "
        f"{ONE_PER_LINE}"
    )


def describe_alike(names: Iterable[str]) -> list[str]:
    """Return a sentence if the names of two classes differ in capital letters or spaces only."""
    shown: dict[str, str] = {}
    for name in names:
        first = shown.setdefault(" ".join(name.split()).casefold(), name)
        if first != name:
            return [f"the classes {first!r} and {name!r} differ in capital letters or spaces only: see that they are two"]
    return []


def count_names(names: Sequence[str], noun: str) -> str:
    """Return the number of names with the first few, such as "5 classes (cat, dog, fox, ...)"."""
    plural = noun if len(names) == 1 else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    more = ", ..." if len(names) > PRINTED_NAMES else ""
    return f"{len(names)} {plural} ({', '.join(names[:PRINTED_NAMES])}{more})"
