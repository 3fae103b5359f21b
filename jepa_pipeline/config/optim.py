"""Optimizers, batch size and schedules, one class per optimizer."""

from math import sqrt
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from jepa_pipeline.config.section import Section

PeakRate = Annotated[float, Field(gt=0, description="Peak learning rate, before the factor of lr_rule.")]
StartRate = Annotated[float, Field(ge=0, description="Learning rate at the start of the warm-up, before the factor of lr_rule.")]
FinalRate = Annotated[
    float, Field(ge=0, description="Learning rate at the end of the (stretched) schedule, before the factor of lr_rule.")
]
Decay = Annotated[float, Field(ge=0, description="Weight decay at the start; norms and biases are not decayed.")]
FinalDecay = Annotated[
    Annotated[float, Field(ge=0)] | None,
    Field(description="Weight decay at the end of the (stretched) cosine schedule; null: weight_decay."),
]
Momentum = Annotated[float, Field(ge=0, lt=1, description="Momentum.")]


class ScheduleConfig(Section):
    """Batch size, and schedules of learning rate (warm-up, constant, decay) and weight decay (cosine), in samples."""

    moment_tensors: ClassVar[int] = 1
    """Tensors of a weight's shape that the optimizer keeps."""
    step_counters: ClassVar[int] = 0
    """Scalars that the optimizer keeps per weight tensor."""

    batch_size_global: int = Field(
        default=2048, ge=1, description="Samples per optimizer step, over all devices and micro-batches."
    )
    accumulate_steps: int = Field(
        default=1,
        ge=1,
        description="Micro-batches of an optimizer step, to save memory. Batch norm, and losses that compare samples, see one "
        "micro-batch at a time.",
    )
    total_samples: int = Field(ge=1, description="Samples of the whole run, repetitions included.")
    warmup_samples: int = Field(
        default=0, ge=0, description="Samples over which the learning rate rises linearly from start_lr to lr."
    )
    constant_samples: int = Field(
        default=0, ge=0, description="Samples after the warm-up over which the learning rate stays at lr."
    )
    decay: Literal["cosine", "linear"] = Field(
        default="cosine", description="Shape of the decay from lr to final_lr at the end of the (stretched) schedule."
    )
    schedule_stretch: float = Field(
        default=1.0,
        ge=1.0,
        description="Length of the schedules of learning rate, weight decay and EMA over total_samples (I-JEPA's ipe_scale).",
    )
    lr: PeakRate
    start_lr: StartRate = 0.0
    final_lr: FinalRate = 0.0
    lr_rule: Literal["absolute", "linear", "sqrt"] = Field(
        default="absolute",
        description="Factor of all learning rates. absolute: 1; linear: batch_size_global / lr_batch_size; sqrt: its square root.",
    )
    lr_batch_size: int = Field(
        default=256, ge=1, description="Batch size for which the learning rates are given; ignored under lr_rule: absolute."
    )
    weight_decay: Decay = 0.0
    final_weight_decay: FinalDecay = None
    clip_norm: float | None = Field(
        default=None, gt=0, description="Gradient norm above which the gradient is scaled down; null: no clipping."
    )
    clip_after_warmup: bool = Field(default=False, description="Clip only in the steps after the warm-up, as V-JEPA does.")

    @model_validator(mode="after")
    def check_samples(self) -> Self:
        if self.total_samples < self.batch_size_global:
            raise ValueError(
                f"total_samples {self.total_samples} is less than one batch of batch_size_global {self.batch_size_global}"
            )
        if self.warmup_samples >= self.total_samples * self.schedule_stretch:
            raise ValueError(
                f"warmup_samples {self.warmup_samples} leaves nothing of total_samples {self.total_samples}: lower the first or "
                "raise the second"
            )
        if self.warmup_samples + self.constant_samples > self.total_samples * self.schedule_stretch:
            raise ValueError(
                f"warmup_samples {self.warmup_samples} and constant_samples {self.constant_samples} are more than total_samples "
                f"{self.total_samples}: lower one"
            )
        if self.clip_after_warmup and self.clip_norm is None:
            raise ValueError("clip_after_warmup is true, but clip_norm is null: set clip_norm, or remove clip_after_warmup")
        if self.batch_size_global % self.accumulate_steps:
            raise ValueError(
                f"batch_size_global {self.batch_size_global} is not divisible by accumulate_steps {self.accumulate_steps}"
            )
        return self

    @property
    def total_steps(self) -> int:
        """Return the optimizer steps of the run."""
        return self.total_samples // self.batch_size_global

    @property
    def warmup_steps(self) -> int:
        """Return the optimizer steps of the warm-up."""
        return self.warmup_samples // self.batch_size_global

    @property
    def decay_start(self) -> int:
        """Return the optimizer steps before the learning rate decays."""
        return (self.warmup_samples + self.constant_samples) // self.batch_size_global

    @property
    def schedule_steps(self) -> int:
        """Return the optimizer steps of the schedules; with schedule_stretch above 1, the run ends before them."""
        return int(self.total_steps * self.schedule_stretch)

    def clip_norm_at(self, step: int) -> float | None:
        """Return the gradient norm to clip at in a step, counted from 1; None: no clipping."""
        return None if self.clip_after_warmup and step <= self.warmup_steps else self.clip_norm

    @property
    def lr_factor(self) -> float:
        """Return the factor that lr_rule multiplies all learning rates by."""
        ratio = self.batch_size_global / self.lr_batch_size
        return {"absolute": 1.0, "linear": ratio, "sqrt": sqrt(ratio)}[self.lr_rule]

    def describe_lr(self) -> str:
        """Return the peak learning rate and its factors, such as "peak lr 0.2 x 2048/256 = 1.6"."""
        return f"peak lr {self.describe_product(self.lr)}"

    def describe_product(self, rate: float) -> str:
        ratio = f"{self.batch_size_global}/{self.lr_batch_size}"
        factor = {"absolute": "", "linear": f" x {ratio}", "sqrt": f" x sqrt({ratio})"}[self.lr_rule]
        return f"{rate:g}{factor} = {rate * self.lr_factor:.4g}" if factor else f"{rate:g}"


