"""Lists of labels in files: CSV, TSV, JSON and text of published data sets, with or without a header."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.class_names import LINE, read_text, whole_number
from jepa_pipeline.data.data_parts import part_of
from jepa_pipeline.data.label_rows import (
    FILE,
    FILE_COLUMNS,
    FILE_WORDS,
    LABEL_COLUMNS,
    LABEL_WORDS,
    PART_COLUMNS,
    Row,
    find_column,
    rows_of_pairs,
    rows_of_records,
)
from jepa_pipeline.data.tar_reader import printable

EXPECTED = "a list of files and labels (CSV, TSV, JSON or text)"
KNOWN = {*FILE_COLUMNS, *LABEL_COLUMNS, *PART_COLUMNS}
SEEN_LINES = 1000
"""First lines that decide about the separator where the very first one has none: it is in most of them."""
SEPARATORS = "\t,;|"


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
    return rows_of_table(path, split_cells(path, blank_comments(text)))


def rows_of_table(path: Path, cells: Sequence[Sequence[str]]) -> list[Row]:
    """Return the rows of a table; with a header they are found by its columns.

    Raises:
        UserError: a row has more cells than the header, or the header repeats a name.
    """
    header, rows = [normalize(cell) for cell in cells[0]], cells[1:]
    if not is_header(header, rows):
        return rows_of_pairs(path, cells)
    if twice := next((name for name in header if name and header.count(name) > 1), None):
        raise UserError(f"{path} has two columns with the name {printable(twice)}: rename one of them")
    if long := next((row for row in rows if any(row[len(header) :])), None):
        cells_of = f"the {len(long)} cells {printable(str([*long]))}"
        cure = "name all columns, and put cells with commas in quotes"
        raise UserError(f"{path} has the columns {', '.join(header)}, but a row has {cells_of}: {cure}")
    return rows_of_records(path, [dict(zip(header, row, strict=False)) for row in rows])


def is_header(header: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Return whether the first row names columns: it has a known name, names like those, or, unlike all others, no file."""
    if any(map(FILE.fullmatch, header)):
        return False
    first, second = (names_columns(row) for row in (header, [*map(normalize, rows[0])] if rows else ()))
    known = bool({*FILE_COLUMNS, *LABEL_COLUMNS} & {*header}) or (first and not second)
    return known or (bool(rows) and all(any(map(FILE.fullmatch, row)) for row in rows))


def names_columns(cells: Sequence[str]) -> bool:
    names = [cell for cell in cells if not re.search("[0-9]", cell)]
    return bool(find_column(names, FILE_COLUMNS, FILE_WORDS) and find_column(names, LABEL_COLUMNS, LABEL_WORDS))


def blank_comments(text: str) -> str:
    """Return a table whose comments are empty lines: those that begin with # and name no file, and Excel's `sep=;`.

    The last of those before the first row may be the header.
    """
    lines, quotes, started = LINE.split(text), 0, False
    for number, line in enumerate(lines):
        text = line.strip()
        comment = text.startswith("#") and (text[1:2].isspace() or not FILE.fullmatch(re.split(r"[\t,;|]", text)[0].strip()))
        if not quotes % 2 and (comment or (not number and re.fullmatch(r"sep=.", text))):
            bare = text.lstrip("#").strip()
            lines[number] = bare if not started and names_columns([*map(normalize, re.split(r"[\s,;|]+", bare))]) else ""
        quotes += lines[number].count('"')
        started = started or bool(lines[number].strip())
    return "\n".join(lines)


def split_cells(path: Path, text: str) -> list[list[str]]:
    """Return the cells of the rows of a table whose separator is a tab, comma, semicolon, bar or space, in that order.

    Raises:
        UserError: there is none, or a quote is not closed, so that one cell would swallow the rows after it.
    """
    lines = [line for line in LINE.split(text) if line.strip()]
    if not lines:
        raise UserError(f"{path} has nothing but comments: name {EXPECTED}")
    seen = lines[:SEEN_LINES]
    separator = next((mark for mark in SEPARATORS if mark in lines[0]), None) or next(
        (mark for mark in SEPARATORS if sum(mark in line for line in seen) * 2 > len(seen)), None
    )
    if separator is None:
        return split_spaces(path, [line.strip() for line in lines])
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


