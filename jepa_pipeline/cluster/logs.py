"""The end of a job's log."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from jepa_pipeline.cluster.records import JobRecord

SHOWN_LINES, SEARCHED_LINES = 5, 200
"""Lines shown of a failed job's log, and the last lines they are taken from."""

LAUNCHER = re.compile(r"(srun|slurmstepd)(-[^:]+)?: |submitit |SystemExit: \d+$")
"""Lines of Slurm and submitit: they say that a command failed, not why."""
SKIPPED = "skipped: "
"""Prefix of the line about a sample that could not be read, of which there may be many."""
RANK = re.compile(r"\[rank\d+\]: ?")
"""torch's prefix of each line of a traceback."""
CHAINED = ("During handling of the above exception", "The above exception was the direct cause")


def last_messages(record: JobRecord) -> list[str]:
    """Return the last lines that rank 0 of a job logged, with tracebacks reduced to their last line.

    Lines of Slurm and submitit are returned only if there are no others.
    """
    lines = [line for line in tail(record.log_of(0), SEARCHED_LINES) if line.strip() and not line.startswith(SKIPPED)]
    own = [line for line in without_tracebacks(lines) if not LAUNCHER.match(line)]
    return (own or lines)[-SHOWN_LINES:]


def without_tracebacks(lines: Sequence[str]) -> Iterator[str]:
    """Yield the lines with only the last one of every traceback, or of a chain of them."""
    inside, pending = False, None
    for line in lines:
        text = RANK.sub("", line, count=1)
        if text.startswith(CHAINED):
            pending = None  # drop the error that led to the next one
        elif text.startswith("Traceback (most recent call last)"):
            inside = True
        elif text.strip() and not (inside and text[0].isspace()):
            inside = False
            if pending is not None:
                yield pending
            pending = line
    if pending is not None:
        yield pending


def tail(path: Path, count: int) -> list[str]:
    """Return the last lines of a file, without reading all of it; none if there is no file."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1000 * count))
        return file.read().decode(errors="replace").splitlines()[-count:]
