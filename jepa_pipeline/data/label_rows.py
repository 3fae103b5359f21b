"""Rows of a list of labels: the file and the label of each, found by the names of columns or by what is in them."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.class_names import compose, means_no_label, whole_number
from jepa_pipeline.data.sample import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from jepa_pipeline.data.tar_reader import printable

FILE_COLUMNS = (
    *("path", "file_path", "filepath", "relative_path", "image_path", "img_path", "video_path", "clip_path"),
    *("file", "file_name", "filename", "image_name", "video_name", "vid_name", "image", "img", "video", "clip", "src"),
    *("name", "youtube_id", "video_id", "image_id", "clip_id", "sample_id", "key", "id"),
)
"""Columns that name a file, the first that a list has."""
LABEL_COLUMNS = (
    *("class_name", "label_name", "category_name", "template", "label", "labels", "class", "category", "target"),
    *("species", "action", "synset", "wnid", "class_id", "class_idx", "class_index", "label_id", "category_id", "cls", "y"),
)
"""Columns that hold a label, the first that a list has: names before numbers; Something-Something's template before its text."""
FLAG_COLUMN = re.compile(r"(?:is_)?(train|test|val)(?:ing)?(?:_(?:image|set))?")
"""Columns that say by 1 and 0, or true and false, whether a row is of a part, as CUB-200's is_training_image."""
FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
PART_COLUMNS = ("split", "subset", "partition", "phase", "set", "usage")
CLIP_COLUMNS = ("youtube_id", "time_start", "time_end")
"""Columns of Kinetics, whose clips are files ID_START_END.mp4 with seconds of six digits."""
FILE_WORDS = ("file", "files", "filename", "filepath", "path", "image", "img", "video", "clip")
LABEL_WORDS = ("label", "class", "category", "target", "species", "synset", "wnid")
"""Words of columns that are none of those known, such as image_file and class_label."""
FILE = re.compile(rf"(.+\.(?:{'|'.join((*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS))}))(?:\s+(.+))?", re.IGNORECASE)


class Row(NamedTuple):
    """A row of a list. names: of its file, the most exact first; label: "" if it has none; part: train, val, ..., or ""."""

    names: tuple[str, ...]
    label: str
    part: str = ""


def rows_of_records(path: Path, records: Sequence[Mapping[str, object]]) -> list[Row]:
    """Return the rows of records with named columns."""
    columns = {column for record in records for column in record}
    file = find_column(columns, FILE_COLUMNS, FILE_WORDS) or find_files(records)
    labels = [column for column in LABEL_COLUMNS if column in columns] or [
        *filter(None, [find_column(columns - {str(file)}, LABEL_COLUMNS, LABEL_WORDS)])
    ]
    label = choose_column(path, [record for record in records if file and format_name(record.get(file))], labels)
    if file is None or label is None:
        lacking, known = ("files", FILE_COLUMNS) if file is None else ("labels", LABEL_COLUMNS)
        raise UserError(
            f"{path} has the columns {', '.join(map(str, sorted(columns)))}, but none of {lacking}: give it one of the names "
            f"{', '.join(known[:12])}, ..."
        )
    return [
        Row(names, format_label(path, names[0], record.get(label), label == "template"), find_part(record, {file, label}))
        for record in records
        if (names := file_names(record, file))
    ]


def find_part(record: Mapping[str, object], others: Collection[str]) -> str:
    """Return the part that a record says it is of, "" if it says nothing. others: columns that mean something else."""
    columns = [column for column in record if column not in others]
    if named := next((column for column in PART_COLUMNS if column in columns), None):
        return str(record[named] or "")
    for column in columns:
        flag, value = FLAG_COLUMN.fullmatch(column), FLAGS.get(str(record[column]).lower().removesuffix(".0"))
        if flag and value is not None:
            return flag[1] if value else ("test" if flag[1] == "train" else "train")
    return ""


def find_column(columns: Collection[str], known: Sequence[str], words: Collection[str]) -> str | None:
    """Return the first known column that a list has, or else the only one with one of some words in its name."""
    alike = [column for column in columns if {*re.findall("[a-z]+", column)} & {*words}]
    return next((column for column in known if column in columns), alike[0] if len(alike) == 1 else None)


