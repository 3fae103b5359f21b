"""A user's own method."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.custom import ClassPath, InitArgs
from jepa_pipeline.config.encoders import OneEncoderConfig
from jepa_pipeline.config.grid import Grid
from jepa_pipeline.config.method import BaseMethodConfig
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.tasks import AnyMasks, MaskSet


class CustomMethodConfig(BaseMethodConfig):
    """A method of your own, a subclass of jepa_pipeline.Method; see docs/python.md."""

    compares_samples: ClassVar[bool] = True
    frames_key: ClassVar[str | None] = "method.encoder.frames"

    name: Literal["custom"] = Field(description="Which method.")
    class_path: ClassPath
    init_args: InitArgs = Field(default_factory=dict)
    encoder: OneEncoderConfig = Field(description="The trained encoder, which the method is created with.")  # pyright: ignore[reportIncompatibleMethodOverride]
    masks: tuple[Annotated[AnyMasks, Field(discriminator="name")], ...] = Field(
        default=(), description="Mask sets, which each batch holds in batch.masks; none: the method needs none."
    )

    @model_validator(mode="after")
    def check_masks(self) -> Self:
        names = self.encoder.modality.mask_names
        for masks in self.masks:
            if isinstance(self.encoder, BackboneConfig):
                raise ValueError("masks hide patches of a grid, which networks of timm here do not have: remove them")
            if masks.name not in names:
                raise ValueError(f"masks has {masks.name} masks, but {self.encoder.modality.unit} take {' or '.join(names)}")
            masks.check_grid(self.encoder.clip_grid)
        return self

    @property
    def encoders(self) -> tuple[EncoderConfig | BackboneConfig]:
        """Return the encoder of the only level."""
        return (self.encoder,)

    @property
    def level_masks(self) -> tuple[tuple[MaskSet, ...], ...]:
        """Return the mask sets of the only level, if there are any."""
        return (self.masks,) if self.masks else ()

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Return the token grid of the only level, if it is masked."""
        return (self.encoder.clip_grid,) if self.masks and isinstance(self.encoder, EncoderConfig) else ()
