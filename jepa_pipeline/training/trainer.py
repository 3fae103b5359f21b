"""Lightning's Trainer: what a run uses of it, and what is switched off.

Used: the loop over micro-batches and its accumulation of gradients, the transfer of batches to the device, autocast, DDP
(without a synchronization between the micro-batches of a step), deterministic kernels, and the hooks of module and callbacks.

Switched off, with what does it instead:

- Checkpoints: async_save.py and checkpoint_callback.py. A run resumes in the middle of an epoch, under any number of processes
  and any strategy, from files whose hashes are checked, and saving does not wait for the disk. Lightning's checkpoints do none
  of this.
- Epochs, validation, sanity check: the stream of samples has no epochs, so max_epochs is -1 and max_steps ends the run.
- Samplers: the loader's batch sampler already contains only this rank's share.
- Starting processes and the process group: processes.py, since the watchdog must watch the group from its first collective on.
  ExternalProcessEnvironment reports to Lightning what it finds.
- Signals: Trainer.fit installs its own handlers; StopSignals.listen takes the signals back in on_train_start.
- Learning rate schedulers and gradient clipping: module.py. Rates are functions of the step, and nothing needs to be restored.
- Logger, progress bar, model summary: loggers.py and callbacks.py.
- Callbacks of installed packages, and arguments from PL_TRAINER_* variables: nothing does it instead. They would change runs
  whose recipe does not mention them.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from inspect import signature
from unittest.mock import patch

import torch

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.config.trainer import TrainerConfig
from jepa_pipeline.training.parallel import SHARDED
from jepa_pipeline.training.processes import RankInfo
from lightning import Callback, Trainer
from lightning.pytorch.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

# bf16-mixed enters autocast with cache_enabled=False (lightning/pytorch/plugins/precision/amp.py): each call of a network casts
# its weights anew, so the gradients of several calls are summed in fp32. With autocast's default cache, as in Fabric or a plain
# loop, they are summed in bf16 and a run has other bits.
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}

IRRELEVANT_WARNINGS = (
    ".*does not have many workers.*",
    ".*LeafSpec.* is deprecated.*",
    ".*`srun` command is available.*",
    "`broadcast_buffers` is deprecated.*",  # its replacement does not exist in every supported torch
    ".*returned a view tensor.*",  # no module changes its output in place
)


CALLBACKS_GROUP = "lightning.pytorch.callbacks_factory"
"""Entry points of installed packages whose callbacks Lightning adds to every Trainer."""
ARGUMENT_PREFIX = "PL_TRAINER_"
"""Prefix of environment variables that Lightning takes as arguments of a Trainer."""


class ExternalProcessEnvironment(ClusterEnvironment):
    """Processes that exist and have already joined a process group.

    Each is reported as a node of one device, since Slurm may let a process see only its own GPU or all GPUs of its node.
    """

    def __init__(self, info: RankInfo) -> None:
        super().__init__()
        self.info = info

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self.info.master_addr

    @property
    def main_port(self) -> int:
        return self.info.master_port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.info.world_size

    def global_rank(self) -> int:
        return self.info.rank

    def node_rank(self) -> int:
        return self.info.rank

    def local_rank(self) -> int:
        return 0

    def set_world_size(self, size: int) -> None: ...

    def set_global_rank(self, rank: int) -> None: ...


def build_trainer(
    config: TrainerConfig,
    accelerator: str,
    info: RankInfo,
    steps: int,
    accumulate_steps: int,
    callbacks: Sequence[Callback],
    log: Callable[[str], object],
) -> Trainer:
    """Return a Trainer of a number of optimizer steps, which calls these callbacks and no others.

    Args:
        config: strategy, precision and determinism.
        accelerator: `cpu` or `cuda`.
        info: this process among those of the run.
        steps: optimizer steps until the end.
        accumulate_steps: micro-batches per step.
        callbacks: in the order of `callback_order.order_callbacks`.
        log: called with a sentence for each callback or argument from elsewhere that Lightning would have used.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in IRRELEVANT_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    strategy = build_strategy(config.strategy, info)
    with without_strangers(log):
        trainer = Trainer(
            accelerator=accelerator,
            devices=[torch.cuda.current_device()] if accelerator == "cuda" and strategy != "auto" else 1,
            num_nodes=info.world_size,
            strategy=strategy,
            deterministic=config.deterministic,
            precision=PRECISIONS[config.precision],  # pyright: ignore[reportArgumentType]
            max_steps=steps,
            max_epochs=-1,
            accumulate_grad_batches=accumulate_steps,
            callbacks=list(callbacks),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            # without a plugin Lightning detects Slurm by itself, and takes a job of several tasks for a run of several processes
            plugins=[LightningEnvironment() if strategy == "auto" else ExternalProcessEnvironment(info)],
        )
    # a Lightning that adds others in another way does not run them either
    trainer.callbacks = list(callbacks)  # pyright: ignore[reportAttributeAccessIssue]
    return trainer


@contextmanager
def without_strangers(log: Callable[[str], object]) -> Iterator[None]:
    """Keep Lightning from importing callbacks of installed packages and from taking arguments from the environment."""
    for entry in entry_points(group=CALLBACKS_GROUP):
        package = entry.dist.name if entry.dist else "an installed package"
        log(f"{package} offers Lightning a callback for every run ({entry.value}), which is not used: a run has only its own")
    names = (f"{ARGUMENT_PREFIX}{name.upper()}" for name in signature(Trainer).parameters)
    variables = {name: os.environ.pop(name) for name in names if name in os.environ}
    for name, value in variables.items():
        log(f"{name}={value} is an argument for Lightning's Trainer, which is not used: a run has only those of its recipe")
    try:
        with patch("lightning.fabric.utilities.registry.entry_points", lambda **_: (), create=True):
            yield
    finally:
        os.environ.update(variables)


def build_strategy(name: str, info: RankInfo) -> Strategy | str:
    if name in SHARDED:
        return ModelParallelStrategy(data_parallel_size=info.world_size, tensor_parallel_size=1)
    if info.world_size == 1:
        return "auto"
    # buffers that must be equal on all ranks are computed from gathered values, so DDP need not broadcast them at every forward
    return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
