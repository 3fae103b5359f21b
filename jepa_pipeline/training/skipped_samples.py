"""Unusable samples: each is named once in damaged.jsonl and on the console, and too many of them end the run."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.batch import Batch
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.console import print_plain
from jepa_pipeline.distributed import all_gather_object, rank, world_size
from jepa_pipeline.training.callbacks import StepCallback, is_due
from jepa_pipeline.training.checkpoint import list_checkpoints as list_checkpoints
from jepa_pipeline.training.loggers import append_row, truncate_rows
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.signals import NOTHING_SAVED
from lightning import Trainer

DAMAGED = "damaged.jsonl"
KEYS = {"step": int, "data": str, "sample": int, "reason": str}
"""Keys of each row of it, and the types of their values."""
MIN_SAMPLES = 1000
"""Samples from which on the share of skipped ones is compared with the limit; before, a single one could exceed it."""


class SkippedSamples(StepCallback):
    """Counts and names the samples that the data workers replaced because they are unusable.

    Several processes exchange what they found at every log step, a single one at every batch.

    Args:
        run: the run folder.
        sources: names of the data sets.
        limit: share of skipped samples above which the run ends.
        every_steps: log.every_steps.
        console: shows the names.
        settle: waits for a checkpoint that is being written, so that the error can name it.
    """

    def __init__(
        self,
        run: Path,
        sources: Sequence[str],
        limit: float,
        every_steps: int,
        console: Console,
        settle: Callable[[], None],
    ) -> None:
        self.path = run / DAMAGED
        self.checkpoints = run / "checkpoints"
        self.sources = sources
        self.limit = limit
        self.every_steps = every_steps
        self.console = console
        self.settle = settle
        self.pending: list[tuple[int, int, int, str]] = []
        """Step, data set, sample and reason of what this process has found and not yet reported."""

    def on_train_start(self, trainer: Trainer, pl_module: Pretraining) -> None:
        super().on_train_start(trainer, pl_module)
        self.first_step = pl_module.step + 1
        self.named = set()
        if rank() == 0:  # all rows stay, since a sample is named once even if the run was resumed from before it
            self.named = {(row["data"], row["sample"]) for row in truncate_rows(self.path, sys.maxsize, KEYS)}

    def on_train_batch_end(self, trainer: Trainer, pl_module: Pretraining, outputs: Any, batch: Batch, batch_idx: int) -> None:
        step = self.first_step + batch_idx // pl_module.optim.accumulate_steps
        pl_module.skipped += len(batch.damaged)
        self.pending += [(step, sample.source, sample.sample, sample.reason) for sample in batch.damaged]
        if world_size() == 1:
            self.report()
        super().on_train_batch_end(trainer, pl_module)

    def report(self) -> None:
        """Write and print the samples that any process has found. All ranks must call this."""
        found = sorted(row for rows in all_gather_object(self.pending) for row in rows)
        self.pending = []
        if rank() > 0:
            return
        for step, source, sample, reason in found:
            data = self.sources[source]
            if (data, sample) not in self.named:
                self.named.add((data, sample))
                append_row(self.path, {"step": step, "data": data, "sample": sample, "reason": reason})
                print_plain(self.console, f"skipped: {reason}")

    def on_step(self, trainer: Trainer, module: Pretraining) -> None:
        """Compare the share of skipped samples with the limit.

        Raises:
            UserError: it is above data.damage.limit.
        """
        if world_size() > 1:
            if not is_due(module, self.every_steps):
                return
            self.report()
        skipped = sum(all_gather_object(module.skipped))
        enough = module.samples >= MIN_SAMPLES or module.step == module.optim.total_steps
        if enough and skipped > self.limit * module.samples:
            self.settle()
            raise UserError(
                f"{skipped} of {module.samples} samples are unusable, more than data.damage.limit {self.limit:g} allows; they "
                f"are listed in {self.path}: fix the data, or raise the limit; {describe_restart(self.checkpoints)}"
            )


def describe_restart(checkpoints: Path) -> str:
    """Return what the same command will do after the run has ended here."""
    found = list_checkpoints(checkpoints)
    if found:
        return f"the same command resumes from {found[-1]}"
    return f"{NOTHING_SAVED}, so the same command starts over"
