"""How far a run is, and whether it collapses, by the end of its metrics.jsonl."""

import json
import os
from pathlib import Path
from typing import NamedTuple

from jepa_pipeline.cluster.records import Record
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config

TAIL_BYTES = 200_000
"""Of the log of a long run only this much is read; the newest line of each kind is in it."""

LEAST_RANK, LEAST_STD, MOST_COSINE = 2.0, 1e-4, 0.99
"""Of the targets: beyond any of them all inputs are given nearly one and the same representation."""


class Progress(NamedTuple):
    """The newest numbers of a run; None of what was not measured yet. rank, std and cosine are of its targets."""

    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    samples_per_s: float | None = None
    rank: float | None = None
    std: float | None = None
    cosine: float | None = None

    @property
    def steps(self) -> str:
        if self.step is None and self.total_steps is None:
            return "-"
        return f"{self.step or 0:,}/{'?' if self.total_steps is None else f'{self.total_steps:,}'}"

    @property
    def verdict(self) -> str:
        """collapsed, where one measure says so; else the rank, which alone says nothing of how good a run is."""
        if self.rank is None or self.std is None or self.cosine is None:
            return "-"
        collapsed = self.rank < LEAST_RANK or self.std < LEAST_STD or self.cosine > MOST_COSINE
        return "collapsed" if collapsed else f"rank {self.rank:.0f}"


def progress_of(record: Record) -> Progress:
    """Of a pretraining job; nothing of another."""
    if record.command[0] != "pretrain":
        return Progress()
    newest = newest_values(record.run / "metrics.jsonl")
    return Progress(
        step=None if "step" not in newest else int(newest["step"]),
        total_steps=total_steps(record.run),
        loss=newest.get("loss"),
        samples_per_s=newest.get("samples_per_s"),
        rank=newest.get("health/target_rankme"),
        std=newest.get("health/target_std_mean"),
        cosine=newest.get("health/target_cosine"),
    )


def total_steps(run: Path) -> int | None:
    """What the run is to reach; None before it has begun."""
    try:
        return load_config(run).optim.total_steps
    except UserError:
        return None


def newest_values(path: Path) -> dict[str, float | int]:
    """The newest value of every key of a file of JSON lines, read from its end."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    newest: dict[str, float | int] = {}
    for line in lines:
        try:
            newest |= json.loads(line)
        except ValueError:
            continue  # the first is cut where reading began, and the last may be half written
    return newest
