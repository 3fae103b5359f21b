"""Whether a job that ends before its run does goes back into Slurm's queue, and why not."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jepa_pipeline.cluster.allocation import Allocation, SlurmRefused, job_id, requeue, this_allocation
from jepa_pipeline.files import atomic_write
from jepa_pipeline.training.checkpoint import step_of, steps
from jepa_pipeline.training.loggers import read_rows

REQUEUES = "requeues.jsonl"
"""In a run folder: a line for each end of a job that was not the end of the run."""
ASKED_FOR = ("SIGUSR1", "SIGUSR2")
"""What a job is sent because of its own --signal."""
Tell = Callable[[str], object]


class End(NamedTuple):
    """A line of requeues.jsonl."""

    time: str
    job: str
    restarts: int
    reason: str
    step: int
    saved: int
    """The step from which the run goes on."""
    requeued: bool


def requeue_after_stop(folder: Path, signal_name: str, step: int, tell: Tell) -> bool:
    """Put the job of a run that a signal stopped back into the queue, if that is what the signal means; whether it is there.

    Called by one process, once the checkpoint of this step is whole. Nothing outside Slurm. A signal asked for with --signal means
    it, and a SIGTERM to a job that goes on for a while, as before a preemption. A canceled job never comes back.
    """
    name = signal_name if signal_name.startswith("SIG") else f"SIG{signal_name}"
    return close(folder, name, step, step, tell)


def requeue_after_failure(folder: Path, reason: str, step: int, tell: Tell) -> bool:
    """Put the job of a run that lost a process or hangs back into the queue; whether it is there. Called by one that lives."""
    saved = max((step_of(path) for path in steps(folder / "checkpoints")), default=0)
    return close(folder, reason, step, saved, tell)


def close(folder: Path, reason: str, step: int, saved: int, tell: Tell) -> bool:
    """Write the line, say what becomes of the job, and do it."""
    number = job_id()
    if number is None:
        return False
    allocation = this_allocation(tell)
    if allocation is None:
        allocation = Allocation(number, "UNKNOWN", batch=True, may_requeue=True, restarts=0)
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    end = End(now, allocation.job, allocation.restarts, reason, step, saved, requeued=True)
    before = read_ends(folder)
    against = objection(allocation, reason) or no_progress(before, end)
    if against is not None:
        write_ends(folder, [*before, end._replace(requeued=False)])
        tell(f"job {allocation.job} is not requeued: {against}")
        return False
    write_ends(folder, [*before, end])  # first, for Slurm ends the processes of a requeued job at once
    try:
        requeue(allocation.job)
    except SlurmRefused as error:
        write_ends(folder, [*before, end._replace(requeued=False)])
        tell(f"job {allocation.job} is not requeued: Slurm refuses ({error}); submit the same command again, and it goes on")
        return False
    tell(f"job {allocation.job} is requeued, and goes on after step {saved}")
    return True


def objection(allocation: Allocation, reason: str) -> str | None:
    """Why this job must or can not be requeued now."""
    again = "submit the same command again, and it goes on"
    timeout = f"its time limit came unannounced; submit it with --signal=USR1@120, or {again}"
    if reason == "SIGINT":
        return f"it was interrupted by hand; {again}"
    if not allocation.batch:
        return f"only what sbatch submitted can be; {again}"
    match allocation.state:
        case "REQUEUED":
            return "it is in the queue already"
        case "TIMEOUT" if reason not in ASKED_FOR:
            return timeout
        case "RUNNING" | "TIMEOUT":
            return None if allocation.may_requeue else f"it was submitted with --no-requeue; {again}"
        case "UNKNOWN":
            return f"it may have been canceled, and Slurm does not say; {again}"
        case state:
            return f"Slurm has ended it ({state}); {again}"


def no_progress(before: list[End], end: End) -> str | None:
    """Why the job would only be requeued for ever: it was because of an end without progress, and this is the next."""
    if not before or before[-1].job != end.job or not before[-1].requeued:
        return None
    reached = [0, *(one.saved for one in before), end.saved]
    if reached[-1] > reached[-2] or reached[-2] > reached[-3]:
        return None
    return (
        f"it ended twice without getting beyond step {end.saved} (now: {end.reason}, before: {before[-1].reason}); give it more "
        "time, lower checkpoint.every_minutes, or mend what the log and stacks/ show, and submit the same command again"
    )


def read_ends(folder: Path) -> list[End]:
    """All ends of jobs of this run so far."""
    return [End(**row) for row in read_rows(folder / REQUEUES)]


def write_ends(folder: Path, ends: list[End]) -> None:
    atomic_write(folder / REQUEUES, "".join(json.dumps(end._asdict()) + "\n" for end in ends))
