"""One kind of view: a random crop and its augmentations."""

from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.grid import MAX_SIDE
from jepa_pipeline.config.section import MAX_COUNT, PositiveShare, Section, Share, check_range

Interpolation = Literal["bicubic", "bilinear"]


class Resampling(NamedTuple):
    """The method by which crops are resized: the keys `interpolation` and `antialias` of ViewsConfig."""

    interpolation: Interpolation
    antialias: bool


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

    count: int = Field(default=1, ge=1, le=MAX_COUNT, description="Views of this kind per image.")
    image_size: int | None = Field(
        default=None, ge=1, le=MAX_SIDE, description="Height and width in pixels; null: the encoder's image_size."
    )
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

    @property
    def rgb_keys(self) -> dict[str, str]:
        """Return the keys that change colors as only RGB has them, each with the value that turns it off."""
        used = {"jitter": self.jitter is not None, "gray": self.gray > 0, "solarize": self.solarize > 0}
        return {key: "null" if key == "jitter" else "0" for key, is_on in used.items() if is_on}

    @model_validator(mode="after")
    def check_ranges(self) -> Self:
        check_range("scale", *self.scale)
        check_range("aspect", *self.aspect)
        return self
