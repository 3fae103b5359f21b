"""The settings of `jepa import`, by which a user says of published weights what their file does not."""

from pydantic import Field

from jepa_pipeline.config.grid import MAX_FRAMES, MAX_SIDE
from jepa_pipeline.config.pixel_format import Bits, Deviations, PerChannel
from jepa_pipeline.config.section import Section


class ImportSettings(Section):
    """The sizes and the preprocessing of published weights; null: as their file says, else as their family was published."""

    num_heads: int | None = Field(default=None, ge=1, description="Attention heads per block, which no shape of a tensor shows.")
    predictor_heads: int | None = Field(default=None, ge=1, description="Attention heads per block of the predictor.")
    image_size: int | None = Field(default=None, ge=1, le=MAX_SIDE, description="Height and width of the input, in pixels.")
    frames: int | None = Field(default=None, ge=1, le=MAX_FRAMES, description="Frames per clip.")
    fps: float | None = Field(default=None, gt=0, description="Frames per second of a clip.")
    stride: int | None = Field(default=None, ge=1, description="Frames of the video from one frame of a clip to the next.")
    mean: PerChannel | None = Field(default=None, description="Subtracted per channel from pixels scaled to 0..1.")
    std: Deviations | None = Field(default=None, description="Divisor per channel.")
    bits: Bits = Field(default=8, description="Bits per channel of the images that it was trained on.")