def find_files(records: Sequence[Mapping[str, object]]) -> str | None:
    """Return the only column with nothing but files in it."""
    columns = [*records[0]] if records else []
    found = [column for column in columns if all(FILE.fullmatch(format_name(record.get(column))) for record in records)]
    return found[0] if len(found) == 1 else None


def choose_column(path: Path, records: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str | None:
    """Return the first column of labels, of which none is missing where another column has one.

    Raises:
        UserError: several have labels, but each lacks some that another has.
    """
    filled = {column: {number for number, record in enumerate(records) if means_label(record.get(column))} for column in columns}
    labeled = {number for numbers in filled.values() for number in numbers}
    if not labeled or len(columns) < 2:
        return next(iter(columns), None)
    if (complete := next((column for column in columns if filled[column] == labeled), None)) is not None:
        return complete
    lacking = labeled - filled[columns[0]]
    example = printable(str([*records[min(lacking)].values()]))[:80]
    raise UserError(
        f"{path} has labels in the columns {', '.join(columns)}, but none in all rows: {columns[0]} has none in {len(lacking)} "
        f"rows, such as {example}: complete one of these columns, or remove the others"
    )


def file_names(record: Mapping[str, object], column: str) -> tuple[str, ...]:
    """Return the names that a record's file may have; of Kinetics, that of the clip and that of the whole video."""
    name = format_name(record.get(column))
    times = [whole_number(as_number(record.get(time))) for time in CLIP_COLUMNS[1:]]
    if not name or column not in ("youtube_id", "id", "video_id") or None in times:
        return (name,) if name else ()
    start, end = times
    return f"{name}_{start:06d}_{end:06d}", name


def as_number(value: object) -> object:
    """Return seconds such as 12.0, "12.0" or 12.5 without their fraction."""
    try:
        return int(float(str(value)))
    except (ValueError, OverflowError):
        return None


def rows_of_pairs(path: Path, cells: Iterable[Sequence[object]]) -> list[Row]:
    """Return the rows of a table without a header: a path and, last, a label; or a label and, last, a path."""
    table = [[cell for cell in row] for row in cells if any(cell not in ("", None) for cell in row)]
    short = next((row for row in table if len(row) < 2), None)
    if short is not None:
        example = str(short[0])[:80] if short else ""
        raise UserError(f"{path} has the row {example!r} without a label: each row has a file and a label")
    paths = [sum(FILE.fullmatch(str(row[place])) is not None for row in table) for place in (0, -1)]
    file, label = (0, -1) if paths[0] >= paths[1] else (-1, 0)
    others = ((row, row[1:] if file == 0 else row[:-1]) for row in table if len(row) > 2)
    mixed = next((row for row, rest in others if any(whole_number(cell) is None for cell in rest)), None)
    if mixed is not None:
        raise UserError(
            f"{path} has no header, so that any of the {len(mixed)} columns of {printable(str(mixed))[:80]} could be the label: "
            "add a header such as path,label,split"
        )
    return [Row((name,), format_label(path, name, row[label])) for row in table if (name := format_name(row[file]))]


def format_name(value: object) -> str:
    return "" if value is None else str(value).strip()


def means_label(value: object) -> bool:
    return isinstance(value, list | dict) or (value is not None and value == value and not means_no_label(str(value)))


def format_label(path: Path, name: str, value: object, template: bool = False) -> str:
    """Return a label as text: a whole number without a fraction, a template of Something-Something as in its list of classes.

    It is "" if the label is not known.

    Raises:
        UserError: it is several labels, or an object.
    """
    if not means_label(value):
        return ""
    number = whole_number(value)
    if number is not None:
        return str(number)
    if isinstance(value, list | dict):
        raise UserError(f"{path} gives {name[:80]} the label {str(value)[:80]}: a sample has one label, a name or a number")
    text = re.sub(r"[\[\]]", "", str(value)) if template else str(value)
    return compose(text.strip())
