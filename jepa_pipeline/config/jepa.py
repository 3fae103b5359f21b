"""Joint-embedding predictive architectures (JEPAs) for images and clips."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.custom_encoder import CustomEncoderConfig
from jepa_pipeline.config.encoders import TokenEncoderConfig
from jepa_pipeline.config.grid import Grid
from jepa_pipeline.config.masks import MultiBlockConfig
from jepa_pipeline.config.method import BaseMethodConfig, Distance
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.prediction import Momentum, PredictionConfig
from jepa_pipeline.config.tasks import MaskSet
from jepa_pipeline.config.video_masks import LONG_RANGE, SHORT_RANGE, VideoMasksConfig


class JepaConfig(BaseMethodConfig, PredictionConfig):
    """A JEPA: predict the representation of masked tokens from visible ones."""

    encoder: TokenEncoderConfig = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        description="The trained encoder; the target has the same shape."
    )
    distance: ClassVar[Distance]
    """Distance between prediction and target."""

    @model_validator(mode="after")
    def check_parts(self) -> Self:
        if isinstance(self.encoder, CustomEncoderConfig) and not self.encoder.tokens:
            raise ValueError(
                f"encoder {self.encoder.class_path} returns pooled features, but a JEPA predicts the tokens of patches: give it a "
                "grid of tokens, or choose a method that compares views, such as vicreg"
            )
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
