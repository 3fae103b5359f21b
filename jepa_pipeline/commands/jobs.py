"""`jepa jobs`, `jepa logs` and `jepa cancel`: state, progress and logs of submitted jobs."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from jepa_pipeline.cluster.logs import last_messages, tail
from jepa_pipeline.cluster.progress import Progress, read_progress
from jepa_pipeline.cluster.records import JobRecord, array_id, read_records
from jepa_pipeline.cluster.states import UNKNOWN, JobState, cancel_jobs, query_states
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.console import output_failure

NO_LOG = "no log: its folder was moved, or could not be written on the node"
"""Shown for a failed job without a log."""

POLL_LOG_S, POLL_SLURM_S = 0.5, 10.0
"""Seconds between two checks of a followed log for new lines, and of Slurm for the end of its job."""


class Job(NamedTuple):
    """A submitted job with its state and progress."""

    record: JobRecord
    state: JobState
    progress: Progress


def jobs(folder: Path, *, as_json: bool = False, everything: bool = False) -> list[Job]:
    """Print the states of the jobs submitted for runs in a folder; they are UNKNOWN if Slurm does not answer.

    Args:
        folder: of the run folders, or a run folder.
        as_json: print a JSON object.
        everything: include jobs that were submitted again later.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: give the one that contains the runs")
    records = read_records(folder)
    states = load_states(records)
    if not everything:
        latest = {task_key(record): record.id for record in records}
        records = [record for record in records if states[record.id].live or latest[task_key(record)] == record.id]
    listed = [Job(record, states[record.id], read_progress(record)) for record in records]
    if as_json:
        print(json.dumps({"jobs": [to_dict(job) for job in listed]}, indent=1))
    elif listed:
        print(*format_table(listed), sep="\n")
    else:
        print(f"no job was submitted for a run in {folder}")
    return listed


def task_key(record: JobRecord) -> tuple[Path, tuple[str, ...]]:
    """Return what identifies a job's task; a later job with the same key replaces it. A run has one pretraining task."""
    return record.run, record.command[:1] if record.command[0] == "pretrain" else record.command


def load_states(records: Sequence[JobRecord]) -> dict[str, JobState]:
    """Return the states of jobs, UNKNOWN if Slurm does not answer; the reason names the job whose failure canceled one."""
    ids = [record.id for record in records]
    dependencies = {job for record in records for job in record.after} - set(map(array_id, ids)) - {*ids}
    try:
        states = query_states([*ids, *dependencies])
    except UserError as error:
        print(f"job states are unknown: {error}", file=sys.stderr)
        return dict.fromkeys(ids, UNKNOWN)
    reasons = {record.id: failed_dependency(record, states) for record in records}
    return {job: states[job]._replace(reason=reasons[job] or states[job].reason) for job in ids}


def failed_dependency(record: JobRecord, states: dict[str, JobState]) -> str | None:
    """Return which job's failure canceled this one before it started; None if none did."""
    state = states[record.id]
    if state.name != "CANCELLED" or state.reason or state.elapsed.strip("0:"):
        return None  # it ran, or a user canceled it
    number = record.id.partition("_")[2]
    for dependency in record.after:
        # a task of an array waits for the task of the same number, if there is one, else for the whole array
        same_task = [job for job in states if job == f"{dependency}_{number}"]
        for job in same_task or [job for job in states if dependency in (job, array_id(job))]:
            if states[job].failed or states[job].name == "CANCELLED":
                return f"job {job} {'failed' if states[job].failed else 'was canceled'}"
    return None


def format_table(listed: Sequence[Job]) -> list[str]:
    """Return one line per job, with aligned columns, and below a failed job the end of its log."""
    header = ("job", "command", "run", "state", "step", "loss", "samples/s", "health", "time", "log")
    rows = [format_row(job) for job in listed]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header) - 1)]

    def align(cells: tuple[str, ...]) -> str:
        return "  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=False)), cells[-1]])

    lines = [align(header)]
    for job, row in zip(listed, rows, strict=True):
        lines.append(align(row))
        if job.state.failed:
            messages = last_messages(job.record) if job.record.log_of(0).is_file() else [NO_LOG]
            lines += [f"    | {line}" for line in messages]
    return lines


def format_row(job: Job) -> tuple[str, ...]:
    record, progress = job.record, job.progress
    loss = "-" if progress.loss is None else f"{progress.loss:.4f}"
    speed = "-" if progress.samples_per_s is None else f"{progress.samples_per_s:,.0f}"
    log = record.log_of(0)
    return (
        record.id,
        record.name.removesuffix(f"-{record.run.name}"),
        record.run.name,
        str(job.state),
        progress.steps,
        loss,
        speed,
        progress.verdict,
        job.state.elapsed or "-",
        str(log.relative_to(Path.cwd()) if log.is_relative_to(Path.cwd()) else log),
    )


