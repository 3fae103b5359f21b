"""Rows of features on the way to a file: on disk as they are computed, and kept after a kill."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Float32

ROWS, VALUES = "rows.jsonl", "features.f32"


class Row(NamedTuple):
    """A sample: its key, its label if it has one, and why it has no features, if it is damaged."""

    key: str
    label: int | None
    error: str | None


class FeatureRows:
    """The rows that are finished, in a folder: a JSON line for each batch, and in another file the features of its intact samples.

    Attributes:
        done: finished rows.
        damaged: those of them without features.
        width: of a feature; 0 before the first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done = self.damaged = self.width = 0

    def resume(self) -> None:
        """Count what is finished, and delete the rest: half a line, or features without one."""
        kept_line = kept_values = 0
        size = (self.folder / VALUES).stat().st_size if (self.folder / VALUES).exists() else 0
        for rows, width, line in self.lines():
            intact = sum(row.error is None for row in rows)
            kept_values += 4 * width * intact
            if kept_values > size:  # a crash of the machine lost features whose line it kept
                kept_values -= 4 * width * intact
                break
            kept_line += line
            self.add_counts(rows, width)
        for name, kept in ((ROWS, kept_line), (VALUES, kept_values)):
            with (self.folder / name).open("ab") as file:
                file.truncate(kept)

    def add_counts(self, rows: Sequence[Row], width: int) -> None:
        self.done += len(rows)
        self.damaged += sum(row.error is not None for row in rows)
        self.width = width or self.width

    def lines(self) -> Iterator[tuple[list[Row], int, int]]:
        """Yield the rows of each finished batch, the width of their features, and the bytes of the line."""
        if not (self.folder / ROWS).exists():
            return
        with (self.folder / ROWS).open("rb") as file:
            for line in file:
                try:
                    found = json.loads(line)
                    rows = [Row(*row) for row in found["rows"]]
                except (ValueError, TypeError, KeyError):
                    return  # half a line, the last
                yield rows, found["width"], len(line)

    def add(self, rows: Sequence[Row], features: Float32[np.ndarray, "S D"] | None) -> None:
        """Append a batch, durably: the rows, and the features of the intact ones; None: none is intact."""
        if features is not None:
            with (self.folder / VALUES).open("ab") as file:
                file.write(np.ascontiguousarray(features, "<f4").tobytes())
                sync(file)
        width = 0 if features is None else features.shape[1]
        with (self.folder / ROWS).open("ab") as file:
            file.write(json.dumps({"width": width, "rows": rows}).encode() + b"\n")
            sync(file)
        self.add_counts(rows, width)

    def groups(self, size: int) -> Iterator[tuple[list[Row], Float32[np.ndarray, "S D"]]]:
        """Yield all rows in groups of `size`, the last may be smaller, with a feature for each: NaN for damaged ones."""
        waiting = list[Row]()
        with (self.folder / VALUES).open("rb") as file:
            for rows, _, _ in self.lines():
                waiting += rows
                while len(waiting) >= size:
                    yield waiting[:size], self.read_values(file, waiting[:size])
                    waiting = waiting[size:]
            if waiting:
                yield waiting, self.read_values(file, waiting)

    def read_values(self, file: IO[bytes], rows: Sequence[Row]) -> Float32[np.ndarray, "S D"]:
        intact = np.array([row.error is None for row in rows])
        values = np.full((len(rows), self.width), np.nan, np.float32)
        values[intact] = np.frombuffer(file.read(4 * self.width * int(intact.sum())), "<f4").reshape(-1, self.width)
        return values


def sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
