"""Crops and augmentations: the views of an image or clip."""

from typing import Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.section import PositiveShare, Section, Share, check_range

RGB = tuple[float, float, float]

IMAGENET_MEAN: RGB = (0.485, 0.456, 0.406)
IMAGENET_STD: RGB = (0.229, 0.224, 0.225)


class JitterConfig(Section):
    """Color jitter in random order (torchvision's ColorJitter)."""

    probability: Share = Field(default=0.8, description="Probability of any jitter.")
    brightness: Share = Field(default=0.0, description="Factors are uniform in [1 - brightness, 1 + brightness].")
    contrast: Share = Field(default=0.0, description="Factors are uniform in [1 - contrast, 1 + contrast].")
    saturation: Share = Field(default=0.0, description="Factors are uniform in [1 - saturation, 1 + saturation].")
    hue: float = Field(
        default=0.0, ge=0.0, le=0.5, description="Shifts are uniform in [-hue, hue], as a fraction of the color circle."
    )


class BlurConfig(Section):
    """Gaussian blur."""

    probability: Share = Field(default=0.5, description="Probability of blur.")
    sigma: tuple[float, float] = Field(
        default=(0.1, 2.0), description="Range of the standard deviation in pixels of the view, uniform."
    )

    @model_validator(mode="after")
    def check_sigma(self) -> Self:
        check_range("sigma", *self.sigma)
        return self


class CropConfig(Section):
    """A kind of view: a random resized crop, then a flip, then color changes."""

    count: int = Field(default=1, ge=1, description="Views of this kind per image.")
    image_size: int | None = Field(default=None, ge=1, description="Height and width in pixels; null: the encoder's image_size.")
    scale: tuple[PositiveShare, PositiveShare] = Field(
        default=(0.3, 1.0), description="Range of the share of the image's area that a crop covers."
    )
    aspect: tuple[float, float] = Field(default=(3 / 4, 4 / 3), description="Range of a crop's width over height, log-uniform.")
    flip: Share = Field(default=0.0, description="Probability of a horizontal flip.")
    jitter: JitterConfig | None = Field(default=None, description="Color jitter; null: none.")
    gray: Share = Field(default=0.0, description="Probability of conversion to grayscale.")
    blur: BlurConfig | None = Field(default=None, description="Gaussian blur; null: none.")
    solarize: Share = Field(default=0.0, description="Probability of inverting all values of 128 and above.")

    @property
    def colors(self) -> bool:
        """Return whether any of these views may change in color."""
        return self.jitter is not None or self.blur is not None or self.gray > 0 or self.solarize > 0

    @model_validator(mode="after")
    def check_ranges(self) -> Self:
        check_range("scale", *self.scale)
        check_range("aspect", *self.aspect)
        return self


class ViewsConfig(Section):
    """The views of every sample, and their normalization on the device."""

    crops: tuple[CropConfig, ...] = Field(
        default=(CropConfig(),), min_length=1, description="Kinds of views, in the order in which the method receives them."
    )
    device: Literal["auto", "workers", "trainer"] = Field(
        default="auto",
        description="Where images are cropped and augmented. workers: by the data workers, one by one. trainer: on the training "
        "device, in batches; workers only decode. auto: trainer on a GPU, else workers. Both agree to 1 of 255 levels, 4 after "
        "jitter. Clips are always cropped by the workers.",
    )
    clip: ClipConfig = Field(
        default_factory=ClipConfig, description="Frames of a video that make a clip, for encoders of several frames."
    )
    mean: RGB = Field(default=IMAGENET_MEAN, description="Mean per channel that is subtracted, on pixels in [0, 1].")
    std: RGB = Field(default=IMAGENET_STD, description="Standard deviation per channel to divide by, on pixels in [0, 1].")

    @model_validator(mode="after")
    def check_std(self) -> Self:
        if min(self.std) <= 0:
            raise ValueError(f"std is {list(self.std)}: the standard deviation of every channel must be above 0")
        return self

    @property
    def kinds(self) -> list[CropConfig]:
        """Return the kind of every view, in order."""
        return [crop for crop in self.crops for _ in range(crop.count)]

    def on_trainer(self, accelerator: str) -> bool:
        """Return whether images are cropped on the training device, "cpu" or "cuda"."""
        return self.device == "trainer" or (self.device == "auto" and accelerator == "cuda")

    def sizes(self, image_size: int) -> list[int]:
        """Return the height and width of every view, in order, for an encoder of this image_size."""
        return [crop.image_size or image_size for crop in self.kinds]