def split_spaces(path: Path, lines: Sequence[str]) -> list[list[str]]:
    """Return the path of each line and what follows it: words one by one if they are numbers or a part, or else as a class name.

    Raises:
        UserError: the words of a line do not fit the header.
    """
    found = [match.groups() if (match := FILE.fullmatch(line)) else (*line.split(None, 1), None)[:2] for line in lines]
    rest = [(after or "").split() for _, after in found]
    header = lines[0].split() if lines else []
    if len(header) > 2 and len(KNOWN & {*map(normalize, header)}) > 1 and not FILE.fullmatch(lines[0]):
        if odd := next((line for line, words in zip(lines, rest, strict=True) if len(words) >= len(header)), None):
            raise UserError(
                f"{path} has the columns {', '.join(header)}, but the row {printable(odd)} has more words: separate cells by tabs "
                "or commas"
            )
        return [header, *([name or "", *words] for (name, _), words in zip(found[1:], rest[1:], strict=True))]
    in_parts = all(len(words) > 1 and part_of(words[-1]) for words in rest)
    cells: list[list[str]] = []
    for (name, after), words in zip(found, rest, strict=True):
        numbers = [whole_number(word) is not None for word in words]
        columns = all(numbers) or in_parts or (len(words) > 1 and all(numbers[:-1]) and part_of(words[-1]))
        cells.append([name or "", *(words if columns else [after or ""])])
    return cells


def normalize(column: str) -> str:
    return re.sub(r"[\s\-]+", "_", column.strip().lower())


def load_json(path: Path, text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        if path.suffix.lower() == ".json":
            raise UserError(f"{path} is not readable JSON ({error}): name {EXPECTED}") from error
    try:
        return [json.loads(line, object_pairs_hook=unique_keys) for line in LINE.split(text) if line.strip()]  # JSON lines
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is neither JSON nor one JSON object per line ({error}): name {EXPECTED}") from error


def unique_keys(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """Return an object of a JSON file. Raises ValueError if it repeats a key, of which only the last value would count."""
    if twice := next((name for name, count in Counter(name for name, _ in pairs).items() if count > 1), None):
        raise ValueError(f"an object repeats the key {printable(twice)!r}")
    return dict(pairs)


def rows_of_json(path: Path, values: object) -> list[Row]:
    """Return the rows of a list of objects or pairs, of an object by file, class or part, or of one in COCO's form."""
    if isinstance(values, dict):
        if values and all(part_of(name) and isinstance(value, dict | list) for name, value in values.items()):
            return [row._replace(part=name) for name, value in values.items() if value for row in rows_of_json(path, value)]
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
    """Return the records or pairs of an object: by file, files by class, in COCO's form, or under a key such as "database"."""
    if isinstance(values.get("annotations"), list) and isinstance(values.get("images"), list):
        return list(join_coco(values))
    lists = [*values.values()] if all(isinstance(value, list) for value in values.values()) else []
    files = [name for names in lists for name in names]
    distinct = all(isinstance(name, str) for name in files) and len({*map(str, files)}) == len(files) > len(lists)
    by_class = distinct or any(isinstance(name, str) and FILE.fullmatch(name) for name in files)
    if by_class and not any(map(FILE.fullmatch, values)):
        return [[name, label] for label, names in values.items() for name in names]
    wrapped = (values.get(name) for name in ("database", "labels", "data", "samples"))
    inner = next((value for value in wrapped if isinstance(value, dict | list)), values)
    if isinstance(inner, list):
        return inner
    if all(isinstance(value, dict) for value in inner.values()):
        return [{"id": name, **flatten(value)} for name, value in inner.items()]
    return [[name, value[0] if isinstance(value, list) and len(value) == 1 else value] for name, value in inner.items()]


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
