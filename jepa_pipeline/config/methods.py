"""What is learned, and from which hidden part."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.masks import MultiBlockConfig
from jepa_pipeline.config.networks import EncoderConfig, PredictorConfig
from jepa_pipeline.config.section import Section

Momentum = Annotated[float, Field(ge=0.0, le=1.0)]


class IJepaConfig(Section):
    """I-JEPA (Assran et al. 2023): predict the EMA encoder's view of hidden blocks from one visible block."""

    name: Literal["ijepa"] = Field(default="ijepa", description="Which method.")
    encoder: EncoderConfig = Field(description="The encoder that is trained; the target has the same shape.")
    predictor: PredictorConfig = Field(default_factory=PredictorConfig, description="The predictor.")
    masks: MultiBlockConfig = Field(default_factory=MultiBlockConfig, description="What is hidden and what is seen.")
    ema: tuple[Momentum, Momentum] = Field(
        default=(0.996, 1.0),
        description="The target's momentum at the first step and at the end of the (stretched) schedule, linear.",
    )

    @model_validator(mode="after")
    def masks_fit_the_grid(self) -> Self:
        self.masks.check_grid(self.encoder.grid)
        return self
