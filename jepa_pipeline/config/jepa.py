"""Joint-embedding predictive architectures: of images, and of clips."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.masks import MultiBlockConfig
from jepa_pipeline.config.networks import EncoderConfig, HeadConfig, PredictorConfig
from jepa_pipeline.config.section import Section
from jepa_pipeline.config.stack import CoarseEncoderConfig
from jepa_pipeline.config.video_masks import LONG_RANGE, SHORT_RANGE, VideoMasksConfig

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Distance = Literal["l1", "smooth_l1"]


class NoRegularizer(Section):
    """Nothing but the target and the stop-gradient keeps the representation from collapsing."""

    name: Literal["none"] = Field(default="none", description="Which regularizer.")


class VICRegularizer(Section):
    """VICReg's variance and covariance (Bardes et al. 2022) of the tokens of context and target."""

    name: Literal["vicreg"] = Field(description="Which regularizer.")
    weight: Positive = Field(default=1.0, description="Of the whole of it, beside a prediction error of weight 1.")
    variance: Weight = Field(default=25.0, description="Weight of the hinge on each dimension's deviation.")
    covariance: Weight = Field(default=1.0, description="Weight of the squared covariances.")
    expander: HeadConfig | None = Field(
        default=None, description="A perceptron in whose output space both are measured; null: on the representations themselves."
    )


class SIGRegularizer(Section):
    """LeJEPA's test for an isotropic normal distribution (Balestriero and LeCun 2025) of the tokens of context and target."""

    name: Literal["sigreg"] = Field(description="Which regularizer.")
    weight: Positive = Field(default=0.05, description="Of the statistic of as many vectors as images, beside a prediction error.")
    slices: int = Field(default=1024, ge=1, description="Random directions, drawn anew each step.")
    expander: HeadConfig | None = Field(
        default=None, description="A perceptron in whose output space it is measured; null: on the representations themselves."
    )


class PredictionConfig(Section):
    """What a prediction in representation space is made of, whatever it is asked.

    With `target: shared` and a regularizer it is the JEPA of LeCun 2022 (section 4.5): prediction error, and information kept in
    both representations.
    """

    encoder: EncoderConfig | CoarseEncoderConfig = Field(description="The encoder that is trained; the target has the same shape.")
    predictor: PredictorConfig = Field(default_factory=PredictorConfig, description="The predictor.")
    target: Literal["ema", "stop_gradient", "shared"] = Field(
        default="ema",
        description="Whose representation is predicted: ema, a slow average of the encoder; stop_gradient, the encoder itself "
        "without a gradient; shared, the encoder itself with its gradient, which needs a regularizer.",
    )
    ema: tuple[Share, Share] = Field(
        default=(0.996, 1.0),
        description="The ema target's momentum at the first step and at the end of the (stretched) schedule, linear; else unused.",
    )
    regularizer: Annotated[NoRegularizer | VICRegularizer | SIGRegularizer, Field(discriminator="name")] = Field(
        default_factory=NoRegularizer,
        description="What keeps information in the representations with a gradient: the context's and a shared target's.",
    )

    @model_validator(mode="after")
    def something_prevents_collapse(self) -> Self:
        if self.target == "shared" and self.regularizer.name == "none":
            raise ValueError("target shared without a regularizer collapses: set regularizer to {name: vicreg} or {name: sigreg}")
        return self


class JepaConfig(PredictionConfig):
    """A joint-embedding predictive architecture: predict a representation of what is hidden from what is visible."""

    encoder: EncoderConfig = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        description="The encoder that is trained; the target has the same shape."
    )

    @model_validator(mode="after")
    def the_predictor_can_have_the_same_positions(self) -> Self:
        self.predictor.check_positions(self.encoder)
        return self

    def check_part(self, samples: int) -> None:
        """Any number of images at a time."""


class IJepaConfig(JepaConfig):
    """I-JEPA (Assran et al. 2023): predict a representation of hidden blocks of an image from one visible block."""

    name: Literal["ijepa"] = Field(description="Which method.")
    masks: MultiBlockConfig = Field(default_factory=MultiBlockConfig, description="What is hidden and what is seen.")

    @model_validator(mode="after")
    def it_is_for_images(self) -> Self:
        if self.encoder.clips:
            raise ValueError(
                f"ijepa is for images, but encoder.frames is {self.encoder.frames} and encoder.tubelet_size "
                f"{self.encoder.tubelet_size}: set both to 1, or method.name to vjepa"
            )
        return self

    @property
    def mask_sets(self) -> tuple[MultiBlockConfig]:
        """The masks of each task that is asked of an image: one."""
        return (self.masks,)

    @property
    def distance(self) -> Distance:
        """Between predicted and true representations."""
        return "smooth_l1"

    @model_validator(mode="after")
    def masks_fit_the_grid(self) -> Self:
        self.masks.check_grid(self.encoder.grid)
        return self

    def check_views(self, sizes: list[int]) -> None:
        """Refuse other views than the one that masks are cut out of."""
        if sizes != [self.encoder.image_size]:
            raise ValueError(
                f"views.crops makes views of {sizes} pixels, but ijepa takes one of {self.encoder.image_size}: "
                "give it one kind of crop, of count 1 and without image_size"
            )


class VJepaConfig(JepaConfig):
    """V-JEPA (Bardes et al. 2024): predict a representation of hidden blocks of space and time of a clip from the rest of it."""

    name: Literal["vjepa"] = Field(description="Which method.")
    masks: tuple[VideoMasksConfig, ...] = Field(
        default=(SHORT_RANGE, LONG_RANGE),
        min_length=1,
        description="Sets of masks: of every clip, each asks a task of its own.",
    )
    ema: tuple[Share, Share] = Field(
        default=(0.998, 1.0),
        description="The ema target's momentum at the first step and at the end of the (stretched) schedule, linear; else unused.",
    )

    @property
    def mask_sets(self) -> tuple[VideoMasksConfig, ...]:
        """The masks of each task that is asked of a clip."""
        return self.masks

    @property
    def distance(self) -> Distance:
        """Between predicted and true representations."""
        return "l1"

    @model_validator(mode="after")
    def masks_fit_the_grid(self) -> Self:
        for masks in self.masks:
            masks.check_grid(self.encoder.clip_grid)
        return self

    def check_views(self, sizes: list[int]) -> None:
        """Refuse views of several sizes, or of another than the encoder's, whose grid the masks are drawn on."""
        if set(sizes) != {self.encoder.image_size}:
            raise ValueError(
                f"views.crops makes views of {sizes} pixels, but {self.name} takes clips of {self.encoder.image_size}: "
                "give kinds of crops without image_size"
            )


class VJepa2Config(VJepaConfig):
    """V-JEPA 2 (Assran et al. 2025): the same with a constant momentum; its encoders have rotary positions."""

    name: Literal["vjepa2"] = Field(description="Which method.")  # pyright: ignore[reportIncompatibleVariableOverride]
    ema: tuple[Share, Share] = Field(
        default=(0.99925, 0.99925),
        description="The ema target's momentum at the first step and at the end of the (stretched) schedule, linear; else unused.",
    )
