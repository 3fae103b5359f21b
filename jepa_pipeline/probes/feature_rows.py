"""Rows of features on the way to a file: on disk as they are computed, kept after a kill, and continued by the same command."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.manifest import PLAN
from jepa_pipeline.data.plan import differing_keys, read_plan, write_plan
from jepa_pipeline.files import LOCK, PARTIAL, name_errors
from jepa_pipeline.locks import Locked, lock_folder

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


def unfinished_folder(out: Path) -> Path:
    """Return the folder of the rows that are on their way to a file."""
    return out.with_name(out.name + PARTIAL)


def check_unfinished(out: Path) -> None:
    """Raise UserError if the folder of unfinished rows holds something else, which would be deleted with it."""
    folder = unfinished_folder(out)
    if not os.path.lexists(folder):
        return
    if folder.is_dir() and not folder.is_symlink():
        own = {PLAN, ROWS, VALUES, LOCK}
        if not [path for path in folder.iterdir() if path.name not in own and not path.name.endswith(PARTIAL)]:
            return
    raise UserError(f"{folder}, where unfinished rows are kept, was made by something else: move it away, or name another --out")


@contextmanager
def unfinished_rows(out: Path, plan: Mapping[str, Any]) -> Iterator[FeatureRows]:
    """Yield the rows of an unfinished file, in a locked folder beside it: deleted at the end, but kept after an error.

    Args:
        out: the file.
        plan: all that decides what is computed, as JSON; rows of another plan are deleted.

    Raises:
        UserError: another process is writing them.
    """
    folder = unfinished_folder(out)
    try:
        with name_errors(out), lock_folder(folder):
            if os.path.lexists(out):  # which the last holder of the lock may have written
                raise UserError(f"{out} is there already: delete it, or name another file")
            found = read_plan(folder)
            rows = FeatureRows(folder)
            if found == plan:
                rows.resume()
                print(f"{folder} is continued: {rows.done:,} rows of an interrupted command are kept")
            else:
                if found is not None:
                    print(f"{folder} is begun anew: it was left by a command that differs in {differing_keys(found, plan)}")
                for name in (PLAN, ROWS, VALUES):
                    (folder / name).unlink(missing_ok=True)
                (folder / VALUES).touch()
                write_plan(folder, plan)
            try:
                yield rows
            except BaseException:
                give_up(rows)
                raise
            delete(folder)
    except Locked as error:
        raise UserError(f"{error} is writing {folder}: wait for it or stop it, or name another file with --out") from None


def give_up(rows: FeatureRows) -> None:
    """Keep an unfinished folder if there are features in it, and say so."""
    if rows.width:
        print(f"{rows.folder} keeps {rows.done:,} rows: the same command continues with them; else delete that folder")
    else:
        delete(rows.folder)


def delete(folder: Path) -> None:
    """Delete the folder, the lock last: before, another process could lock it anew."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == LOCK):
        path.unlink()
    folder.rmdir()
