"""Faults that strike a living run, the moments at which they do, and how a run may end after each."""

import resource
import signal
import time
from contextlib import suppress
from random import Random
from typing import NamedTuple

from jepa_pipeline.config.errors import Interrupted, UserError
from jepa_pipeline.selftest.process import LiveRun, Phase, send
from jepa_pipeline.training.watchdog import ABORTED

SIGNALS = {"sigint": signal.SIGINT, "sigterm": signal.SIGTERM, "sigusr1": signal.SIGUSR1}
FAULTS = ("kill", "kill-one", "stop", *SIGNALS, "full-disk", "damaged-shards", "slow-server")
"""kill: SIGKILL to the first process, or to all; kill-one: to another one, such as a data worker; stop: SIGSTOP for a while.

full-disk: no file may grow beyond some size; damaged-shards: they are cut, overwritten or gone; slow-server: the data come from a
server that is slow, fails and damages what it sends.
"""
DATA_FAULTS = ("damaged-shards", "slow-server")
"""Faults that are there when the run starts."""
SURVIVED = ("stop", "slow-server")
"""Faults that must not end a run."""
NOTHING = "nothing"
"""The fault of a start without one."""
MOMENTS = ("imports", "steps", "checkpoint")
"""Phases of a run in which faults are to meet it; what is imported in the first one is followed by its setup."""
LONGEST_STOP_S = 2.0
SIGNALED = {*(-number for number in SIGNALS.values()), *(128 + number for number in SIGNALS.values())}
"""Exit codes of a process that a signal has ended before it handled it, and what a shell makes of them."""


class Rhythm(NamedTuple):
    """Seconds that the quiet run took: from its start to its first step, for a step, for a checkpoint; and its largest file."""

    start_s: float
    step_s: float
    checkpoint_s: float
    largest_file: int


class Strike(NamedTuple):
    """A fault that has met the run, and how the run ended.

    Attributes:
        fault: its name.
        target: what it met, in words.
        phase: of the run at that moment.
        step: steps that the run had taken.
        code: the exit code; None if the run continued.
        problem: what was wrong with that, or None.
    """

    fault: str
    target: str
    phase: Phase
    step: int
    code: int | None = None
    problem: str | None = None

    def __str__(self) -> str:
        ended = "the run continued" if self.code is None else f"exit code {self.code}"
        return f"{self.fault} ({self.target}) in {self.phase} after step {self.step}: {self.problem or ended}"


def wait_for_moment(
    run: LiveRun, fault: str, where: str, steps: tuple[int, int], random: Random, rhythm: Rhythm, limit_s: float
) -> bool:
    """Wait for a random moment; return whether the run still lives then.

    Args:
        run: the run.
        fault: its name.
        where: one of MOMENTS.
        steps: first and last step after which the fault may strike.
        random: chooses the moment.
        rhythm: of the quiet run.
        limit_s: longest time to wait.
    """
    if where == "imports" and not run.begun:
        # Data workers inherit a limit of file sizes, and their shared memory are files too, so it comes before they do.
        delay = 0.0 if fault == "full-disk" else random.uniform(0, rhythm.start_s)
        return run.wait(lambda: time.monotonic() > run.started + delay, limit_s)
    step, delay = random.randint(*steps), random.uniform(0, rhythm.checkpoint_s if where == "checkpoint" else rhythm.step_s)
    if not run.wait(lambda: run.begun and run.steps() >= step, limit_s):
        return False
    run.wait(lambda: run.phase() in (where, "end"), limit_s, pause_s=0.001)
    time.sleep(delay)
    return run.look()


def strike(run: LiveRun, fault: str, random: Random, rhythm: Rhythm) -> Strike:
    """Let a fault meet the run, now."""
    first, *others = run.pids() or [run.process.pid]
    everything = [first, *others]
    step, phase = run.steps(), run.phase()
    if fault == "full-disk":
        size = int(random.uniform(0, rhythm.largest_file)) if run.begun else 0
        for pid in run.trainers():
            with suppress(ProcessLookupError):
                _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))
        return Strike(fault, f"files up to {size} bytes", phase, step)
    if fault == "kill-one":
        chosen, target = [random.choice(others or [first])], f"one of {len(everything)} processes"
    else:
        whole = len(everything) > 1 and random.random() < 0.5
        chosen, target = (everything, f"all {len(everything)} processes") if whole else ([first], "the first process")
    number = SIGNALS.get(fault, signal.SIGSTOP if fault == "stop" else signal.SIGKILL)
    for pid in chosen:
        send(pid, number)
    if fault == "stop":
        stopped_s = random.uniform(0.1, LONGEST_STOP_S)
        time.sleep(stopped_s)
        for pid in chosen:
            send(pid, signal.SIGCONT)
        target += f" for {stopped_s:.1f} s"
    return Strike(fault, target, phase, step)


def judge(struck: Strike, code: int | None, checkpoint: int, total_steps: int) -> str | None:
    """Return what is wrong with the end of a run after a fault, or None.

    Args:
        struck: the fault.
        code: exit code of the run; None if it has not ended in time.
        checkpoint: step of the newest checkpoint.
        total_steps: steps of a finished run.
    """
    if code is None:
        return "it hangs"
    if code == 0 and checkpoint == total_steps:
        return None
    # handlers of signals are installed before the first step and removed after the last one
    handled = struck.phase in ("steps", "checkpoint") and struck.step < total_steps - 1
    if struck.fault in SIGNALS:
        if code == Interrupted.exit_code:
            may_lose = not handled or struck.fault == "sigint"  # Ctrl-C may end a slow step if under a minute is lost
            return None if checkpoint >= struck.step or may_lose else f"stopped at step {checkpoint}, so steps are lost"
        expected = set() if handled else SIGNALED
    elif struck.fault == "kill":
        expected = {-signal.SIGKILL, 128 + signal.SIGKILL}
    elif struck.fault == "kill-one":
        expected = {UserError.exit_code, ABORTED, -signal.SIGKILL, 128 + signal.SIGKILL}
    elif struck.fault in (*SURVIVED, NOTHING):
        expected = set[int]()
    else:
        expected = {UserError.exit_code}
    return None if code in expected else f"exit code {code}"
