"""Joint-embedding predictive architectures (JEPAs) for images and clips."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.masks import Grid, MultiBlockConfig
from jepa_pipeline.config.method import BaseMethodConfig, Distance
from jepa_pipeline.config.networks import EncoderConfig, HeadConfig, PredictorConfig
from jepa_pipeline.config.section import Positive, Section, Share, Weight
from jepa_pipeline.config.stack import CoarseEncoderConfig
from jepa_pipeline.config.tasks import MaskSet
from jepa_pipeline.config.video_masks import LONG_RANGE, SHORT_RANGE, VideoMasksConfig

Momentum = Annotated[
    tuple[Share, Share],
    Field(
        description="Momentum of the ema target at the first step and at the end of the (stretched) schedule, interpolated "
        "linearly; other targets ignore it."
    ),
]
Expander = Annotated[
    HeadConfig | None,
    Field(description="An MLP whose outputs are regularized; null: the representations themselves are."),
]


class NoRegularizer(Section):
    """No regularizer: only the target and the stop-gradient prevent collapse."""

    name: Literal["none"] = Field(default="none", description="Which regularizer.")


class VICRegularizer(Section):
    """VICReg's variance and covariance terms (Bardes et al. 2022) of the tokens of context and target."""

    name: Literal["vicreg"] = Field(description="Which regularizer.")
    weight: Positive = Field(default=1.0, description="Weight of the regularizer; the prediction error has weight 1.")
    variance: Weight = Field(default=25.0, description="Weight of the hinge on every dimension's standard deviation.")
    covariance: Weight = Field(default=1.0, description="Weight of the squared covariances.")
    expander: Expander = None


class SIGRegularizer(Section):
    """LeJEPA's test for an isotropic normal distribution (Balestriero and LeCun 2025) of the tokens of context and target."""

    name: Literal["sigreg"] = Field(description="Which regularizer.")
    weight: Positive = Field(
        default=0.05, description="Weight of the statistic of one vector per image; the prediction error has weight 1."
    )
    slices: int = Field(default=1024, ge=1, description="Random directions, sampled at every step.")
    expander: Expander = None


class PredictionConfig(Section):
    """The parts of a JEPA, whatever its task.

    With `target: shared` and a regularizer it is the JEPA of LeCun 2022 (section 4.5): a prediction error, and a
    regularizer that keeps information in both representations.
    """

    encoder: EncoderConfig | CoarseEncoderConfig = Field(description="The trained encoder; the target has the same shape.")
    predictor: PredictorConfig = Field(default_factory=PredictorConfig, description="The predictor.")
    target: Literal["ema", "stop_gradient", "shared"] = Field(
        default="ema",
        description="Network that computes the target representation: ema, an exponential moving average of the encoder; "
        "stop_gradient, the encoder without gradient; shared, the encoder with gradient, which needs a regularizer.",
    )
    ema: Momentum = (0.996, 1.0)
    regularizer: Annotated[NoRegularizer | VICRegularizer | SIGRegularizer, Field(discriminator="name")] = Field(
        default_factory=NoRegularizer,
        description="Collapse prevention for the representations with a gradient: the context's and a shared target's.",
    )

    @model_validator(mode="after")
    def prevent_collapse(self) -> Self:
        if self.target == "shared" and self.regularizer.name == "none":
            raise ValueError("target shared without a regularizer collapses: set regularizer to {name: vicreg} or {name: sigreg}")
        return self


class JepaConfig(BaseMethodConfig, PredictionConfig):
    """A JEPA: predict the representation of masked tokens from visible ones."""

    encoder: EncoderConfig = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        description="The trained encoder; the target has the same shape."
    )
    distance: ClassVar[Distance]
    """Distance between prediction and target."""

    @model_validator(mode="after")
    def check_parts(self) -> Self:
        self.predictor.check_encoder(self.encoder)
        for masks in self.mask_sets:
            masks.check_grid(self.encoder.clip_grid)
        return self

    @property
    def encoders(self) -> tuple[EncoderConfig, ...]:
        """Return the encoder of the only level."""
        return (self.encoder,)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Return the token grid of the only level."""
        return (self.encoder.clip_grid,)

    @property
    def distances(self) -> tuple[Distance, ...]:
        """Return the distance of the only level."""
        return (self.distance,)


class IJepaConfig(JepaConfig):
    """I-JEPA (Assran et al. 2023): predict the representation of masked blocks of an image from one visible block."""

    distance: ClassVar[Distance] = "smooth_l1"

    name: Literal["ijepa"] = Field(description="Which method.")
    masks: MultiBlockConfig = Field(default_factory=MultiBlockConfig, description="The context and target blocks.")

    @model_validator(mode="after")
    def check_modality(self) -> Self:
        if self.encoder.modality.has_time:
            raise ValueError(
                f"ijepa is for images, but encoder.frames is {self.encoder.frames} and encoder.tubelet_size "
                f"{self.encoder.tubelet_size}: set both to 1, or method.name to vjepa"
            )
        return self

    @property
    def level_masks(self) -> tuple[tuple[MaskSet, ...], ...]:
        """Return the only mask set of the only level."""
        return ((self.masks,),)

    def check_views(self, sizes: list[int]) -> None:
        """Raise ValueError unless there is one view, of the encoder's size."""
        if sizes != [self.encoder.image_size]:
            raise ValueError(
                f"views.crops makes views of {sizes} pixels, but ijepa takes one of {self.encoder.image_size}: "
                "give it one kind of crop, of count 1 and without image_size"
            )

    def check_micro_batch(self, samples: int, processes: int) -> None:
        """Raise ValueError for legacy masks, whose number of tokens differs by process, with a regularizer that gathers tokens."""
        if processes > 1 and self.masks.legacy and self.regularizer.name != "none":
            raise ValueError(
                f"method.masks.legacy gives each of {processes} processes a different number of tokens, but method.regularizer "
                f"{self.regularizer.name} compares those of all: set legacy to false, use one process, or remove the regularizer"
            )


class VJepaConfig(JepaConfig):
    """V-JEPA (Bardes et al. 2024): predict the representation of masked blocks of space and time of a clip from the rest."""

    distance: ClassVar[Distance] = "l1"
    frames_key: ClassVar[str | None] = "method.encoder.frames"

    name: Literal["vjepa"] = Field(description="Which method.")
    masks: tuple[VideoMasksConfig, ...] = Field(
        default=(SHORT_RANGE, LONG_RANGE), min_length=1, description="Mask sets, each with a loss of its own on every clip."
    )
    ema: Momentum = (0.998, 1.0)

    @property
    def level_masks(self) -> tuple[tuple[MaskSet, ...], ...]:
        """Return the mask sets of the only level."""
        return (self.masks,)

    def check_views(self, sizes: list[int]) -> None:
        """Raise ValueError unless all views have the encoder's size, on whose grid masks are sampled."""
        if set(sizes) != {self.encoder.image_size}:
            raise ValueError(
                f"views.crops makes views of {sizes} pixels, but {self.name} takes clips of {self.encoder.image_size}: "
                "give kinds of crops without image_size"
            )


class VJepa2Config(VJepaConfig):
    """V-JEPA 2 (Assran et al. 2025): V-JEPA with a constant momentum; its encoders have rotary positions."""

    name: Literal["vjepa2"] = Field(description="Which method.")  # pyright: ignore[reportIncompatibleVariableOverride]
    ema: Momentum = (0.99925, 0.99925)
