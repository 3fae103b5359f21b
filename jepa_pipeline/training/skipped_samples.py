"""Samples that could not be used: counted, each named once, and too many of them stop the run."""

import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.batch import Batch
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.remote import without_secrets
from jepa_pipeline.distributed import collect, rank, world_size
from jepa_pipeline.training.callbacks import StepCallback, due
from jepa_pipeline.training.checkpoint import steps as kept_checkpoints
from jepa_pipeline.training.loggers import append, trim
from jepa_pipeline.training.module import Pretraining
from lightning import Trainer

DAMAGED = "damaged.jsonl"
JUDGED_FROM = 1000
"""Samples before which one damaged sample would say too much."""


class DamageReport(StepCallback):
    """What was skipped, in damaged.jsonl and on the console. Several processes tell one another with each line of the log."""

    def __init__(self, console: Console, settle: Callable[[], None]) -> None:
        """settle: waits for a checkpoint that is being written, so that it can be named."""
        self.console = console
        self.settle = settle
        self.found: list[tuple[int, int, int, str]] = []
        """Step, data set, sample and reason of what this process has not yet told."""

    def on_train_start(self, trainer: Trainer, pl_module: Pretraining) -> None:
        super().on_train_start(trainer, pl_module)
        self.path = pl_module.config.folder / DAMAGED
        self.first_step = pl_module.step + 1
        self.named = {(row["data"], row["sample"]) for row in trim(self.path, sys.maxsize)} if rank() == 0 else set()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Pretraining, outputs: Any, batch: Batch, batch_idx: int) -> None:
        step = self.first_step + batch_idx // pl_module.config.optim.accumulate_steps
        pl_module.skipped += len(batch.damaged)
        self.found += [(step, one.source, one.sample, one.reason) for one in batch.damaged]
        if world_size() == 1:
            self.tell(pl_module)
        super().on_train_batch_end(trainer, pl_module)

    def tell(self, module: Pretraining) -> None:
        """Have the first process name what all have found."""
        everything = [one for found in collect(self.found) for one in found]
        self.found = []
        if rank() > 0:
            return
        for step, source, sample, reason in sorted(everything):
            data = without_secrets(module.config.data.train[source].path)
            if (data, sample) not in self.named:
                self.named.add((data, sample))
                append(self.path, {"step": step, "data": data, "sample": sample, "reason": reason})
                self.console.print(f"skipped: {reason}", soft_wrap=True, markup=False, highlight=False)

    def on_step(self, trainer: Trainer, module: Pretraining) -> None:
        """Look whether it has become too much.

        Raises:
            UserError: more than data.damage.limit of the samples were skipped.
        """
        if world_size() > 1:
            if not due(module, module.config.log.every_steps):
                return
            self.tell(module)
        limit, skipped = module.config.data.damage.limit, sum(collect(module.skipped))
        if skipped > limit * module.samples and (module.samples >= JUDGED_FROM or module.step == module.config.optim.total_steps):
            self.settle()
            raise UserError(
                f"{skipped} of {module.samples} samples could not be used, more than data.damage.limit {limit:g} allows; "
                f"they are named in {self.path}: mend the data, or raise the limit; {continuation(module.config)}"
            )


def continuation(config: RunConfig) -> str:
    """What becomes of a run that ends here when its command is given again."""
    kept = kept_checkpoints(config.folder / "checkpoints")
    return f"the same command goes on from {kept[-1].name}" if kept else "there is no checkpoint yet, so it would start anew"
