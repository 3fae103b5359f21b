"""The progress of a run and signs of collapse, from the end of its metrics.jsonl."""

import json
import os
from pathlib import Path
from typing import NamedTuple

from jepa_pipeline.cluster.records import JobRecord
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config

TAIL_BYTES = 200_000
"""Bytes read from the end of metrics.jsonl; they contain a line of each kind."""

MIN_RANK, MIN_STD, MAX_COSINE = 2.0, 1e-4, 0.99
"""Limits of the targets' effective rank, deviation and mean cosine; beyond any of them, all inputs are represented alike."""


class Progress(NamedTuple):
    """The latest metrics of a run; None for those not measured yet. rank, std and cosine are the targets'."""

    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    samples_per_s: float | None = None
    rank: float | None = None
    std: float | None = None
    cosine: float | None = None

    @property
    def steps(self) -> str:
        """Return the step and the total, such as "1,200/20,000"."""
        if self.step is None and self.total_steps is None:
            return "-"
        return f"{self.step or 0:,}/{'?' if self.total_steps is None else f'{self.total_steps:,}'}"

    @property
    def verdict(self) -> str:
        """Return "collapsed" if any limit is passed, else the rank, which alone does not tell how good a run is."""
        if self.rank is None or self.std is None or self.cosine is None:
            return "-"
        collapsed = self.rank < MIN_RANK or self.std < MIN_STD or self.cosine > MAX_COSINE
        return "collapsed" if collapsed else f"rank {self.rank:.0f}"


def read_progress(record: JobRecord) -> Progress:
    """Return the progress of a pretraining job; an empty one for other jobs."""
    if record.command[0] != "pretrain":
        return Progress()
    latest = read_last_values(record.run / "metrics.jsonl")
    return Progress(
        step=None if "step" not in latest else int(latest["step"]),
        total_steps=total_steps(record.run),
        loss=latest.get("loss"),
        samples_per_s=latest.get("samples_per_s"),
        rank=latest.get("health/target_rankme"),
        std=latest.get("health/target_std_mean"),
        cosine=latest.get("health/target_cosine"),
    )


def total_steps(run: Path) -> int | None:
    try:
        return load_config(run).optim.total_steps
    except UserError:  # the run has not started
        return None


def read_last_values(path: Path) -> dict[str, float | int]:
    """Return the last value of every key in the end of a file of JSON lines."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    values: dict[str, float | int] = {}
    for line in lines:
        try:
            values |= json.loads(line)
        except (ValueError, TypeError, RecursionError):
            continue  # the first line may be cut off, the last half written
    return values
