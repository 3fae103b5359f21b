"""How long, how fast, and with how many samples a step."""

from typing import Self

from pydantic import Field, model_validator

from jepa_pipeline.config.section import Section


class OptimConfig(Section):
    """AdamW with a warm-up-then-cosine rate and a cosine weight decay; every horizon is a number of samples said here."""

    batch_size_global: int = Field(
        default=2048, ge=1, description="Samples per optimiser step, over all devices and accumulated parts."
    )
    accumulate_steps: int = Field(default=1, ge=1, description="Parts in which a global batch is computed, to fit memory.")
    total_samples: int = Field(ge=1, description="Samples the run sees before it stops, repeats counted.")
    warmup_samples: int = Field(default=0, ge=0, description="Samples over which the rate rises linearly from start_lr to lr.")
    schedule_stretch: float = Field(
        default=1.0,
        ge=1.0,
        description="Rate, weight decay and EMA are planned for this many times total_samples (I-JEPA's ipe_scale).",
    )
    lr: float = Field(default=1e-3, gt=0, description="Peak learning rate.")
    start_lr: float = Field(default=2e-4, ge=0, description="Learning rate the warm-up rises from.")
    final_lr: float = Field(default=1e-6, ge=0, description="Learning rate at the end of the (stretched) cosine.")
    weight_decay: float = Field(default=0.04, ge=0, description="Weight decay at the start; norms and biases have none.")
    final_weight_decay: float = Field(default=0.4, ge=0, description="Weight decay at the end of the (stretched) cosine.")
    betas: tuple[float, float] = Field(
        default=(0.9, 0.999), description="AdamW's averaging factors of gradient and squared gradient."
    )
    eps: float = Field(default=1e-8, gt=0, description="AdamW's addition to the denominator.")
    clip_norm: float | None = Field(default=None, gt=0, description="Largest global norm of the gradient; null leaves it as it is.")

    @model_validator(mode="after")
    def horizons_agree(self) -> Self:
        if self.total_samples < self.batch_size_global:
            raise ValueError(
                f"total_samples {self.total_samples} is less than one batch of batch_size_global {self.batch_size_global}"
            )
        if self.warmup_samples >= self.total_samples * self.schedule_stretch:
            raise ValueError(f"warmup_samples {self.warmup_samples} leaves nothing of total_samples {self.total_samples}")
        if self.batch_size_global % self.accumulate_steps:
            raise ValueError(
                f"batch_size_global {self.batch_size_global} cannot be split into accumulate_steps "
                f"{self.accumulate_steps} equal parts"
            )
        for beta in self.betas:
            if not 0 <= beta < 1:
                raise ValueError(f"betas are {list(self.betas)}: each must be in [0, 1)")
        return self

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the run."""
        return self.total_samples // self.batch_size_global

    @property
    def warmup_steps(self) -> int:
        """Optimiser steps of the warm-up."""
        return self.warmup_samples // self.batch_size_global

    @property
    def schedule_steps(self) -> int:
        """Optimiser steps the schedules are planned for; the run ends earlier when schedule_stretch is above 1."""
        return int(self.total_steps * self.schedule_stretch)
