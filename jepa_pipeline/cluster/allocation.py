"""The Slurm job that this process runs in, as scontrol reports it."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jepa_pipeline.config.errors import UserError

TRIES, TIMEOUT_S, PAUSE_S = 2, 15.0, 1.0
"""A busy controller answers late, or only the second time."""
ALREADY_REQUEUED = "pending execution"
"""Part of Slurm's answer to the second of two requeues."""


class ScontrolError(UserError):
    """scontrol failed; the message is its own."""


class Allocation(NamedTuple):
    """A Slurm job while its processes still run.

    Observed with Slurm 22.05, by a process that was just sent a signal: JobState is RUNNING after a signal from --signal or
    `scancel --signal`; RUNNING, or for a moment SIGNALING, after the SIGTERM (or the job's own --signal) that starts the
    grace time of a preemption; COMPLETING after scancel, at the time limit (with Reason=TimeLimit), after `scontrol requeue`
    and at the end of the grace time (the last two with one restart more). `scontrol requeue` works even when COMPLETING.
    """

    job: str
    """SLURM_JOB_ID; ARRAY_TASK for an array task, because the last task has the array's id, which would requeue all tasks."""
    state: str
    """JobState, with SIGNALING as RUNNING. COMPLETING is REQUEUED if the job will start again, TIMEOUT at its time limit, else
    CANCELLED."""
    batch: bool
    """Submitted with sbatch; jobs from salloc and srun cannot be requeued."""
    may_requeue: bool
    restarts: int
    """Times it had been requeued when this process started."""


def current_job_id() -> str | None:
    """Return the id of the job this process runs in; None outside Slurm."""
    return os.environ.get("SLURM_JOB_ID") or None


def read_allocation(log: Callable[[str], object] = lambda text: print(text, file=sys.stderr)) -> Allocation | None:
    """Return the job this process runs in; None outside Slurm, and, with a message, where scontrol fails."""
    job = current_job_id()
    if job is None:
        return None
    try:
        return parse_allocation(scontrol("show", "job", "-o", job), job, int(os.environ.get("SLURM_RESTART_COUNT") or 0))
    except ScontrolError as error:
        log(f"job {job}: its state is unknown ({error})")
        return None


def requeue(job: str) -> None:
    """Stop the job and put it back into the queue. Slurm sends SIGTERM to its processes at once.

    Raises:
        ScontrolError: Slurm refuses.
    """
    try:
        scontrol("requeue", job)
    except ScontrolError as error:
        if ALREADY_REQUEUED not in str(error):
            raise


def parse_allocation(text: str, job: str, restarts: int) -> Allocation:
    """Return one job from the output of `scontrol show job -o`, which lists all tasks of an array under the array's id."""
    for line in text.splitlines():
        # reversed, so that the first value of a name wins: later ones may be part of a command line
        fields = dict(reversed(re.findall(r"(\w+)=(\S*)", line)))
        if fields.get("JobId") == job:
            return Allocation(
                job=f"{fields['ArrayJobId']}_{fields['ArrayTaskId']}" if "ArrayTaskId" in fields else job,
                state=parse_state(fields, restarts),
                batch=fields["BatchFlag"] == "1",
                may_requeue=fields["Requeue"] == "1",
                restarts=restarts,
            )
    raise ScontrolError(f"scontrol shows no job {job}")


def parse_state(fields: Mapping[str, str], restarts: int) -> str:
    state = fields["JobState"]
    if state in ("RUNNING", "SIGNALING"):
        return "RUNNING"
    if int(fields["Restarts"]) > restarts:
        return "REQUEUED"
    if state == "COMPLETING":
        return "TIMEOUT" if fields["Reason"] == "TimeLimit" else "CANCELLED"
    return state


def scontrol(*arguments: str) -> str:
    """Return the output of scontrol.

    Raises:
        ScontrolError: it is not installed, does not answer, or fails.
    """
    message = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_S)
        try:
            done = subprocess.run(
                ["scontrol", *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL
            )
        except FileNotFoundError:
            raise ScontrolError("there is no scontrol on PATH") from None
        except subprocess.TimeoutExpired:
            message = f"scontrol {arguments[0]} did not answer within {TIMEOUT_S:g} s"
            continue
        if done.returncode == 0:
            return done.stdout
        message = " ".join(done.stderr.split()) or f"scontrol {arguments[0]} ended with code {done.returncode}"
        if not re.search("contact slurm controller|timed out|try again", message, re.IGNORECASE):
            break
    raise ScontrolError(message)
