"""What was submitted: one JSON file a job, beside its logs."""

import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from jepa_pipeline.config.section import Section
from jepa_pipeline.files import atomic_write


class Record(Section):
    """A job as it was submitted.

    id: Slurm's, such as "123", or "123_0" of an array. command: without the word `jepa`. cwd: where it was submitted, and runs.
    log: where a process writes, with %t for its number. after: the jobs it waits for.
    """

    id: str
    name: str
    command: tuple[str, ...]
    cwd: Path
    folder: Path
    submitted: datetime
    log: str
    after: tuple[str, ...] = ()

    @property
    def run(self) -> Path:
        """The folder that holds the record's; a run folder, of a job that works on a run."""
        return self.folder.parent

    def log_of(self, rank: int) -> Path:
        return Path(self.log.replace("%t", str(rank)))


def save_record(record: Record) -> None:
    """Write a record so that it is whole or not there."""
    record.folder.mkdir(parents=True, exist_ok=True)
    atomic_write(record.folder / f"{record.id}.json", record.model_dump_json(indent=2) + "\n")


def read_records(folder: Path) -> list[Record]:
    """The records of all runs in a folder, or of a run folder itself, the oldest first."""
    paths = [*folder.glob("jobs/*.json"), *folder.glob("*/jobs/*.json")]
    return sorted(readable(paths), key=lambda record: (record.submitted, record.id))


def readable(paths: list[Path]) -> Iterator[Record]:
    for path in paths:
        try:
            record = Record.model_validate_json(path.read_text())
        except (ValidationError, UnicodeDecodeError):
            print(f"{path} is no record of a job and is left out", file=sys.stderr)
            continue
        yield record.model_copy(update={"folder": path.parent, "log": moved(record, path.parent)})


def moved(record: Record, folder: Path) -> str:
    """Where a job's log is now: with the record, if the run, or the folder of all runs, was moved."""
    if record.folder.exists() and record.folder.samefile(folder):
        return record.log
    before, now = record.folder, folder.absolute()
    while before.name == now.name and before.name:
        before, now = before.parent, now.parent
    log = Path(record.log)
    return str(now / log.relative_to(before)) if log.is_relative_to(before) else record.log
