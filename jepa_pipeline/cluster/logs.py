"""The end of what a job wrote."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from jepa_pipeline.cluster.records import Record

LAST_WORDS, TAIL = 5, 200
"""Lines of the log that are shown of a failed job, and those among which they are looked for."""

SLURMS = re.compile(r"(srun|slurmstepd)(-[^:]+)?: |submitit |SystemExit: \d+$")
"""What Slurm and submitit say: that a command failed, and not why."""
LEFT_OUT = "skipped: "
"""Begins what is said of a sample that could not be read, of which there may be many."""
RANK = re.compile(r"\[rank\d+\]: ?")
"""What torch lays before each line of a traceback."""
CHAINED = ("During handling of the above exception", "The above exception was the direct cause")


def last_words(record: Record) -> list[str]:
    """The last lines that a job's first process wrote itself, of a traceback the last alone; Slurm's where there are no others."""
    lines = [line for line in last_lines(record.log_of(0), TAIL) if line.strip() and not line.startswith(LEFT_OUT)]
    own = [line for line in without_tracebacks(lines) if not SLURMS.match(line)]
    return (own or lines)[-LAST_WORDS:]


def without_tracebacks(lines: Sequence[str]) -> Iterator[str]:
    """The lines with only the last of every traceback, or of a chain of them."""
    inside, said = False, None
    for line in lines:
        text = RANK.sub("", line, count=1)
        if text.startswith(CHAINED):
            said = None
        elif text.startswith("Traceback (most recent call last)"):
            inside = True
        elif text.strip() and not (inside and text[0].isspace()):
            inside = False
            if said is not None:
                yield said
            said = line
    if said is not None:
        yield said


def last_lines(path: Path, count: int) -> list[str]:
    """The end of a log, without reading what is before; nothing of one that is not there yet."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1000 * count))
        return file.read().decode(errors="replace").splitlines()[-count:]
