"""The states of jobs, from one call of sacct and one of squeue for all of them.

submitit's Job.state is not enough: it needs accounting, and knows neither exit codes nor restarts nor why a job waits.
"""

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from jepa_pipeline.cluster.records import array_id
from jepa_pipeline.config.errors import UserError

ENDED = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "PREEMPTED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
    "REVOKED",
)
TIMEOUT_S = 60


class JobState(NamedTuple):
    """The state of a job as Slurm reports it.

    Args:
        name: such as RUNNING; UNKNOWN if Slurm does not know the job anymore.
        reason: what a pending job waits for, or who canceled it.
        restarts: times it was requeued.
        elapsed: time since it was last started, as [D-]HH:MM:SS.
        exit: exit code such as "2", or "signal 9".
    """

    name: str
    reason: str = ""
    restarts: int = 0
    elapsed: str = ""
    exit: str = ""

    @property
    def ended(self) -> bool:
        """Return whether it has ended, for any reason."""
        return self.name in ENDED

    @property
    def live(self) -> bool:
        """Return whether it runs or will run."""
        return not self.ended and self.name != "UNKNOWN"

    @property
    def failed(self) -> bool:
        """Return whether it has ended without success and was not canceled."""
        return self.ended and self.name not in ("COMPLETED", "CANCELLED")

    def __str__(self) -> str:
        details = [self.reason, f"exit {self.exit}" if self.failed and self.exit else ""]
        details.append(f"restarts: {self.restarts}" if self.restarts else "")
        text = ", ".join(detail for detail in details if detail)
        return self.name + (f" ({text})" if text else "")


UNKNOWN = JobState("UNKNOWN")


def query_states(jobs: Sequence[str]) -> dict[str, JobState]:
    """Return the state of each job; UNKNOWN for those that Slurm does not know anymore.

    Raises:
        UserError: Slurm's commands are not installed, or do not answer.
    """
    if not jobs:
        return {}
    if shutil.which("squeue") is None:
        raise UserError("squeue is not on PATH: run this on a machine of the cluster")
    arrays = ",".join(dict.fromkeys(map(array_id, jobs)))
    fields = "--format=JobID,State,Elapsed,ExitCode"
    accounted = run_slurm("sacct", "--parsable2", "--noheader", "--allocations", "--duplicates", f"--jobs={arrays}", fields)
    # by user, because squeue fails on the id of a job that is gone; without accounting, it still knows the recently ended ones
    selection = ["--me"] if accounted is not None else ["--me", "--states=all"]
    queued = run_slurm("squeue", "--noheader", "--array", *selection, "--format=%i|%T|%M|%r")
    if accounted is None and queued is None:
        raise UserError("neither sacct nor squeue answers: check Slurm's controller with 'scontrol ping'")
    states = parse_sacct(accounted or "")
    for job, state in parse_squeue(queued or "").items():
        # squeue is up to date, but only sacct knows restarts and exit codes
        states[job] = state._replace(restarts=states.get(job, UNKNOWN).restarts, exit=states.get(job, UNKNOWN).exit)
    return {job: states.get(job, UNKNOWN) for job in jobs}


def run_slurm(*command: str) -> str | None:
    """Return the output of a Slurm command; None if it fails, as sacct does without accounting."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
            env={**os.environ, "SLURM_BITSTR_LEN": "0"},  # else the task list of a long array is truncated
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def parse_sacct(text: str) -> dict[str, JobState]:
    """Return the states in rows JobID|State|Elapsed|ExitCode; each start of a job has a row, and the last one counts."""
    states: dict[str, JobState] = {}
    for line in text.splitlines():
        job, state, elapsed, exit_code = line.split("|")
        name, _, reason = state.partition(" ")  # "CANCELLED by 1000"
        code, _, signal = exit_code.partition(":")
        if reason.removeprefix("by ").isdecimal():
            reason = f"by {user_name(int(reason.removeprefix('by ')))}"
        for task in expand_array(job):
            before = states.get(task)
            restarts = before.restarts + 1 if before is not None else 0
            states[task] = JobState(name, reason, restarts, elapsed, f"signal {signal}" if signal not in ("", "0") else code)
    return states


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def parse_squeue(text: str) -> dict[str, JobState]:
    """Return the states in rows ID|STATE|ELAPSED|REASON, one per job or array task."""
    states = {}
    for line in text.splitlines():
        job, name, elapsed, reason = line.split("|", 3)
        states[job] = JobState(name, reason if name == "PENDING" and reason != "None" else "", elapsed=elapsed)
    return states


def expand_array(job: str) -> Iterator[str]:
    """Yield the jobs of an id: pending tasks of an array are listed as "123_[0-3,7%2]"."""
    array, _, tasks = job.partition("_[")
    if not tasks:
        yield job
        return
    for part in re.sub(r"%\d+", "", tasks.rstrip("]")).split(","):
        first, _, last = part.partition("-")
        yield from (f"{array}_{number}" for number in range(int(first), int(last or first) + 1))


def cancel_jobs(jobs: Sequence[str]) -> None:
    """Cancel jobs by their ids.

    Raises:
        UserError: Slurm refuses.
    """
    if shutil.which("scancel") is None:
        raise UserError("scancel is not on PATH: run this on a machine of the cluster")
    done = subprocess.run(["scancel", *jobs], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        raise UserError(f"scancel failed: {' '.join(done.stderr.split()) or 'it gave no reason'}")
