"""The progress of a run and signs of collapse, from the end of its metrics.jsonl."""

import os
from pathlib import Path
from typing import NamedTuple

from jepa_pipeline.cluster.collapse import describe_collapse
from jepa_pipeline.cluster.records import JobRecord
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.files import STEP, parse_json_lines

TAIL_BYTES = 200_000
"""Bytes read from the end of metrics.jsonl; they contain a line of each kind."""


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
        """Return the verdict on collapse; "-" before the first measurement."""
        return describe_collapse(self.rank, self.std, self.cosine) or "-"


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
        rows = parse_json_lines(file.read().split(b"\n"), STEP)  # the first line may be cut off, the last half written
    return {key: value for row in rows for key, value in row.items() if isinstance(value, int | float)}
