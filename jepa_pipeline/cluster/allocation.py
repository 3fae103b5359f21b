"""The Slurm job this process runs in, as Slurm itself sees it at this moment."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jepa_pipeline.config.errors import UserError

TRIES, TIMEOUT_S, PAUSE_S = 2, 15.0, 1.0
"""A busy controller answers late, or only when asked again."""
ON_ITS_WAY = "pending execution"
"""What Slurm answers to the second of two requeues."""


class SlurmRefused(UserError):
    """scontrol did not do what it was asked; the text holds its own words."""


class Allocation(NamedTuple):
    """A Slurm job, while its processes still run.

    Seen with Slurm 22.05, by a process that was just sent a signal. JobState is RUNNING when the signal was asked for with
    --signal or sent with `scancel --signal`; RUNNING, or for a moment SIGNALING, when the SIGTERM (or the job's own --signal)
    begins the grace time before a preemption; COMPLETING after scancel, at the time limit (Reason=TimeLimit), after `scontrol
    requeue` and at the end of that grace time (both: one restart more). `scontrol requeue` is even taken when COMPLETING.
    """

    job: str
    """SLURM_JOB_ID; of an array element ARRAY_ELEMENT, as the last element has the id of the array, and with it all would go."""
    state: str
    """Slurm's word, such as RUNNING, which SIGNALING is too. What it calls COMPLETING is REQUEUED if the job waits to be started
    again, TIMEOUT if its time limit came, else CANCELLED."""
    batch: bool
    """Whether it was submitted with sbatch: what salloc and srun start cannot go back into the queue."""
    may_requeue: bool
    restarts: int
    """How often it had been requeued when this process began."""


def job_id() -> str | None:
    """The number of the job this process runs in; None outside Slurm."""
    return os.environ.get("SLURM_JOB_ID") or None


def this_allocation(tell: Callable[[str], object] = lambda text: print(text, file=sys.stderr)) -> Allocation | None:
    """The job this process runs in; None outside Slurm, and where Slurm does not answer, which is said."""
    number = job_id()
    if number is None:
        return None
    try:
        return read(scontrol("show", "job", "-o", number), number, int(os.environ.get("SLURM_RESTART_COUNT") or 0))
    except SlurmRefused as error:
        tell(f"job {number}: nothing to be learned of it ({error})")
        return None


def requeue(job: str) -> None:
    """Stop the job and put it back into the queue. Slurm sends SIGTERM to its processes at once.

    Raises:
        SlurmRefused: with Slurm's own words.
    """
    try:
        scontrol("requeue", job)
    except SlurmRefused as error:
        if ON_ITS_WAY not in str(error):
            raise


def read(text: str, number: str, restarts: int) -> Allocation:
    """One job of the lines of `scontrol show job -o`, which for the id of an array are all of its elements."""
    for line in text.splitlines():
        fields = dict(reversed(re.findall(r"(\w+)=(\S*)", line)))  # the first of a name: later ones may be of a command line
        if fields.get("JobId") == number:
            return Allocation(
                job=f"{fields['ArrayJobId']}_{fields['ArrayTaskId']}" if "ArrayTaskId" in fields else number,
                state=state_of(fields, restarts),
                batch=fields["BatchFlag"] == "1",
                may_requeue=fields["Requeue"] == "1",
                restarts=restarts,
            )
    raise SlurmRefused(f"scontrol shows no job {number}")


def state_of(fields: Mapping[str, str], restarts: int) -> str:
    state = fields["JobState"]
    if state in ("RUNNING", "SIGNALING"):
        return "RUNNING"
    if int(fields["Restarts"]) > restarts:
        return "REQUEUED"
    if state == "COMPLETING":
        return "TIMEOUT" if fields["Reason"] == "TimeLimit" else "CANCELLED"
    return state


def scontrol(*words: str) -> str:
    """What it prints.

    Raises:
        SlurmRefused: it is not there, does not answer, or refuses.
    """
    said = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_S)
        try:
            done = subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)
        except FileNotFoundError:
            raise SlurmRefused("there is no scontrol on PATH") from None
        except subprocess.TimeoutExpired:
            said = f"scontrol {words[0]} did not answer within {TIMEOUT_S:g} s"
            continue
        if done.returncode == 0:
            return done.stdout
        said = " ".join(done.stderr.split()) or f"scontrol {words[0]} ended with code {done.returncode}"
        if not re.search("contact slurm controller|timed out|try again", said, re.IGNORECASE):
            break
    raise SlurmRefused(said)
