"""`jepa jobs`, `jepa logs` and `jepa cancel`: what became of what was submitted."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from jepa_pipeline.cluster.logs import last_lines, last_words
from jepa_pipeline.cluster.progress import Progress, progress_of
from jepa_pipeline.cluster.records import Record, read_records
from jepa_pipeline.cluster.states import UNKNOWN, State, cancel_jobs, states_of
from jepa_pipeline.config.errors import UserError

NO_LOG = "no log: its folder was moved, or could not be opened on the node"
"""Said of a failed job that left none."""

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
        newest = {task(record): record.id for record in records}
        records = [one for one in records if states[one.id].live or newest[task(one)] == one.id]
    found = [Job(record, states[record.id], progress_of(record)) for record in records]
    if as_json:
        for job in found:
            print(json.dumps(as_object(job)))
    elif found:
        print(*table(found), sep="\n")
    else:
        print(f"no job was submitted for a run in {folder}")
    return found


def task(record: Record) -> tuple[Path, tuple[str, ...]]:
    """What a job is to do; one that does the same again takes its place. A run is trained by one job, whatever is said of it."""
    return record.run, record.command[:1] if record.command[0] == "pretrain" else record.command


def known_states(records: Sequence[Record]) -> dict[str, State]:
    """The states, or of all UNKNOWN where Slurm cannot be asked; of a job that was taken away unasked, after which other one."""
    ids = [record.id for record in records]
    waited = {main for record in records for main in record.after} - {id.partition("_")[0] for id in ids} - {*ids}
    try:
        states = states_of([*ids, *waited])
    except UserError as error:
        print(f"states are unknown: {error}", file=sys.stderr)
        return dict.fromkeys(ids, UNKNOWN)
    reasons = {record.id: missed(record, states) for record in records}
    return {id: states[id]._replace(why=reasons[id] or states[id].why) for id in ids}


def missed(record: Record, states: dict[str, State]) -> str | None:
    """Which job's end took this one away before it began; None where none did."""
    state = states[record.id]
    if state.name != "CANCELLED" or state.why or state.elapsed.strip("0:"):
        return None  # else it ran, or somebody took it away
    number = record.id.partition("_")[2]
    for main in record.after:
        same = [id for id in states if id == f"{main}_{number}"]  # of two arrays each waits for its own
        for id in same or [id for id in states if main in (id, id.partition("_")[0])]:
            if states[id].failed or states[id].name == "CANCELLED":
                return f"job {id} {'failed' if states[id].failed else 'was canceled'}"
    return None


def table(found: Sequence[Job]) -> list[str]:
    """One line a job, columns aligned, and below a failed one the end of its log."""
    rows = [("job", "verb", "run", "state", "step", "loss", "samples/s", "health", "time", "log"), *map(row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = []
    for number, cells in enumerate(rows):
        lines.append("  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)), cells[-1]]))
        job = found[number - 1]
        if number and job.state.failed:
            words = last_words(job.record) if job.record.log_of(0).is_file() else [NO_LOG]
            lines += [f"    | {line}" for line in words]
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


def logs(job: str, folder: Path, *, lines: int = 40, rank: int = 0, follow: bool = False) -> None:
    """Print the end of a job's log; with follow, go on until it has ended.

    Args:
        job: an id, or the name of a run, which stands for the one of its jobs that `chosen` picks.
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
    states = known_states(named)
    record = chosen(named, states)
    path = record.log_of(rank)
    if rank and path == record.log_of(0):
        raise UserError(f"job {record.id} has one process: leave --rank out")
    state = states[record.id]
    if not path.is_file() and not (follow and state.live):
        raise UserError(f"job {record.id} is {state} and has not written {path}")
    said = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    said.print(f"{path}: job {record.id} ({record.name}), {state}", style="dim")
    for line in last_lines(path, lines):
        print(line)
    sys.stdout.flush()
    if follow:
        go_on(record, path)


def chosen(named: Sequence[Record], states: dict[str, State]) -> Record:
    """Of several jobs one that wrote something, before others one that runs, before others the one that trains, or the newest."""

    def order(number: int) -> tuple[bool, bool, bool, int]:
        record = named[number]
        return record.log_of(0).is_file(), states[record.id].live, record.command[0] == "pretrain", number

    return named[max(range(len(named)), key=order)]


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
        done = "canceled" if id in live else "left alone"
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
