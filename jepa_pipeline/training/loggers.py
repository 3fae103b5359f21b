"""Loggers of a run: metrics.jsonl always, Weights & Biases on request."""

import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from secrets import token_hex
from typing import Any

from jepa_pipeline.console import typed_command
from jepa_pipeline.distributed import rank
from jepa_pipeline.files import STEP, atomic_write, name_errors, read_to_rewrite, write_json_lines
from jepa_pipeline.redaction import redact, redact_row, redact_values

HASHES = "hashes.jsonl"
"""The file of a run with the SHA-256 of all its values; see training/hashes.py."""

Row = dict[str, float | int]


class MetricsWriter:
    """Writes metrics.jsonl, one JSON object per line, on rank 0 only.

    Rows of steps after start_step, which a resumed run takes again, are deleted first.

    Args:
        path: metrics.jsonl of the run.
        start_step: step from which the run starts or resumes.
        wandb: receives the same rows.

    Attributes:
        seconds_before: seconds the run had trained at start_step.
        newest: the newest value of each key that was written.
    """

    def __init__(self, path: Path, start_step: int, wandb: "WandbRun | None" = None) -> None:
        self.path = path
        self.wandb = wandb
        self.newest: Row = {}
        rows = truncate_rows(path, start_step) if rank() == 0 else []
        self.seconds_before = max((row["seconds"] for row in rows if isinstance(row.get("seconds"), float)), default=0.0)

    def write(self, row: Row) -> None:
        self.newest |= row
        if rank() > 0:
            return
        append_row(self.path, row)
        if self.wandb is not None:
            self.wandb.log(row)

    def close(self) -> None:
        if self.wandb is not None:
            self.wandb.finish()


def truncate_rows(path: Path, last_step: int, keys: Mapping[str, type] = STEP) -> list[dict[str, Any]]:
    """Delete the rows of later steps; return the others.

    Args:
        path: a JSON lines file; where lines of it cannot be read, it is kept under another name too.
        last_step: last step whose rows stay.
        keys: see read_json_lines.
    """
    rows = [row for row in read_to_rewrite(path, keys) if row["step"] <= last_step]
    write_json_lines(path, rows)
    return rows


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    with name_errors(path), path.open("a") as file:
        file.write(json.dumps(redact_row(row)) + "\n")


class WandbRun:
    """A run of Weights & Biases, offline unless a key is set. If wandb fails, a warning says so and training continues.

    Args:
        folder: the run folder, where wandb's own files and the run's id are kept.
        name: name of the run.
        project: name of the project.
        config: the configuration, which the project shows without secrets.
    """

    def __init__(self, folder: Path, name: str, project: str, config: dict[str, Any]) -> None:
        self.run: Any = None
        self.attempt(lambda: self.start(folder, name, project, config))

    def start(self, folder: Path, name: str, project: str, config: dict[str, Any]) -> None:
        import wandb

        # kept in the run folder and random, so that a run started over after its folder was deleted is a new run in wandb
        id_file = folder / "wandb_id"
        if not id_file.exists():
            atomic_write(id_file, token_hex(8))
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
        words, sys.argv = sys.argv, list(map(redact, typed_command()))  # which wandb records
        try:
            self.run = wandb.init(
                project=redact(project),
                name=redact(name),
                id=id_file.read_text(),
                resume="allow",
                dir=str(folder),
                config=redact_values(config),
                mode=mode,  # pyright: ignore[reportArgumentType]
            )
        finally:
            sys.argv = words

    def log(self, row: Row) -> None:
        if self.run is not None:
            self.attempt(lambda: self.run.log(row, step=row["step"]))

    def finish(self) -> None:
        if self.run is not None:
            self.attempt(self.run.finish)

    def attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # metrics.jsonl has every row, so no failure of wandb may end a run
            self.run = None
            warnings.warn(f"wandb failed and is off from here on: {redact(str(error)) or type(error).__name__}", stacklevel=2)
