"""Restarts in place: a launcher starts all processes of a run again when one has died, and they resume from the last checkpoint.

The launcher is ours or torchrun; both say by the same environment variables how often. A job's way back through Slurm's queue is
requeue.py's, and is taken only when no restart is left.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jepa_pipeline.config.errors import Interrupted, UserError
from jepa_pipeline.files import read_json_lines
from jepa_pipeline.training.requeue import Log, record_restart
from jepa_pipeline.training.signals import FORCED, SECOND_CTRL_C, STOP_SIGNALS

COUNT, LIMIT = "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"
"""Environment variables of torchrun, which our own launcher sets too."""
REASON = "JEPA_RESTART_REASON"
"""Environment variable of our own launcher: why it started the processes again."""
DELIBERATE = (0, UserError.exit_code, Interrupted.exit_code, SECOND_CTRL_C, FORCED, *(-number for number in STOP_SIGNALS))
"""Exit codes of processes that succeeded, found a mistake of the user or were asked to stop: a restart would change nothing."""


class Restarts(NamedTuple):
    """How often the launcher has started the processes again, and how often it may.

    torchrun's agents count by themselves, so that the counts of two machines may differ.
    """

    count: int
    limit: int

    @property
    def left(self) -> int:
        """Return the number of restarts still to come."""
        return max(0, self.limit - self.count)


def read_restarts(environment: Mapping[str, str] | None = None) -> Restarts:
    """Return what the launcher of this process says; no restarts where it says nothing."""
    environment = os.environ if environment is None else environment
    return Restarts(int(environment.get(COUNT, 0)), int(environment.get(LIMIT, 0)))


def report_restart(folder: Path, saved: int, log: Log) -> None:
    """Write a line of requeues.jsonl, in one process that was started again and is about to resume from step `saved`."""
    restarts = read_restarts()
    if restarts.count == 0:
        return
    reason = os.environ.get(REASON) or "torchrun started the processes again"
    rows = read_json_lines(folder / "metrics.jsonl")
    record_restart(folder, reason, restarts.count, max(rows[-1]["step"] if rows else 0, saved), saved)
    where = f"resumes after step {saved}" if saved else "starts over, since there is no checkpoint yet"
    log(f"restart {restarts.count} of {restarts.limit} ({reason}): the run {where}")
