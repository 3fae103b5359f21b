"""Where numbers go while a run goes on: metrics.jsonl always, Weights & Biases when asked for."""

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any

from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.remote import without_secrets
from jepa_pipeline.distributed import rank
from jepa_pipeline.files import atomic_write

Row = dict[str, float | int]


class MetricsWriter:
    """metrics.jsonl of a run: one object a line, flushed line by line; steps that are run again are dropped first.

    Of several processes the first alone writes.
    """

    def __init__(self, config: RunConfig, start_step: int) -> None:
        self.path = config.folder / "metrics.jsonl"
        self.writes = rank() == 0
        rows = trim(self.path, start_step) if self.writes else []
        self.seconds_before = max((row["seconds"] for row in rows if "seconds" in row), default=0.0)
        self.wandb = WandbRun(config) if config.log.wandb and self.writes else None

    def write(self, row: Row) -> None:
        if not self.writes:
            return
        append(self.path, row)
        if self.wandb is not None:
            self.wandb.log(row)

    def close(self) -> None:
        if self.wandb is not None:
            self.wandb.finish()


def trim(path: Path, last_step: int) -> list[Any]:
    """Drop the lines of later steps, which will be run again; those that stay."""
    rows = [row for row in read_rows(path) if row["step"] <= last_step]
    atomic_write(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def append(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_rows(path: Path) -> list[Any]:
    """Every whole line of a file of JSON lines; a killed run may leave half of one at the end."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def wandb_id(folder: Path) -> str:
    """The run's own, kept in its folder: begun anew elsewhere, or after the folder was deleted, it is another run."""
    path = folder / "wandb_id"
    if not path.exists():
        atomic_write(path, token_hex(8))
    return path.read_text()


class WandbRun:
    """Weights & Biases; offline unless a key is set. Its failures are said once and never end a run."""

    def __init__(self, config: RunConfig) -> None:
        self.run: Any = None
        self.attempt(self.start, config)

    def start(self, config: RunConfig) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
        self.run = wandb.init(
            project=config.log.wandb_project,
            name=config.name,
            id=wandb_id(config.folder),
            resume="allow",
            dir=str(config.folder),
            config=json.loads(without_secrets(config.model_dump_json())),
            mode=mode,  # pyright: ignore[reportArgumentType]
        )

    def log(self, row: Row) -> None:
        if self.run is not None:
            self.attempt(self.run.log, row, step=row["step"])

    def finish(self) -> None:
        if self.run is not None:
            self.attempt(self.run.finish)

    def attempt(self, action: Any, *args: Any, **kwargs: Any) -> None:
        try:
            action(*args, **kwargs)
        except Exception as error:  # a logger of any make must not cost a run; metrics.jsonl has everything
            self.run = None
            warnings.warn(f"wandb failed and is left out from here on: {error or type(error).__name__}", stacklevel=2)
