"""Rows of lists of labels: CSV, TSV, JSON and text files of published data sets, with or without a header."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.class_names import LINE, means_no_label, read_text, whole_number
from jepa_pipeline.data.sample import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from jepa_pipeline.data.tar_reader import printable

EXPECTED = "a list of files and labels (CSV, TSV, JSON or text)"
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
PART_COLUMNS = ("split", "subset", "partition", "phase", "set", "usage")
CLIP_COLUMNS = ("youtube_id", "time_start", "time_end")
"""Columns of Kinetics, whose clips are files ID_START_END.mp4 with seconds of six digits."""
FILE = re.compile(rf"(.+\.(?:{'|'.join((*IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS))}))(?:\s+(.+))?", re.IGNORECASE)


class Row(NamedTuple):
    """A row of a list. names: of its file, the most exact first; label: "" if it has none; part: train, val, ..., or ""."""

    names: tuple[str, ...]
    label: str
    part: str = ""


def read_rows(path: Path) -> list[Row]:
    """Read a list of files and labels: JSON by its content or suffix, all else as a table.

    Raises:
        UserError: it cannot be read, or has no column of files or of labels.
    """
    text = read_text(path, EXPECTED)
    if not text.strip():
        raise UserError(f"{path} is empty: name {EXPECTED}")
    if path.suffix.lower() in (".json", ".jsonl", ".ndjson") or text.lstrip().startswith(("[", "{")):
        return rows_of_json(path, load_json(path, text))
    cells = split_cells(path, text)
    header = [normalize(cell) for cell in cells[0]]
    if {*header} & {*FILE_COLUMNS, *LABEL_COLUMNS} and not any(FILE.fullmatch(cell) for cell in cells[0]):
        return rows_of_records(path, [dict(zip(header, row, strict=False)) for row in cells[1:]])
    return rows_of_pairs(path, cells)


def split_cells(path: Path, text: str) -> list[list[str]]:
    """Return the cells of the rows of a table whose separator is a tab, comma, semicolon, bar or space, in that order.

    Raises:
        UserError: a quote is not closed, so that one cell would swallow the rows after it.
    """
    lines = [line for line in LINE.split(text) if line.strip()]
    separator = next((mark for mark in "\t,;|" if mark in lines[0]), None)
    if separator is None:
        return [split_spaces(line.strip()) for line in lines]
    reader = csv.reader(StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    rows: list[list[str]] = []
    line = 1  # where the next row begins
    try:
        for row in reader:
            if any(separator in cell and LINE.search(cell) for cell in row):
                raise csv.Error("a cell spans several rows")
            if len(row) > 1 or "".join(row).strip():
                rows.append([cell.strip() for cell in row])
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path} has a stray quote in line {line} ({error}): close it, or put the whole cell in quotes and write each quote "
            "in it twice"
        ) from error
    return rows


def split_spaces(line: str) -> list[str]:
    """Return the path and what follows it: numbers one by one, or a class name as a whole."""
    if (match := FILE.fullmatch(line)) is None:
        return line.split(None, 1)
    rest = (match[2] or "").split()
    return [match[1], *(rest if all(whole_number(cell) is not None for cell in rest) else [match[2]])]


def normalize(column: str) -> str:
    return re.sub(r"[\s\-]+", "_", column.strip().lower())


def load_json(path: Path, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if path.suffix.lower() == ".json":
            raise UserError(f"{path} is not readable JSON ({error}): name {EXPECTED}") from error
    try:
        return [json.loads(line) for line in LINE.split(text) if line.strip()]  # JSON lines
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is neither JSON nor one JSON object per line ({error}): name {EXPECTED}") from error


def rows_of_json(path: Path, values: object) -> list[Row]:
    """Return the rows of a list of objects or pairs, of an object by file, or of one in COCO's form."""
    if isinstance(values, dict):
        values = unwrap(values)
    records = [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
    pairs = [value for value in values if isinstance(value, list)] if isinstance(values, list) else []
    if isinstance(values, list) and values and len(records) == len(values):
        return rows_of_records(path, [{normalize(str(key)): value for key, value in record.items()} for record in records])
    if isinstance(values, list) and values and len(pairs) == len(values):
        return rows_of_pairs(path, pairs)
    raise UserError(
        f"{path} is JSON, but neither a list of objects with a file and a label nor an object of labels by file: name {EXPECTED}"
    )


def unwrap(values: Mapping[str, Any]) -> list[Any]:
    """Return the records or pairs of an object: by file, in COCO's form, or under a key such as "database"."""
    if isinstance(values.get("annotations"), list) and isinstance(values.get("images"), list):
        return list(join_coco(values))
    wrapped = (values.get(name) for name in ("database", "labels", "data", "samples"))
    inner = next((value for value in wrapped if isinstance(value, dict | list)), values)
    if isinstance(inner, list):
        return inner
    if all(isinstance(value, dict) for value in inner.values()):
        return [{"id": name, **flatten(value)} for name, value in inner.items()]
    return [[name, value] for name, value in inner.items()]


def join_coco(values: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """Yield file and category of each annotation, as iNaturalist has them."""
    files = {image.get("id"): image.get("file_name") for image in values["images"]}
    names = {category.get("id"): category.get("name") for category in values.get("categories", [])}
    for annotation in values["annotations"]:
        category = annotation.get("category_id")
        yield {"path": files.get(annotation.get("image_id"), ""), "label": names.get(category, category)}


def flatten(record: Mapping[str, object]) -> dict[str, object]:
    """Return a record with the entries of its annotations, and of a Kinetics segment, beside its own."""
    inner = record.get("annotations")
    inner = inner[0] if isinstance(inner, list) and len(inner) == 1 else inner
    merged = {**record, **(inner if isinstance(inner, dict) else {})}
    match merged.get("segment"):
        case [start, end]:
            return {**merged, "time_start": start, "time_end": end}
    return merged


def rows_of_records(path: Path, records: Sequence[Mapping[str, object]]) -> list[Row]:
    """Return the rows of records with named columns."""
    columns = {column for record in records for column in record}
    file = next((column for column in FILE_COLUMNS if column in columns), None)
    labels = [column for column in LABEL_COLUMNS if column in columns]
    label = choose_column(path, [record for record in records if file and format_name(record.get(file))], labels)
    if file is None or label is None:
        lacking, known = ("files", FILE_COLUMNS) if file is None else ("labels", LABEL_COLUMNS)
        raise UserError(
            f"{path} has the columns {', '.join(map(str, sorted(columns)))}, but none of {lacking}: give it one of the names "
            f"{', '.join(known[:12])}, ..."
        )
    part = next((column for column in PART_COLUMNS if column in columns and column != label), None)
    return [
        Row(
            names, format_label(path, names[0], record.get(label), label == "template"), str(record.get(part) or "") if part else ""
        )
        for record in records
        if (names := file_names(record, file))
    ]


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
    return text.strip()
