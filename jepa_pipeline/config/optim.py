"""How long, how fast, with how many samples a step, and by which optimizer: one class an optimizer."""

from math import sqrt
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from jepa_pipeline.config.section import Section

PeakRate = Annotated[float, Field(gt=0, description="Peak learning rate, before the factor of lr_rule.")]
StartRate = Annotated[float, Field(ge=0, description="Learning rate the warm-up rises from, before the factor of lr_rule.")]
FinalRate = Annotated[
    float, Field(ge=0, description="Learning rate at the end of the (stretched) schedule, before the factor of lr_rule.")
]
Decay = Annotated[float, Field(ge=0, description="Weight decay at the start; norms and biases have none.")]
FinalDecay = Annotated[
    Annotated[float, Field(ge=0)] | None,
    Field(description="Weight decay at the end of the (stretched) cosine; null: as weight_decay."),
]
Momentum = Annotated[float, Field(ge=0, lt=1, description="Share of its last step that a step begins with.")]


class ScheduleConfig(Section):
    """A rate that warms up, may stay, and decays; a cosine weight decay. Every horizon is a number of samples said here."""

    batch_size_global: int = Field(
        default=2048, ge=1, description="Samples per optimizer step, over all devices and accumulated parts."
    )
    accumulate_steps: int = Field(
        default=1,
        ge=1,
        description="Parts in which a global batch is computed, to fit memory. Batch norm, and losses that compare samples, see "
        "one at a time.",
    )
    total_samples: int = Field(ge=1, description="Samples the run sees before it stops, repeats counted.")
    warmup_samples: int = Field(default=0, ge=0, description="Samples over which the rate rises linearly from start_lr to lr.")
    constant_samples: int = Field(
        default=0, ge=0, description="Samples after the warm-up during which the rate stays at lr, before it decays."
    )
    decay: Literal["cosine", "linear"] = Field(
        default="cosine", description="How the rate falls from lr to final_lr, from there to the end of the (stretched) schedule."
    )
    schedule_stretch: float = Field(
        default=1.0,
        ge=1.0,
        description="Rate, weight decay and EMA are planned for this many times total_samples (I-JEPA's ipe_scale).",
    )
    lr: PeakRate
    start_lr: StartRate = 0.0
    final_lr: FinalRate = 0.0
    lr_rule: Literal["absolute", "linear", "sqrt"] = Field(
        default="absolute",
        description="Factor of every learning rate here: absolute, 1; linear, batch_size_global / lr_batch_size; sqrt, its root.",
    )
    lr_batch_size: int = Field(
        default=256, ge=1, description="Samples per optimizer step for which the rates are said; of no account under absolute."
    )
    weight_decay: Decay = 0.0
    final_weight_decay: FinalDecay = None
    clip_norm: float | None = Field(default=None, gt=0, description="Largest global norm of the gradient; null leaves it as it is.")

    @model_validator(mode="after")
    def horizons_agree(self) -> Self:
        if self.total_samples < self.batch_size_global:
            raise ValueError(
                f"total_samples {self.total_samples} is less than one batch of batch_size_global {self.batch_size_global}"
            )
        if self.warmup_samples >= self.total_samples * self.schedule_stretch:
            raise ValueError(f"warmup_samples {self.warmup_samples} leaves nothing of total_samples {self.total_samples}")
        if self.warmup_samples + self.constant_samples > self.total_samples * self.schedule_stretch:
            raise ValueError(
                f"warmup_samples {self.warmup_samples} and constant_samples {self.constant_samples} are more than total_samples "
                f"{self.total_samples}: lower one"
            )
        if self.batch_size_global % self.accumulate_steps:
            raise ValueError(
                f"batch_size_global {self.batch_size_global} cannot be split into accumulate_steps "
                f"{self.accumulate_steps} equal parts"
            )
        return self

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.total_samples // self.batch_size_global

    @property
    def warmup_steps(self) -> int:
        """Optimizer steps of the warm-up."""
        return self.warmup_samples // self.batch_size_global

    @property
    def decay_from(self) -> int:
        """Optimizer steps before the rate begins to fall."""
        return (self.warmup_samples + self.constant_samples) // self.batch_size_global

    @property
    def schedule_steps(self) -> int:
        """Optimizer steps the schedules are planned for; the run ends earlier when schedule_stretch is above 1."""
        return int(self.total_steps * self.schedule_stretch)

    @property
    def lr_factor(self) -> float:
        """What lr_rule multiplies every learning rate by."""
        ratio = self.batch_size_global / self.lr_batch_size
        return {"absolute": 1.0, "linear": ratio, "sqrt": sqrt(ratio)}[self.lr_rule]

    def describe_rate(self) -> str:
        """The peak rate and how it came about, such as "peak lr 0.2 x 2048/256 = 1.6"."""
        return f"peak lr {self.describe_product(self.lr)}"

    def describe_product(self, rate: float) -> str:
        ratio = f"{self.batch_size_global}/{self.lr_batch_size}"
        factor = {"absolute": "", "linear": f" x {ratio}", "sqrt": f" x sqrt({ratio})"}[self.lr_rule]
        return f"{rate:g}{factor} = {rate * self.lr_factor:.4g}" if factor else f"{rate:g}"


class AdamWConfig(ScheduleConfig):
    """AdamW (Loshchilov and Hutter 2019)."""

    name: Literal["adamw"] = Field(default="adamw", description="Which optimizer; adamw where it is not said.")
    lr: PeakRate = 1e-3
    start_lr: StartRate = 2e-4
    final_lr: FinalRate = 1e-6
    weight_decay: Decay = 0.04
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="Averaging factors of gradient and squared gradient.")
    eps: float = Field(default=1e-8, gt=0, description="Added to the denominator.")

    @model_validator(mode="after")
    def betas_are_shares(self) -> Self:
        for beta in self.betas:
            if not 0 <= beta < 1:
                raise ValueError(f"betas are {list(self.betas)}: each must be in [0, 1)")
        return self


class LARSConfig(ScheduleConfig):
    """LARS (You et al. 2017): momentum, and for each weight matrix a rate of its own, in proportion to its norm.

    VICReg, Barlow Twins and BYOL train so: lr 0.2 with `lr_rule: linear`.
    """

    name: Literal["lars"] = Field(description="Which optimizer.")
    weight_decay: Decay = 1e-6
    lr_biases: float | None = Field(
        default=None,
        gt=0,
        description="Peak learning rate of biases and norms, before the factor of lr_rule; their whole curve is the weights' times "
        "lr_biases / lr. Null: as lr.",
    )
    momentum: Momentum = 0.9
    trust_coefficient: float = Field(
        default=1e-3, gt=0, description="Length of a weight's step at rate 1, as a share of the weight's own norm."
    )

    def describe_rate(self) -> str:
        biases = f", of biases and norms {self.describe_product(self.lr_biases)}" if self.lr_biases is not None else ""
        return super().describe_rate() + biases


class SGDConfig(ScheduleConfig):
    """Gradient descent with momentum."""

    name: Literal["sgd"] = Field(description="Which optimizer.")
    weight_decay: Decay = 1e-4
    momentum: Momentum = 0.9


def optimizer_name(section: Any) -> str:
    """Which optimizer a section speaks of, read from a file or built."""
    return str(section.get("name", "adamw") if isinstance(section, dict) else getattr(section, "name", "adamw"))


OptimConfig = Annotated[
    Annotated[AdamWConfig, Tag("adamw")] | Annotated[LARSConfig, Tag("lars")] | Annotated[SGDConfig, Tag("sgd")],
    Discriminator(optimizer_name),
]
