"""The sizes of V-JEPA 2.1's encoder."""

from typing import Self

from pydantic import Field, model_validator

from jepa_pipeline.config.networks import EncoderConfig


class ImageVideoConfig(EncoderConfig):
    """A vision transformer with a patch embedding for clips and one for single images (V-JEPA 2.1, arXiv:2603.14482)."""

    rope_grid_size: int = Field(
        ge=2,
        description="Rows and columns of a grid to which positions are stretched or shrunk at every size; published: 16.",
    )
    num_norms: int = Field(
        default=4, ge=1, description="Layer norms, each of the tokens after another block; that of the last is the encoder's own."
    )

    @model_validator(mode="after")
    def check_positions_of_clips(self) -> Self:
        if self.positions != "rope" or not self.modality.has_time:
            raise ValueError("rope_grid_size is for clips with positions rope: set positions to rope and tubelet_size to 2 or more")
        return self

    @property
    def still_frames(self) -> int:
        """Return 1; see EncoderConfig."""
        return 1
