"""The configuration of a pretraining run."""

import hashlib
import json
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.data import DataConfig
from jepa_pipeline.config.methods import MethodConfig
from jepa_pipeline.config.optim import OptimConfig
from jepa_pipeline.config.pixel_format import MAX_CHANNELS, RGB8, RGB_CHANNELS
from jepa_pipeline.config.removed import added_default
from jepa_pipeline.config.section import Section, flatten
from jepa_pipeline.config.trainer import CheckpointConfig, HealthConfig, LogConfig, ProbingConfig, TrainerConfig
from jepa_pipeline.config.views import ViewsConfig

RESULT_NEUTRAL_KEYS = (
    "name",
    "output",
    "data.train",  # the hash of the data set is compared instead
    "data.workers",
    "data.prefetch_batches",
    "data.check_hashes",
    "data.damage.",
    "data.cache.",
    "trainer.devices",
    "trainer.nodes",
    "trainer.strategy",
    "trainer.checkpoint_activations",
    "trainer.stuck_s",
    "trainer.silent_s",
    "trainer.restarts",
    "log.",
    "health.every_steps",
    "checkpoint.",
    "probing.",
)
"""Prefixes of keys that do not change what a run computes, so that a run may resume with other values."""


class RunConfig(Section):
    """A pretraining run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the run and of its folder.")
    output: Path = Field(default=Path("runs"), description="Folder in which the run folder is created.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of all random numbers: weights, order, crops, masks.")
    init_from: Path | None = Field(
        default=None,
        description="What initializes this run, at step 0 of schedules and data: a run folder (networks, target and optimizer "
        "state of its newest checkpoint), or an encoder folder such as RUN/encoder or what `jepa import` writes (encoder and "
        "target; all else is new). Image sizes, clip lengths, patch sizes and channels may differ. Null: random initialization.",
    )
    data: DataConfig = Field(description="Shards and how they are read.")
    views: ViewsConfig = Field(default_factory=ViewsConfig, description="Crops and augmentations.")
    method: MethodConfig = Field(discriminator="name", description="Method, networks and masks.")
    optim: OptimConfig = Field(description="Optimizer, batch size and schedules.")
    trainer: TrainerConfig = Field(default_factory=TrainerConfig, description="Devices and precision.")
    log: LogConfig = Field(default_factory=LogConfig, description="Logging.")
    health: HealthConfig = Field(default_factory=HealthConfig, description="Measurement of collapse.")
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig, description="Checkpoints.")
    probing: ProbingConfig = Field(default_factory=ProbingConfig, description="Probes of the encoder during training.")

    @model_validator(mode="before")
    @classmethod
    def set_in_channels(cls, values: Any) -> Any:
        """Give the encoder of the pixels data.channels, where a recipe gives it none of its own."""
        match values:
            case {"data": {"channels": int(channels)}, "method": {"levels": [{"encoder": {**encoder}} as first, *above]} as method}:
                method = {**method, "levels": [{**first, "encoder": {"in_channels": channels, **encoder}}, *above]}
            case {"data": {"channels": int(channels)}, "method": {"encoder": {**encoder}} as method}:
                method = {**method, "encoder": {"in_channels": channels, **encoder}}
            case _:
                return values
        return {**values, "method": method} if 1 <= channels <= MAX_CHANNELS else values

    @model_validator(mode="after")
    def check_channels(self) -> Self:
        channels, encoder = self.data.channels, self.method.encoder
        if encoder.in_channels != channels:
            raise ValueError(
                f"data.channels is {channels}, but in_channels of the method's encoder is {encoder.in_channels}: remove "
                "in_channels, which follows data.channels, or give both the same number"
            )
        if len(self.views.mean) != channels:
            raise ValueError(
                f"data.channels is {channels}, but views.mean and views.std have {len(self.views.mean)} values: take those that "
                "`jepa shards stats` or `jepa shards check` prints for the data"
            )
        if encoder.modality.has_time and self.data.pixel_format != RGB8:
            raise ValueError(
                f"data gives images of {self.data.pixel_format}, but clips are 8-bit RGB, as videos are decoded: remove "
                "data.channels and data.bits, or choose a method and frames: 1 for images"
            )
        if channels != RGB_CHANNELS:
            for number, crop in enumerate(self.views.crops):
                for key, off in crop.rgb_keys.items():
                    raise ValueError(
                        f"views.crops.{number}.{key} changes RGB colors, but data.channels is {channels}: set "
                        f"views.crops.{number}.{key} to {off}; crops, flips and blur work on any channels"
                    )
        return self

    @model_validator(mode="after")
    def check_trainer(self) -> Self:
        self.check_processes(self.trainer.processes)
        return self

    def check_processes(self, count: int) -> None:
        """Raise ValueError if `count` processes cannot train on equal parts of a batch."""
        optim = self.optim
        if optim.batch_size_global % (count * optim.accumulate_steps):
            raise ValueError(
                f"optim.batch_size_global {optim.batch_size_global} is not divisible by {count} devices (trainer.devices x "
                f"trainer.nodes) x optim.accumulate_steps {optim.accumulate_steps}"
            )
        self.method.check_micro_batch(optim.batch_size_global // (count * optim.accumulate_steps), count)

    @model_validator(mode="after")
    def check_views(self) -> Self:
        encoder = self.method.encoder
        self.method.check_views(self.views.sizes(encoder.image_size))
        if not encoder.modality.cropped_on_device:
            for number, crop in enumerate(self.views.crops):
                if crop.colors:
                    raise ValueError(
                        f"views.crops.{number} changes colors, but {encoder.modality.unit} are only cropped and flipped: remove "
                        "jitter, gray, blur and solarize"
                    )
            if self.views.device == "trainer":
                raise ValueError(
                    f"views.device is trainer, but the workers that decode {encoder.modality.unit} crop them: set it to auto or "
                    "workers"
                )
        return self

    @property
    def folder(self) -> Path:
        """Return the run folder."""
        return self.output / self.name

    def results(self) -> dict[str, object]:
        """Return every value that can change what the run computes, by its dotted key.

        Keys that earlier versions did not have are left out at the value that those used, so that their runs can be resumed
        and keep their hash.
        """
        values = flatten(self.model_dump(mode="json"))
        return {k: v for k, v in values if not k.startswith(RESULT_NEUTRAL_KEYS) and not added_default(k, v)}

    def hash(self) -> str:
        """Return the first 12 hex digits of the SHA-256 of `results`."""
        text = json.dumps(self.results(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
