"""Lightning's trainer, with all that is ours taken out of its hands."""

import logging
import warnings
from collections.abc import Sequence

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.config.run import RunConfig
from lightning import Callback, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


def build_trainer(config: RunConfig, accelerator: str, steps: int, callbacks: Sequence[Callback]) -> Trainer:
    """A loop over so many optimiser steps; checkpoints, logs and the order of the data are not its business."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated.*")
    return Trainer(
        accelerator=accelerator,
        devices=1,
        deterministic=config.trainer.deterministic,
        precision=PRECISIONS[config.trainer.precision],  # pyright: ignore[reportArgumentType]
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=config.optim.accumulate_steps,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=[LightningEnvironment()],  # else it takes a Slurm job of several tasks for a run of several processes
    )
