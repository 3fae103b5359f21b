"""Devices, precision, logging, checkpoints and probes of a run. Only precision changes its results beyond rounding."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from jepa_pipeline.config.section import MAX_COUNT, Section

HEALTH_VECTORS = 2048
"""Newest targets, and predictions, over all ranks, on which collapse is measured: several times the width of a ViT-S."""
STOP_WITHIN_S = 120.0
"""Seconds after a stop signal within which a run must save and exit, or it is killed: a hanging file system must not hold a job."""


LIGHTNING = {"gpu": "cuda", "32-true": "fp32", "32": "fp32", 32: "fp32", "bf16-mixed": "bf16"}
"""Values of Lightning's Trainer that mean exactly one of ours."""


def translate_lightning(value: object) -> object:
    """Return the value that Lightning calls so, and any other as it is."""
    return LIGHTNING.get(value, value) if isinstance(value, str | int) else value


class TrainerConfig(Section):
    """Devices, precision and compilation."""

    accelerator: Annotated[Literal["auto", "cpu", "cuda"], BeforeValidator(translate_lightning)] = Field(
        default="auto", description="auto: a CUDA GPU if there is one. Lightning's gpu means cuda."
    )
    devices: int | None = Field(
        default=None,
        ge=1,
        le=MAX_COUNT,
        description="Devices per node, one process each; null: as many as Slurm or torchrun started, else 1.",
    )
    nodes: int | None = Field(default=None, ge=1, description="Machines; null: as many as Slurm or torchrun started, else 1.")
    strategy: Literal["auto", "ddp", "fsdp2", "hsdp"] = Field(
        default="auto",
        description="ddp: every device holds all weights. fsdp2: weights, optimizer state and EMA target are sharded over all "
        "devices, block by block. hsdp: sharded within a node and replicated over nodes. auto: ddp.",
    )
    checkpoint_activations: bool = Field(
        default=False,
        description="Recompute each transformer block in the backward pass instead of storing its activations: less memory, "
        "about a third more time.",
    )
    precision: Annotated[Literal["fp32", "bf16"], BeforeValidator(translate_lightning)] = Field(
        default="fp32",
        description="bf16: networks compute in bfloat16 and weights stay fp32. Lightning's 32-true and bf16-mixed mean the same.",
    )
    compile: bool = Field(
        default=False, description="torch.compile the networks: worth its minutes of start-up on a GPU, rarely on a CPU."
    )
    deterministic: bool = Field(
        default=False, description="Use only deterministic kernels, so that CUDA runs repeat bit for bit; some are slower."
    )
    threads: int | None = Field(
        default=None, ge=1, le=MAX_COUNT, description="CPU threads of a training process; null: torch's default."
    )
    stuck_s: float | None = Field(
        default=1800.0,
        gt=0,
        description="Seconds without a step, on any process, after which the run ends and reports where each process is; "
        "null: never.",
    )
    silent_s: float = Field(
        default=60.0,
        ge=1,
        description="Seconds without a sign of life after which a process of several is taken for dead, and the run ends.",
    )
    restarts: int | None = Field(
        default=None,
        ge=0,
        description="Times that all processes are started again in place, from the last checkpoint, when one has died, hung or "
        "failed by itself; not after a stop signal or a mistake in the recipe or the data. Null: as many as torchrun's "
        "--max-restarts, else 0.",
    )

    @property
    def processes(self) -> int:
        """Return the number of processes over all nodes; 1 if the launcher decides."""
        return (self.devices or 1) * (self.nodes or 1)


class LogConfig(Section):
    """Logging besides the loss; metrics.jsonl is always written."""

    every_steps: int = Field(default=20, ge=1, description="Optimizer steps between two lines of metrics.jsonl.")
    hashes_every_steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps between two SHA-256 hashes of the whole state in hashes.jsonl; null: none."
    )
    wandb: bool = Field(default=False, description="Also log to Weights & Biases; offline unless an API key is set.")
    wandb_project: str = Field(default="jepa_pipeline", min_length=1, description="Weights & Biases project.")


class HealthConfig(Section):
    """Measurement of collapse."""

    every_steps: int = Field(default=100, ge=1, description="Optimizer steps between two measurements.")


class CheckpointConfig(Section):
    """The schedule of checkpoints, and how many are kept."""

    every_steps: int = Field(
        default=1000, ge=1, description="Optimizer steps between two checkpoints; the last step is always saved."
    )
    every_minutes: float | None = Field(
        default=15.0, gt=0, description="Minutes since the last checkpoint after which the next step saves one; null: never."
    )
    background: bool = Field(
        default=True, description="Save from a copy in main memory while training continues; false: wait until it is written."
    )
    keep_last: int = Field(default=2, ge=1, description="Newest checkpoints that are kept.")


class ProbingConfig(Section):
    """Probes of the encoder during training, each a job or process of its own that the run does not wait for."""

    every_steps: int | None = Field(
        default=None,
        ge=1,
        description="Optimizer steps between two snapshots of the exported encoder, RUN/snapshots/STEP, each of which is probed; "
        "null: none. Snapshots are never deleted: a ViT-S/16 takes 87 MB, a ViT-H/16 2.5 GB.",
    )
    arguments: tuple[str, ...] = Field(
        default=(),
        description="Arguments of `jepa probe SNAPSHOT`, such as [--data, data/imagenet, 'protocols=[knn]'], and of `jepa "
        "submit`, such as --set, time=1:00:00.",
    )
    submit: bool = Field(
        default=True,
        description="Probe in a Slurm job, as `jepa submit` does; false: in a process on the same device, which ends with the "
        "training job.",
    )
    site: Path | None = Field(
        default=None, description="Site file of the probe jobs; null: $JEPA_SITE, else ~/.config/jepa_pipeline/site.yaml."
    )
