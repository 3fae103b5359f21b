"""A table of many runs, printed and as files: Markdown for people, CSV and JSON for programs."""

import csv
import json
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jepa_pipeline.files import atomic_write

NOTHING = "–"
WIDEST = 10_000
"""Characters of a line that nobody wraps."""


class Sheet(NamedTuple):
    """Cells as they are read, a row after the other. best: the (row, column) of those that stand out."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: frozenset[tuple[int, int]] = frozenset()


def best_cells(values: Sequence[Sequence[float | None]], first: int) -> frozenset[tuple[int, int]]:
    """The places of each column's largest values, which are equal; the first column has the number `first`."""
    best = set()
    for column, numbers in enumerate(zip(*values, strict=True)):
        top = max((number for number in numbers if number is not None), default=None)
        best |= {(row, first + column) for row, number in enumerate(numbers) if number is not None and number == top}
    return frozenset(best)


def markdown(sheet: Sheet) -> str:
    """The sheet as a Markdown table, the best in bold."""
    cells = [[f"**{text}**" if (r, c) in sheet.best else text for c, text in enumerate(row)] for r, row in enumerate(sheet.rows)]
    lines = [sheet.header, ["---"] * len(sheet.header), *cells]
    return "\n".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |" for line in lines)


def print_sheet(sheet: Sheet, title: str | None = None) -> None:
    """Print a sheet, the best in bold; into a file or pipe as wide as it is, in a terminal as wide as that."""
    table = Table(title=title, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.padding = (0, 0, 0, 1)
    for number, name in enumerate(sheet.header):
        table.add_column(Text(name), justify="left" if number == 0 else "right", no_wrap=number == 0)
    for r, row in enumerate(sheet.rows):
        table.add_row(*(Text(text, "bold" if (r, c) in sheet.best else "") for c, text in enumerate(row)))
    console = Console()
    if not console.is_terminal:
        wide = console.measure(table, options=console.options.update(width=WIDEST)).maximum
        console = Console(width=max(console.width, wide))
    console.print(table)


def write_sheet(
    prefix: Path, sheet: Sheet, records: Sequence[Mapping[str, Any]], document: Any, notes: Sequence[str] = ()
) -> list[Path]:
    """Write PREFIX.md with notes below, the records with all their keys as PREFIX.csv, the document as PREFIX.json; the paths."""
    keys, stream = list(dict.fromkeys(key for record in records for key in record)), StringIO()
    writer = csv.DictWriter(stream, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    texts = {
        "md": "\n\n".join([markdown(sheet), *notes]) + "\n",
        "csv": stream.getvalue(),
        "json": json.dumps(document, indent=1) + "\n",
    }
    paths = {kind: Path(f"{prefix}.{kind}") for kind in texts}
    prefix.parent.mkdir(parents=True, exist_ok=True)
    for kind, text in texts.items():
        atomic_write(paths[kind], text)
    return list(paths.values())
