"""How the views of an image are made."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.section import Section

Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveShare = Annotated[float, Field(gt=0.0, le=1.0)]
RGB = tuple[float, float, float]

IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)


def check_range(name: str, low: float, high: float) -> None:
    if not 0 < low <= high:
        raise ValueError(f"{name} is [{low}, {high}]: a range is [low, high] with 0 < low <= high")


class JitterConfig(Section):
    """Changes of brightness, contrast, saturation and hue, in an order drawn anew for each view (torchvision's ColorJitter)."""

    probability: Share = Field(default=0.8, description="Of any change at all.")
    brightness: Share = Field(default=0.0, description="The factor is drawn from 1 - this to 1 + this.")
    contrast: Share = Field(default=0.0, description="Likewise, about the view's mean gray.")
    saturation: Share = Field(default=0.0, description="Likewise, about each pixel's gray.")
    hue: float = Field(
        default=0.0, ge=0.0, le=0.5, description="The shift is drawn from -this to +this, in turns of the color circle."
    )


class BlurConfig(Section):
    """A Gaussian blur."""

    probability: Share = Field(default=0.5, description="Of being blurred.")
    sigma: tuple[float, float] = Field(default=(0.1, 2.0), description="Deviation in pixels of the view, drawn uniformly.")

    @model_validator(mode="after")
    def sigma_ascends(self) -> Self:
        check_range("sigma", *self.sigma)
        return self


class CropConfig(Section):
    """A kind of view: a random resized crop, perhaps mirrored, perhaps changed in color; in this order."""

    count: int = Field(default=1, ge=1, description="Views of this kind per image.")
    image_size: int | None = Field(default=None, ge=1, description="Height and width of the view in pixels; null: the encoder's.")
    scale: tuple[PositiveShare, PositiveShare] = Field(default=(0.3, 1.0), description="Share of the image's area a crop covers.")
    aspect: tuple[float, float] = Field(default=(3 / 4, 4 / 3), description="Width over height of a crop, drawn log-uniformly.")
    flip: Share = Field(default=0.0, description="Probability of mirroring left to right.")
    jitter: JitterConfig | None = Field(default=None, description="Color jitter; null: none.")
    gray: Share = Field(default=0.0, description="Probability of losing all color.")
    blur: BlurConfig | None = Field(default=None, description="Gaussian blur; null: none.")
    solarize: Share = Field(default=0.0, description="Probability of inverting all values of 128 and above.")

    @property
    def colors(self) -> bool:
        """Whether any of these views may change in color."""
        return self.jitter is not None or self.blur is not None or self.gray > 0 or self.solarize > 0

    @model_validator(mode="after")
    def ranges_ascend(self) -> Self:
        check_range("scale", *self.scale)
        check_range("aspect", *self.aspect)
        return self


class ViewsConfig(Section):
    """The views of an image, normalized per channel on the device."""

    crops: tuple[CropConfig, ...] = Field(
        default=(CropConfig(),), min_length=1, description="The kinds of views, in the order in which a method is given them."
    )
    device: Literal["auto", "workers", "trainer"] = Field(
        default="auto",
        description="Who cuts and colors views: the workers, each image by itself; or the device that trains, a whole batch at "
        "once, so that workers only decode; auto: the device if it is a GPU. The two agree to 1 of 255 levels, 4 after jitter. "
        "Clips are always cut by the workers.",
    )
    largest_side: int = Field(
        default=640,
        ge=1,
        description="Where the trainer cuts the views, images of a longer side than this are shrunk to it first, in pixels; "
        "their views differ more from those of the workers.",
    )
    clip: ClipConfig = Field(
        default_factory=ClipConfig, description="Which frames of a video make a clip, for encoders of more than one frame."
    )
    mean: RGB = Field(default=IMAGENET_MEAN, description="Subtracted per channel, on pixels scaled to 0..1.")
    std: RGB = Field(default=IMAGENET_STD, description="Divided by per channel, on pixels scaled to 0..1.")

    @model_validator(mode="after")
    def deviations_are_positive(self) -> Self:
        if min(self.std) <= 0:
            raise ValueError(f"std is {list(self.std)}: each channel's deviation must be above 0")
        return self

    @property
    def kinds(self) -> list[CropConfig]:
        """The kind of every view in order."""
        return [crop for crop in self.crops for _ in range(crop.count)]

    def on_trainer(self, accelerator: str) -> bool:
        """Whether the device that trains cuts the views, if it is of this kind: cpu or cuda."""
        return self.device == "trainer" or (self.device == "auto" and accelerator == "cuda")

    def sizes(self, image_size: int) -> list[int]:
        """Height and width of every view in order, for an encoder of this image_size."""
        return [crop.image_size or image_size for crop in self.kinds]
