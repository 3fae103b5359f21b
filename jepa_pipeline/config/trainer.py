"""Where a run computes, what it logs and what it keeps. Nothing here but precision can change its results beyond rounding."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from jepa_pipeline.config.section import Section


class TrainerConfig(Section):
    """The machine."""

    accelerator: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto takes a CUDA GPU if there is one.")
    devices: int | None = Field(
        default=None, ge=1, description="Devices per node, a process each; null: as many as Slurm or torchrun started, else 1."
    )
    nodes: int | None = Field(default=None, ge=1, description="Machines; null: as many as Slurm or torchrun started, else 1.")
    strategy: Literal["auto", "ddp", "fsdp2", "hsdp"] = Field(
        default="auto",
        description="How several devices share the work: ddp, each has all weights; fsdp2, weights, moments and the EMA target are "
        "dealt out to all devices, block by block; hsdp, dealt out within a node and alike on all nodes. auto: ddp.",
    )
    checkpoint_activations: bool = Field(
        default=False,
        description="Compute the inside of each transformer block again on the way back in place of keeping it: less memory, about "
        "a third more time.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="bf16 computes the networks in bfloat16; weights stay fp32."
    )
    compile: bool = Field(
        default=False, description="torch.compile the networks; worth its minutes of start on a GPU, seldom on a CPU."
    )
    deterministic: bool = Field(
        default=False, description="Only deterministic kernels, so that CUDA runs repeat bit for bit too; some are slower."
    )
    threads: int | None = Field(default=None, ge=1, description="CPU threads of a training process; null leaves torch's choice.")
    silent_s: float = Field(
        default=60.0, gt=0, description="Seconds without a sign of life after which a process is taken for dead and the run ends."
    )
    stuck_s: float | None = Field(
        default=1800.0,
        gt=0,
        description="Seconds without a step, on any process, after which the run ends and says where each process is; null: never.",
    )

    @property
    def processes(self) -> int:
        """How many processes are asked for, over all nodes; 1 where it is left to who starts them."""
        return (self.devices or 1) * (self.nodes or 1)


class LogConfig(Section):
    """What is written while the run goes on; metrics.jsonl is always written."""

    every_steps: int = Field(default=20, ge=1, description="Optimizer steps between two lines of metrics.jsonl.")
    hashes_every_steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps between two lines of hashes.jsonl, the SHA-256 of all state; null: none."
    )
    wandb: bool = Field(default=False, description="Also log to Weights & Biases; offline unless a key is set.")
    wandb_project: str = Field(default="jepa_pipeline", min_length=1, description="The Weights & Biases project.")


class HealthConfig(Section):
    """The ring buffers on which collapse is measured."""

    vectors: int = Field(default=2048, ge=2, description="Vectors of targets and of predictions that are kept.")
    vectors_per_step: int = Field(default=64, ge=1, description="Vectors taken from each step.")
    every_steps: int = Field(default=100, ge=1, description="Optimizer steps between two measurements.")


class CheckpointConfig(Section):
    """What is kept on disk."""

    every_steps: int = Field(
        default=1000, ge=1, description="Optimizer steps between two checkpoints; the last step always writes one."
    )
    every_minutes: float | None = Field(
        default=15.0, gt=0, description="Minutes after which one is written at the next step even so; null: only by steps."
    )
    background: bool = Field(
        default=True, description="Write while training goes on, from a copy in the host's memory; false waits for every write."
    )
    keep_last: int = Field(default=2, ge=1, description="Newest checkpoints that are kept.")
    keep_every: int | None = Field(
        default=None, ge=1, description="Checkpoints whose step is a multiple of this are kept for ever; null: none."
    )
    leave_within_s: float = Field(
        default=120.0, gt=0, description="Seconds from a stop signal until the process is ended by force, should saving hang."
    )


class ProbingConfig(Section):
    """Probes of the encoder while the run goes on, each by a job or a process of its own that the run does not wait for."""

    every_steps: int | None = Field(
        default=None,
        ge=1,
        description="Optimizer steps between two snapshots of the kept encoder, RUN/snapshots/STEP, each of which is probed; null: "
        "none. All snapshots stay: one of a ViT-S/16 takes 87 MB, of a ViT-H/16 2.5 GB.",
    )
    arguments: tuple[str, ...] = Field(
        default=(),
        description="What follows the snapshot in `jepa probe SNAPSHOT ...`, such as [--data, data/imagenet, 'protocols=[knn]'], "
        "and options of `jepa submit`, such as --set, time=1:00:00.",
    )
    submit: bool = Field(
        default=True,
        description="Each as a Slurm job, as by `jepa submit`; false: as a process beside the training, on the same device, which "
        "a Slurm job that ends takes along.",
    )
    site: Path | None = Field(
        default=None, description="The site file of these jobs; null: $JEPA_SITE, else ~/.config/jepa_pipeline/site.yaml."
    )
