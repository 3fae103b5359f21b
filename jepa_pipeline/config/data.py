"""What the images are and how a view of one is made."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.section import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveShare = Annotated[float, Field(gt=0.0, le=1.0)]
RGB = tuple[float, float, float]

IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)


class DataConfig(Section):
    """The shards that are read and by how many workers. Workers cannot change what is read, only how fast."""

    train: Path = Field(description="Folder of shards with a manifest.json, as `jepa shards build` writes it.")
    workers: int = Field(default=2, ge=0, description="Decoding processes per device; 0 decodes in the training process.")
    prefetch_batches: int = Field(default=4, ge=1, description="Batches each worker prepares ahead.")
    window_shards: int = Field(
        default=16, ge=1, description="Shards whose samples are shuffled together; more mixes better and reads less sequentially."
    )


class ViewsConfig(Section):
    """A view: one random resized crop, perhaps mirrored, normalised per channel on the device."""

    crop_scale: tuple[PositiveShare, PositiveShare] = Field(
        default=(0.3, 1.0), description="Share of the image's area a crop covers."
    )
    crop_aspect: tuple[float, float] = Field(
        default=(3 / 4, 4 / 3), description="Width over height of a crop, drawn log-uniformly."
    )
    flip: Share = Field(default=0.0, description="Probability of mirroring left to right.")
    mean: RGB = Field(default=IMAGENET_MEAN, description="Subtracted per channel, on pixels scaled to 0..1.")
    std: RGB = Field(default=IMAGENET_STD, description="Divided by per channel, on pixels scaled to 0..1.")

    @model_validator(mode="after")
    def ranges_ascend(self) -> Self:
        for name in ("crop_scale", "crop_aspect"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} is [{low}, {high}]: a range is [low, high] with 0 < low <= high")
        if min(self.std) <= 0:
            raise ValueError(f"std is {list(self.std)}: each channel's deviation must be above 0")
        return self
