"""`jepa jobs`, `jepa logs` and `jepa cancel`: what became of what was submitted."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jepa_pipeline.cluster.progress import Progress, progress_of
from jepa_pipeline.cluster.records import Record, read_records
from jepa_pipeline.cluster.states import UNKNOWN, State, cancel_jobs, states_of
from jepa_pipeline.config.errors import UserError

LAST_WORDS = 5
"""Lines of the log that are shown of a failed job."""

LOOK_S, ASK_S = 0.5, 10.0
"""Seconds between two looks at a log that is followed, and between two questions to Slurm."""


class Job(NamedTuple):
    """A submitted job and what is known of it."""

    record: Record
    state: State
    progress: Progress


def jobs(folder: Path, *, as_json: bool = False, everything: bool = False) -> list[Job]:
    """Print the state of the submitted jobs whose runs lie in a folder. Without Slurm at hand the states are UNKNOWN.

    as_json: one object a line; everything: also jobs that were submitted again later.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: give the one that holds the runs")
    records = read_records(folder)
    states = known_states(records)
    if not everything:
        newest = {(record.run, record.name): record.id for record in records}
        records = [one for one in records if states[one.id].live or newest[one.run, one.name] == one.id]
    found = [Job(record, states[record.id], progress_of(record)) for record in records]
    if as_json:
        for job in found:
            print(json.dumps(as_object(job)))
    elif found:
        print(*table(found), sep="\n")
    else:
        print(f"no job was submitted for a run in {folder}")
    return found


def known_states(records: Sequence[Record]) -> dict[str, State]:
    """The states, or of all UNKNOWN where Slurm cannot be asked."""
    try:
        return states_of([record.id for record in records])
    except UserError as error:
        print(f"states are unknown: {error}", file=sys.stderr)
        return {record.id: UNKNOWN for record in records}


def table(found: Sequence[Job]) -> list[str]:
    """One line a job, columns aligned, and below a failed one the end of its log."""
    rows = [("job", "verb", "run", "state", "step", "loss", "samples/s", "health", "time", "log"), *map(row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = []
    for number, cells in enumerate(rows):
        lines.append("  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)), cells[-1]]))
        job = found[number - 1]
        if number and job.state.failed:
            lines += [f"    | {line}" for line in last_words(job.record)]
    return lines


def row(job: Job) -> tuple[str, ...]:
    record, progress = job.record, job.progress
    loss = "-" if progress.loss is None else f"{progress.loss:.4f}"
    speed = "-" if progress.samples_per_s is None else f"{progress.samples_per_s:,.0f}"
    said = (str(job.state), progress.steps, loss, speed, progress.verdict, job.state.elapsed or "-")
    verb = record.name.removesuffix(f"-{record.run.name}")
    return record.id, verb, record.run.name, *said, log_name(record)


def log_name(record: Record) -> str:
    path = record.log_of(0)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def as_object(job: Job) -> dict[str, object]:
    record, state, progress = job
    return {
        "job": record.id,
        "command": list(record.command),
        "run": str(record.run),
        "submitted": record.submitted.isoformat(),
        "after": list(record.after),
        "state": state.name,
        "why": state.why,
        "restarts": state.restarts,
        "elapsed": state.elapsed,
        "exit": state.exit,
        **progress._asdict(),
        "verdict": progress.verdict,
        "log": record.log,
        **({"last_lines": last_words(record)} if state.failed else {}),
    }


def last_words(record: Record) -> list[str]:
    """The last lines that a job wrote itself."""
    lines = last_lines(record.log_of(0), 2 * LAST_WORDS)
    return [line for line in lines if line.strip() and not line.startswith("submitit ")][-LAST_WORDS:]


def last_lines(path: Path, count: int) -> list[str]:
    """The end of a log, without reading what is before; nothing of one that is not there yet."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1000 * count))
        return file.read().decode(errors="replace").splitlines()[-count:]


def logs(job: str, folder: Path, *, lines: int = 40, rank: int = 0, follow: bool = False) -> None:
    """Print the end of a job's log; with follow, go on until it has ended.

    Args:
        job: an id, or the name of a run, which stands for its newest job that wrote something.
        folder: of the run folders.
        lines: how many of the last lines.
        rank: whose, of a job of several processes.
        follow: go on.

    Raises:
        UserError: there is no such job or process, or it wrote nothing.
    """
    named = find(job, read_records(folder), folder)
    if len({record.id.partition("_")[0] for record in named}) == 1 and len(named) > 1:
        raise UserError(f"job {job} is an array: name one of its jobs, {named[0].id} to {named[-1].id}, or a run")
    record = ([one for one in named if one.log_of(0).is_file()] or named)[-1]
    path = record.log_of(rank)
    if rank and path == record.log_of(0):
        raise UserError(f"job {record.id} has one process: leave --rank out")
    state = known_states([record])[record.id]
    if not path.is_file() and not (follow and state.live):
        raise UserError(f"job {record.id} is {state} and has not written {path}")
    print(f"{path}: job {record.id}, {state}", file=sys.stderr)
    print(*last_lines(path, lines), sep="\n", flush=True)
    if follow:
        go_on(record, path)


def go_on(record: Record, path: Path) -> None:
    """Print what is added to a log until its job has ended."""
    read, asked = path.stat().st_size if path.is_file() else 0, time.monotonic()
    while True:
        ended = False
        if time.monotonic() - asked > ASK_S:
            state, asked = known_states([record])[record.id], time.monotonic()
            ended = not state.live
        if path.is_file() and path.stat().st_size > read:
            with path.open("rb") as file:
                file.seek(read)
                sys.stdout.write(file.read().decode(errors="replace"))
                read = file.tell()
            sys.stdout.flush()
        if ended:
            print(f"job {record.id} is {known_states([record])[record.id]}", file=sys.stderr)
            return
        time.sleep(LOOK_S)


def cancel(named: Sequence[str], folder: Path) -> None:
    """Take jobs away, by their ids or by the names of their runs.

    Raises:
        UserError: one of them is no job, or Slurm refuses.
    """
    records = read_records(folder)
    found = {record.id: record for name in named for record in find(name, records, folder)}
    states = states_of(list(found))
    live = [id for id in found if states[id].live]
    if live:
        cancel_jobs(live)
    for id, record in found.items():
        done = "cancelled" if id in live else "left alone"
        print(f"{done}: job {id} ({record.name}), which was {states[id]}")
    waiting = {record.id: record for record in records if {id.partition("_")[0] for id in live} & set(record.after)}
    for id in waiting.keys() - found.keys():
        print(f"job {id} ({waiting[id].name}) waited for it: it goes too, unless it waits for any end")


def find(name: str, records: Sequence[Record], folder: Path) -> list[Record]:
    """The jobs that a name stands for: an id, that of a whole array, or a run's; the oldest first.

    Raises:
        UserError: none.
    """
    by_id = [record for record in records if name in (record.id, record.id.partition("_")[0])]
    found = by_id or [record for record in records if name in (record.run.name, str(record.run), record.name)]
    if not found:
        raise UserError(f"no job {name} was submitted for a run in {folder}: 'jepa jobs' lists them, --folder names another folder")
    return found
