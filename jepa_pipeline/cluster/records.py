"""Records of submitted jobs: one JSON file per job, next to its logs."""

import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from jepa_pipeline.config.section import Section
from jepa_pipeline.files import atomic_write, glob_tolerant, sweep


class JobRecord(Section):
    """A job as it was submitted.

    Args:
        id: Slurm's, such as "123", or "123_0" for an array task.
        name: of the job in Slurm's lists.
        command: a command line of `jepa`, without that word.
        cwd: where it was submitted and runs.
        folder: of this record.
        submitted: time of submission.
        log: path of the log, with %t for the rank if there are several.
        after: ids of the jobs it waits for.
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
        """Return the folder that contains the record's folder: the run folder, if the job works on a run."""
        return self.folder.parent

    def log_of(self, rank: int) -> Path:
        """Return the log of a rank."""
        return Path(self.log.replace("%t", str(rank)))


def array_id(job: str) -> str:
    """Return the id of the array of a task, or of the job itself: "123" for "123_0" and for "123"."""
    return job.partition("_")[0]


def save_record(record: JobRecord) -> None:
    """Write a record to its folder, in one rename."""
    record.folder.mkdir(parents=True, exist_ok=True)
    sweep(record.folder)
    atomic_write(record.folder / f"{record.id}.json", record.model_dump_json(indent=2) + "\n")


def read_records(folder: Path) -> list[JobRecord]:
    """Return the records of all runs in a folder, or of a run folder itself, oldest first."""
    found = [*glob_tolerant(folder, "jobs/*.json"), *glob_tolerant(folder, "*/jobs/*.json")]
    paths = [path for path in found if not path.name.startswith(".")]  # as file browsers and killed processes leave them
    return sorted(load_records(paths), key=lambda record: (record.submitted, record.id))


def load_records(paths: list[Path]) -> Iterator[JobRecord]:
    for path in paths:
        try:
            record = JobRecord.model_validate_json(path.read_bytes())
        except (ValidationError, OSError):
            print(f"{path} is not a job record and is ignored", file=sys.stderr)
            continue
        yield record.model_copy(update={"folder": path.parent, "log": relocate_log(record, path.parent)})


def relocate_log(record: JobRecord, folder: Path) -> str:
    """Return where a job's log is now: it moved with the record, if the run or the folder of all runs was moved."""
    if record.folder.exists() and record.folder.samefile(folder):
        return record.log
    before, now = record.folder, folder.absolute()
    while before.name == now.name and before.name:  # up to the folder that was renamed
        before, now = before.parent, now.parent
    log = Path(record.log)
    return str(now / log.relative_to(before)) if log.is_relative_to(before) else record.log