def to_dict(job: Job) -> dict[str, object]:
    record, state, progress = job
    return {
        "job": record.id,
        "command": list(record.command),
        "run": str(record.run),
        "submitted": record.submitted.isoformat(),
        "after": list(record.after),
        "state": state.name,
        "why": state.reason,
        "restarts": state.restarts,
        "elapsed": state.elapsed,
        "exit": state.exit,
        **progress._asdict(),
        "verdict": progress.verdict,
        "log": record.log,
        **({"last_lines": last_messages(record)} if state.failed else {}),
    }


def logs(job: str, folder: Path, *, lines: int = 40, rank: int = 0, follow: bool = False) -> None:
    """Print the end of a job's log.

    Args:
        job: an id, or the name of a run, for one of its jobs (see `choose_record`).
        folder: of the run folders.
        lines: number of lines.
        rank: process of a job with several.
        follow: print new lines until the job has ended.

    Raises:
        UserError: there is no such job or process, or it has no log.
    """
    matches = find_records(job, read_records(folder), folder)
    if len({array_id(record.id) for record in matches}) == 1 and len(matches) > 1:
        raise UserError(f"job {job} is an array: name one of its tasks, {matches[0].id} to {matches[-1].id}, or a run")
    states = load_states(matches)
    record = choose_record(matches, states)
    path = record.log_of(rank)
    if rank and path == record.log_of(0):
        raise UserError(f"job {record.id} has one process: remove --rank")
    state = states[record.id]
    if not path.is_file() and not (follow and state.live):
        raise UserError(f"job {record.id} is {state} and has not written {path}")
    console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    console.print(f"{path}: job {record.id} ({record.name}), {state}", style="dim")
    for line in tail(path, lines):
        print(line)
    sys.stdout.flush()
    if follow:
        follow_log(record, path)


def choose_record(matches: Sequence[JobRecord], states: dict[str, JobState]) -> JobRecord:
    """Return a job that has a log; among those one that is live, then one that pretrains, then the latest."""

    def rate(number: int) -> tuple[bool, bool, bool, int]:
        record = matches[number]
        return record.log_of(0).is_file(), states[record.id].live, record.command[0] == "pretrain", number

    return matches[max(range(len(matches)), key=rate)]


def follow_log(record: JobRecord, path: Path) -> None:
    """Print what is appended to a log until its job has ended."""
    position, last_query = path.stat().st_size if path.is_file() else 0, time.monotonic()
    state = None
    while True:
        if time.monotonic() - last_query > POLL_SLURM_S:
            state, last_query = load_states([record])[record.id], time.monotonic()
        # the log is read after the query, so that the last lines of an ended job are printed
        if path.is_file() and path.stat().st_size > position:
            with path.open("rb") as file:
                file.seek(position)
                sys.stdout.write(file.read().decode(errors="replace"))
                position = file.tell()
            sys.stdout.flush()
        if output_failure() is not None:  # the reader has left
            return
        if state is not None and not state.live:
            print(f"job {record.id} is {state}", file=sys.stderr)
            return
        time.sleep(POLL_LOG_S)


def cancel(names: Sequence[str], folder: Path) -> None:
    """Cancel jobs, by their ids or by the names of their runs.

    Raises:
        UserError: a name matches no job, or Slurm refuses.
    """
    records = read_records(folder)
    matches = {record.id: record for name in names for record in find_records(name, records, folder)}
    states = query_states(list(matches))
    live = [job for job in matches if states[job].live]
    if live:
        cancel_jobs(live)
    for job, record in matches.items():
        print(f"{'canceled' if job in live else 'not running'}: job {job} ({record.name}), which was {states[job]}")
    arrays = set(map(array_id, live))
    waiting = {record.id: record for record in records if arrays & set(record.after)}
    for job in waiting.keys() - matches.keys():
        print(f"job {job} ({waiting[job].name}) waited for it and is canceled too, unless it waits for any end")


def find_records(name: str, records: Sequence[JobRecord], folder: Path) -> list[JobRecord]:
    """Return the jobs that match the id of a job or an array, or the name of a run or a job; oldest first.

    Raises:
        UserError: there are none.
    """
    by_id = [record for record in records if name in (record.id, array_id(record.id))]
    matches = by_id or [record for record in records if name in (record.run.name, str(record.run), record.name)]
    if not matches:
        raise UserError(
            f"no job {name} was submitted for a run in {folder}: 'jepa jobs' lists them, --folder chooses another folder"
        )
    return matches