class AdamWConfig(ScheduleConfig):
    """AdamW (Loshchilov and Hutter 2019)."""

    moment_tensors: ClassVar[int] = 2
    step_counters: ClassVar[int] = 1

    name: Literal["adamw"] = Field(default="adamw", description="Which optimizer; default: adamw.")
    lr: PeakRate = 1e-3
    start_lr: StartRate = 2e-4
    final_lr: FinalRate = 1e-6
    weight_decay: Decay = 0.04
    betas: tuple[float, float] = Field(
        default=(0.9, 0.999), description="Decay rates of the averages of the gradient and its square."
    )
    eps: float = Field(default=1e-8, gt=0, description="Added to the denominator of the update.")

    @model_validator(mode="after")
    def check_betas(self) -> Self:
        for beta in self.betas:
            if not 0 <= beta < 1:
                raise ValueError(f"betas are {list(self.betas)}: each must be in [0, 1)")
        return self


class LARSConfig(ScheduleConfig):
    """LARS (You et al. 2017): momentum, with steps in proportion to each weight's norm.

    VICReg, Barlow Twins and BYOL use it, with lr 0.2 and `lr_rule: linear`.
    """

    name: Literal["lars"] = Field(description="Which optimizer.")
    weight_decay: Decay = 1e-6
    lr_biases: float | None = Field(
        default=None,
        gt=0,
        description="Peak learning rate of biases and norms, before the factor of lr_rule; their schedule is that of the "
        "weights times lr_biases / lr. Null: lr.",
    )
    momentum: Momentum = 0.9

    def describe_lr(self) -> str:
        biases = f", of biases and norms {self.describe_product(self.lr_biases)}" if self.lr_biases is not None else ""
        return super().describe_lr() + biases


class SGDConfig(ScheduleConfig):
    """SGD with momentum."""

    name: Literal["sgd"] = Field(description="Which optimizer.")
    weight_decay: Decay = 1e-4
    momentum: Momentum = 0.9


def optimizer_name(section: Any) -> str:
    """Return the name of the optimizer of a section, given as a mapping or built."""
    return str(section.get("name", "adamw") if isinstance(section, dict) else getattr(section, "name", "adamw"))


OptimConfig = Annotated[
    Annotated[AdamWConfig, Tag("adamw")] | Annotated[LARSConfig, Tag("lars")] | Annotated[SGDConfig, Tag("sgd")],
    Discriminator(optimizer_name),
]
