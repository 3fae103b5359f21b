"""The whole of a pretraining run as one typed tree."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from jepa_pipeline.config.data import DataConfig
from jepa_pipeline.config.jepa import IJepaConfig
from jepa_pipeline.config.methods import MethodConfig
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.optim import OptimConfig
from jepa_pipeline.config.section import Section
from jepa_pipeline.config.trainer import CheckpointConfig, HealthConfig, LogConfig, ProbingConfig, TrainerConfig
from jepa_pipeline.config.views import ViewsConfig

FREE = (
    "name",
    "output",
    "data.train",
    "data.workers",
    "data.prefetch_batches",
    "data.damage.",
    "data.cache.",
    "trainer.devices",
    "trainer.nodes",
    "trainer.strategy",
    "trainer.checkpoint_activations",
    "trainer.silent_s",
    "trainer.stuck_s",
    "log.",
    "health.every_steps",
    "checkpoint.",
    "probing.",
)
"""Keys that cannot change what a run computes, so that it may go on with other values. Of the data it is the hash that counts."""


class RunConfig(Section):
    """A pretraining run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the run and of its folder.")
    output: Path = Field(default=Path("runs"), description="The run folder is made in here.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Key of every random number: weights, order, crops, masks.")
    init_from: Path | None = Field(
        default=None,
        description="Run folder whose newest checkpoint this run begins with: networks, target and the optimizer's moments, at "
        "step 0 of schedules and data. Sizes of images and lengths of clips may differ. Null: untrained networks.",
    )
    data: DataConfig = Field(description="The shards.")
    views: ViewsConfig = Field(default_factory=ViewsConfig, description="How a view of an image is made.")
    method: MethodConfig = Field(discriminator="name", description="What is learned.")
    optim: OptimConfig = Field(description="How long and how fast.")
    trainer: TrainerConfig = Field(default_factory=TrainerConfig, description="Where it computes.")
    log: LogConfig = Field(default_factory=LogConfig, description="What is written on the way.")
    health: HealthConfig = Field(default_factory=HealthConfig, description="How collapse is measured.")
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig, description="What is kept.")
    probing: ProbingConfig = Field(default_factory=ProbingConfig, description="How good the encoder is on the way.")

    @model_validator(mode="after")
    def devices_share_the_batch(self) -> Self:
        self.check_processes(self.trainer.processes)
        return self

    def check_processes(self, count: int) -> None:
        """Whether so many processes can share a batch.

        Raises:
            ValueError: not evenly, or they could not put together what a regularizer compares.
        """
        optim = self.optim
        if optim.batch_size_global % (count * optim.accumulate_steps):
            raise ValueError(
                f"optim.batch_size_global {optim.batch_size_global} cannot be dealt evenly to {count} devices (trainer.devices x "
                f"trainer.nodes) in optim.accumulate_steps {optim.accumulate_steps}"
            )
        self.method.check_part(optim.batch_size_global // (count * optim.accumulate_steps))
        method = self.method
        if count > 1 and isinstance(method, IJepaConfig) and method.masks.legacy and method.regularizer.name != "none":
            raise ValueError(
                f"method.masks.legacy leaves each of {count} processes another number of tokens, but method.regularizer "
                f"{method.regularizer.name} compares those of all: set legacy to false, use one process, or have no regularizer"
            )

    @model_validator(mode="after")
    def the_method_is_given_its_views(self) -> Self:
        sizes = self.views.sizes(self.method.encoder.image_size)
        self.method.check_views(sizes)
        return self

    @model_validator(mode="after")
    def clips_are_cropped_by_workers(self) -> Self:
        encoder = self.method.encoder
        if not (isinstance(encoder, EncoderConfig) and encoder.clips):
            return self
        for number, crop in enumerate(self.views.crops):
            if crop.colors:
                raise ValueError(f"views.crops.{number} changes colors, but clips are only cropped and mirrored: leave that out")
        if self.views.device == "trainer":
            raise ValueError(
                "views.device is trainer, but clips are cut by the workers that decode them: set it to auto or workers"
            )
        return self

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.output / self.name

    def results(self) -> dict[str, object]:
        """Every value that can change what the run computes, by its dotted key."""
        return {key: value for key, value in flatten(self.model_dump(mode="json")) if not key.startswith(FREE)}

    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of every value that can change what the run computes."""
        text = json.dumps(self.results(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def flatten(tree: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """The leaves of nested sections, and of lists of them, by their dotted keys."""
    for key, value in tree.items():
        if isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
            value = {str(number): entry for number, entry in enumerate(value)}
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
