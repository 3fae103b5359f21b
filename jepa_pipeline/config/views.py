"""The views of an image or clip, and their normalization."""

from typing import Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.crop import CropConfig, Interpolation, Resampling
from jepa_pipeline.config.pixel_format import PerChannel
from jepa_pipeline.config.section import Section

IMAGENET_MEAN: PerChannel = (0.485, 0.456, 0.406)
IMAGENET_STD: PerChannel = (0.229, 0.224, 0.225)


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
    interpolation: Interpolation = Field(
        default="bicubic",
        description="How training crops are resized; V-JEPA, I-JEPA, SwAV, SimSiam and LeJEPA are bilinear. Evaluation is always "
        "bicubic with antialiasing.",
    )
    antialias: bool = Field(
        default=True,
        description="Average over all pixels of the crop that an output pixel covers. false: interpolate between the nearest 4 x 4 "
        "(bilinear: 2 x 2) pixels, as V-JEPA, BYOL and SimCLR do; on the trainer, images above 640 pixels are shrunk first, with "
        "antialiasing.",
    )
    clip: ClipConfig = Field(
        default_factory=ClipConfig, description="Frames of a video that make a clip, for encoders of several frames."
    )
    mean: PerChannel = Field(default=IMAGENET_MEAN, description="Mean per channel that is subtracted, on pixels in [0, 1].")
    std: PerChannel = Field(default=IMAGENET_STD, description="Standard deviation per channel to divide by, on pixels in [0, 1].")

    @model_validator(mode="after")
    def check_std(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}: both need one for each channel")
        if min(self.std) <= 0:
            raise ValueError(f"std is {list(self.std)}: the standard deviation of every channel must be above 0")
        return self

    @property
    def resampling(self) -> Resampling:
        """Return how crops are resized."""
        return Resampling(self.interpolation, self.antialias)

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
