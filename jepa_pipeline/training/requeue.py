"""Ends of a run before its last step: the requeue of its Slurm job, and the record of these ends and of restarts in place."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jepa_pipeline.cluster.allocation import Allocation, ScontrolError, current_job_id, read_allocation, requeue
from jepa_pipeline.files import read_to_rewrite, write_json_lines
from jepa_pipeline.redaction import redact_row
from jepa_pipeline.training.checkpoint import list_checkpoints, step_of

REQUEUES = "requeues.jsonl"
"""File in a run folder with a line for each job that ended before the run, and for each restart in place."""
ANNOUNCED = ("SIGUSR1", "SIGUSR2")
"""Signals that Slurm sends before the time limit because of sbatch --signal."""
Log = Callable[[str], object]


class JobEnd(NamedTuple):
    """A line of requeues.jsonl."""

    time: str
    job: str
    restarts: int
    reason: str
    step: int
    saved: int
    """Step of the checkpoint from which the run resumes."""
    requeued: bool
    in_place: int = 0
    """The number of this restart of the processes within the job; 0: the job ended. See restarts.py."""


def requeue_after_stop(folder: Path, signal_name: str, step: int, log: Log) -> bool:
    """Requeue the job of a run that a signal stopped, if the signal means that; return whether it is requeued.

    One process calls it when the checkpoint of this step is complete. Outside Slurm it does nothing. A signal of sbatch --signal
    means a requeue, and so does a SIGTERM while Slurm lets the job run on, as before a preemption. A canceled job stays out.
    """
    name = signal_name if signal_name.startswith("SIG") else f"SIG{signal_name}"
    return record_and_requeue(folder, name, step, step, log)


def requeue_after_failure(folder: Path, reason: str, step: int, log: Log) -> bool:
    """Requeue the job of a run that lost a process or hangs; return whether it is requeued. One living process calls it."""
    saved = max((step_of(path) for path in list_checkpoints(folder / "checkpoints")), default=0)
    return record_and_requeue(folder, reason, step, saved, log)


def record_restart(folder: Path, reason: str, count: int, step: int, saved: int) -> None:
    """Write the line of requeues.jsonl for the restart in place of this number. One process calls it."""
    now, requeues = time.strftime("%Y-%m-%dT%H:%M:%S%z"), int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    end = JobEnd(now, current_job_id() or "", requeues, reason, step, saved, requeued=False, in_place=count)
    write_job_ends(folder, [*read_job_ends(folder), end])


def record_and_requeue(folder: Path, reason: str, step: int, saved: int, log: Log) -> bool:
    """Write the line of requeues.jsonl, requeue the job unless something speaks against it, and log which."""
    number = current_job_id()
    if number is None:
        return False
    allocation = read_allocation(log)
    if allocation is None:
        allocation = Allocation(number, "UNKNOWN", batch=True, may_requeue=True, restarts=0)
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    end = JobEnd(now, allocation.job, allocation.restarts, reason, step, saved, requeued=True)
    before = read_job_ends(folder)
    against = find_objection(allocation, reason) or find_lack_of_progress(before, end)
    if against is not None:
        write_job_ends(folder, [*before, end._replace(requeued=False)])
        log(f"job {allocation.job} is not requeued: {against}")
        return False
    write_job_ends(folder, [*before, end])  # before the requeue, since Slurm ends the processes of a requeued job at once
    try:
        requeue(allocation.job)
    except ScontrolError as error:
        write_job_ends(folder, [*before, end._replace(requeued=False)])
        log(f"job {allocation.job} is not requeued: Slurm refuses ({error}); submit the same command again to resume")
        return False
    log(f"job {allocation.job} is requeued, and resumes after step {saved}")
    return True


def find_objection(allocation: Allocation, reason: str) -> str | None:
    """Return why this job must not or cannot be requeued now; None if it can."""
    again = "submit the same command again to resume"
    timeout = f"its time limit came unannounced; submit it with --signal=USR1@120, or {again}"
    if reason == "SIGINT":
        return f"it was interrupted by hand; {again}"
    if not allocation.batch:
        return f"only what sbatch submitted can be; {again}"
    match allocation.state:
        case "REQUEUED":
            return "it is in the queue already"
        case "TIMEOUT" if reason not in ANNOUNCED:
            return timeout
        case "RUNNING" | "TIMEOUT":
            return None if allocation.may_requeue else f"it was submitted with --no-requeue; {again}"
        case "UNKNOWN":
            return f"it may have been canceled, but Slurm does not answer; {again}"
        case state:
            return f"Slurm has ended it ({state}); {again}"


def find_lack_of_progress(before: list[JobEnd], end: JobEnd) -> str | None:
    """Return why the job would be requeued without end: it was after an end without progress, and this is the next; else None."""
    before = [earlier for earlier in before if not earlier.in_place]
    if not before or before[-1].job != end.job or not before[-1].requeued:
        return None
    reached = [0, *(earlier.saved for earlier in before), end.saved]
    if reached[-1] > reached[-2] or reached[-2] > reached[-3]:
        return None
    return (
        f"it ended twice without getting beyond step {end.saved} (now: {end.reason}, before: {before[-1].reason}); give it more "
        "time, lower checkpoint.every_minutes, or fix what the log and stacks/ show, and submit the same command again"
    )


def read_job_ends(folder: Path) -> list[JobEnd]:
    """Return the ends of this run's jobs so far."""
    needed = {key: kind for key, kind in JobEnd.__annotations__.items() if key not in JobEnd._field_defaults}
    rows = read_to_rewrite(folder / REQUEUES, needed)  # lines of earlier versions lack the newest keys
    return [JobEnd(**{key: row[key] for key in JobEnd._fields if key in row}) for row in rows]


def write_job_ends(folder: Path, ends: list[JobEnd]) -> None:
    write_json_lines(folder / REQUEUES, [redact_row(end._asdict()) for end in ends])
