"""What has become of jobs, by one question to Slurm's accounting and one to its queue for all of them."""

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from typing import NamedTuple

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
PATIENCE_S = 60


class State(NamedTuple):
    """What Slurm says of a job.

    name: such as RUNNING; UNKNOWN of a job it has forgotten. why: what a pending job waits for, or who canceled it. restarts: how
    often it was queued again. elapsed: of its present start, as [D-]HH:MM:SS. exit: such as 2, or "signal 9".
    """

    name: str
    why: str = ""
    restarts: int = 0
    elapsed: str = ""
    exit: str = ""

    @property
    def ended(self) -> bool:
        return self.name in ENDED

    @property
    def live(self) -> bool:
        """Whether it runs or will run."""
        return not self.ended and self.name != "UNKNOWN"

    @property
    def failed(self) -> bool:
        return self.ended and self.name not in ("COMPLETED", "CANCELLED")

    def __str__(self) -> str:
        details = [self.why, f"exit {self.exit}" if self.failed and self.exit else ""]
        details.append(f"restarts: {self.restarts}" if self.restarts else "")
        said = ", ".join(detail for detail in details if detail)
        return self.name + (f" ({said})" if said else "")


UNKNOWN = State("UNKNOWN")


def states_of(ids: Sequence[str]) -> dict[str, State]:
    """The state of each job; UNKNOWN of those that Slurm does not know any more.

    Raises:
        UserError: Slurm's commands are not here, or do not answer.
    """
    if not ids:
        return {}
    if shutil.which("squeue") is None:
        raise UserError("squeue is not on PATH: ask on a machine of the cluster")
    mains = ",".join(dict.fromkeys(id.partition("_")[0] for id in ids))
    fields = "--format=JobID,State,Elapsed,ExitCode"
    booked = ask("sacct", "--parsable2", "--noheader", "--allocations", "--duplicates", f"--jobs={mains}", fields)
    # by user and not by job: of a job that is gone it makes an error. Without accounting it still knows those that ended lately
    which = ["--me"] if booked is not None else ["--me", "--states=all"]
    queued = ask("squeue", "--noheader", "--array", *which, "--format=%i|%T|%M|%r")
    if booked is None and queued is None:
        raise UserError("neither sacct nor squeue answers: is Slurm's controller up? 'scontrol ping' tells")
    found = read_sacct(booked or "")
    for id, state in read_squeue(queued or "").items():
        found[id] = state._replace(restarts=found.get(id, UNKNOWN).restarts, exit=found.get(id, UNKNOWN).exit)
    return {id: found.get(id, UNKNOWN) for id in ids}


def ask(*command: str) -> str | None:
    """What a command of Slurm's prints; None if it cannot answer, as sacct where nothing keeps accounts."""
    try:
        answer = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
            env={**os.environ, "SLURM_BITSTR_LEN": "0"},  # else the elements of a long array are cut short
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout


def read_sacct(text: str) -> dict[str, State]:
    """Rows JobID|State|Elapsed|ExitCode, with one for each time a job was started; the last is its state."""
    found: dict[str, State] = {}
    for line in text.splitlines():
        id, state, elapsed, exit = line.split("|")
        name, _, why = state.partition(" ")  # "CANCELLED by 1000"
        code, _, signal = exit.partition(":")
        if why.removeprefix("by ").isdecimal():
            why = f"by {user(int(why.removeprefix('by ')))}"
        for one in elements(id):
            before = found.get(one)
            restarts = before.restarts + 1 if before is not None else 0
            left = f"signal {signal}" if signal not in ("", "0") else code
            found[one] = State(name, why, restarts, elapsed, left)
    return found


def user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def read_squeue(text: str) -> dict[str, State]:
    """Rows ID|STATE|ELAPSED|REASON, one for each job and element of an array."""
    found = {}
    for line in text.splitlines():
        id, name, elapsed, reason = line.split("|", 3)
        found[id] = State(name, why=reason if name == "PENDING" and reason != "None" else "", elapsed=elapsed)
    return found


def elements(id: str) -> Iterator[str]:
    """The jobs an id stands for: elements of an array that have not begun are written as "123_[0-3,7%2]"."""
    main, _, inside = id.partition("_[")
    if not inside:
        yield id
        return
    for part in re.sub(r"%\d+", "", inside.rstrip("]")).split(","):
        first, _, last = part.partition("-")
        yield from (f"{main}_{number}" for number in range(int(first), int(last or first) + 1))


def cancel_jobs(ids: Sequence[str]) -> None:
    """Take jobs away, by their ids.

    Raises:
        UserError: Slurm refuses.
    """
    if shutil.which("scancel") is None:
        raise UserError("scancel is not on PATH: cancel on a machine of the cluster")
    done = subprocess.run(["scancel", *ids], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode:
        raise UserError(f"scancel refused: {' '.join(done.stderr.split()) or 'it did not say why'}")
