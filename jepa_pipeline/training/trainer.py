"""Lightning's trainer, with all that is ours taken out of its hands."""

import logging
import warnings
from collections.abc import Sequence

import torch

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.training.parallel import SHARDED
from jepa_pipeline.training.processes import World
from lightning import Callback, Trainer
from lightning.pytorch.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


class Met(ClusterEnvironment):
    """Tells Lightning that all processes are there and have met.

    Each is shown to it as a node of one device, for Slurm may let a process see its own GPU alone or all of a node.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self.world.address

    @property
    def main_port(self) -> int:
        return self.world.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.world.size

    def global_rank(self) -> int:
        return self.world.rank

    def node_rank(self) -> int:
        return self.world.rank

    def local_rank(self) -> int:
        return 0

    def set_world_size(self, size: int) -> None: ...

    def set_global_rank(self, rank: int) -> None: ...


def build_trainer(config: RunConfig, accelerator: str, world: World, steps: int, callbacks: Sequence[Callback]) -> Trainer:
    """A loop over so many optimizer steps; checkpoints, logs and the order of the data are not its business."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated.*")
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated.*")  # what replaces it is not in every torch
    warnings.filterwarnings("ignore", message=".*returned a view tensor.*")  # nothing here changes an output in place
    strategy = choose_strategy(config, world)
    return Trainer(
        accelerator=accelerator,
        devices=[torch.cuda.current_device()] if accelerator == "cuda" and strategy != "auto" else 1,
        num_nodes=world.size,
        strategy=strategy,
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
        # without it Lightning takes a Slurm job of several tasks for a run of several processes
        plugins=[LightningEnvironment() if strategy == "auto" else Met(world)],
    )


def choose_strategy(config: RunConfig, world: World) -> Strategy | str:
    """DDP sends nothing but gradients: buffers are each process's own, and what must be alike in them is made so."""
    if config.trainer.strategy in SHARDED:
        return ModelParallelStrategy(data_parallel_size=world.size, tensor_parallel_size=1)
    if world.size == 1:
        return "auto"
    return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
