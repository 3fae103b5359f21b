"""The parts of a JEPA of any level: encoder, predictor, target and regularizer."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.networks import EncoderConfig, HeadConfig, PredictorConfig
from jepa_pipeline.config.section import Positive, Section, Share, Weight
from jepa_pipeline.config.stack import CoarseEncoderConfig

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
        description="Collapse prevention for the representations that receive gradients: the context's and, with target "
        "shared, the target's.",
    )

    @model_validator(mode="after")
    def prevent_collapse(self) -> Self:
        if self.target == "shared" and self.regularizer.name == "none":
            raise ValueError("target shared without a regularizer collapses: set regularizer to {name: vicreg} or {name: sigreg}")
        return self
