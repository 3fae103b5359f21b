"""The one maker of tables: the same rows on the console and as Markdown, CSV and JSON."""

import csv
import json
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from jepa_pipeline.files import atomic_write

EMPTY = "–"
UNWRAPPED = 10_000
"""Width of a console on which no table wraps."""


class Cell(NamedTuple):
    """A cell: its text, its keys and values in the CSV file, and a score, the highest of which in a column is bold."""

    text: str = EMPTY
    record: Mapping[str, Any] = {}
    score: float | None = None


class Table(NamedTuple):
    """A table: names of the columns, and rows of cells. Columns named in `csv_only` are only in the CSV file."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    csv_only: frozenset[str] = frozenset()

    def texts(self) -> tuple[list[str], list[list[tuple[str, bool]]]]:
        """Return the header and rows of (text, whether it is bold) of the columns that people read."""
        shown = [number for number, name in enumerate(self.header) if name not in self.csv_only]
        best = [max((row[number].score or 0.0 for row in self.rows), default=0.0) for number in range(len(self.header))]
        rows = [[(row[number].text, row[number].score is not None and row[number].score == best[number]) for number in shown]
                for row in self.rows]  # fmt: skip
        return [self.header[number] for number in shown], rows

    def records(self) -> list[dict[str, Any]]:
        """Return the rows of the CSV file."""
        return [{key: value for cell in row for key, value in cell.record.items()} for row in self.rows]


def new_table(title: str | None = None, caption: str | None = None) -> RichTable:
    """Return an empty table without borders and with single gaps, so that many columns fit a terminal."""
    table = RichTable(title=title, caption=caption, box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.padding = (0, 0, 0, 1)
    return table


def print_table(table: Table, title: str | None = None, left: bool = False) -> None:
    """Print a table, the best of each column in bold; in a file or pipe no row wraps, in a terminal they may.

    Args:
        table: the table.
        title: printed above it.
        left: align all columns at the left, and not only the first.
    """
    header, rows = table.texts()
    printed = new_table(title)
    for number, name in enumerate(header):
        printed.add_column(Text(name), justify="left" if left or number == 0 else "right", no_wrap=number == 0)
    for row in rows:
        printed.add_row(*(Text(text, "bold" if best else "") for text, best in row))
    console = Console()
    if not console.is_terminal:
        width = console.measure(printed, options=console.options.update(width=UNWRAPPED)).maximum
        console = Console(width=max(console.width, width))
    console.print(printed)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |" for line in lines)


def write_table(prefix: Path, table: Table, document: Any, notes: Sequence[str] = ()) -> list[Path]:
    """Write a table as PREFIX.md with notes below, as PREFIX.csv, and a document as PREFIX.json; return the three paths."""
    header, rows = table.texts()
    text = markdown(header, [[f"**{text}**" if best else text for text, best in row] for row in rows])
    records, stream = table.records(), StringIO()
    writer = csv.DictWriter(stream, list(dict.fromkeys(key for record in records for key in record)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    files = {"md": "\n\n".join([text, *notes]) + "\n", "csv": stream.getvalue(), "json": json.dumps(document, indent=1) + "\n"}
    prefix.parent.mkdir(parents=True, exist_ok=True)
    for suffix, content in files.items():
        atomic_write(Path(f"{prefix}.{suffix}"), content)
    return [Path(f"{prefix}.{suffix}") for suffix in files]
