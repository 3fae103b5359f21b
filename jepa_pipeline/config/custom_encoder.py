"""A user's own network as the encoder of a run."""

from typing import Any, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.custom import ClassPath, InitArgs, describe_custom
from jepa_pipeline.config.grid import MAX_FRAMES
from jepa_pipeline.config.networks import EncoderConfig, Size

UNUSED = ("arch", "num_heads", "mlp_ratio", "init_std", "init_depth_scaling", "norm_eps", "attention", "window")
"""Keys of the package's own transformer, which say nothing about another network."""


class CustomEncoderConfig(EncoderConfig):
    """A network of your own, whose places lie on a square grid; see docs/python.md."""

    class_path: ClassPath
    init_args: InitArgs = Field(default_factory=dict)
    tokens: bool = Field(
        default=True,
        description='What it returns. true: a token for each patch, "B N D"; false: pooled features "B D", for methods of views.',
    )
    embed_dim: int = Field(ge=1, description="Width of a token, or of the features.")  # pyright: ignore[reportIncompatibleVariableOverride]
    patch_size: int = Field(default=16, ge=1, description="image_size over the rows of the grid of tokens, in pixels.")
    frames: int = Field(default=1, ge=1, le=MAX_FRAMES, description="Frames per training clip; 1: images.")
    tubelet_size: int = Field(default=1, ge=1, description="Frames over the time steps of the grid of tokens.")

    @model_validator(mode="before")
    @classmethod
    def set_patch_size(cls, values: Any) -> Any:
        """Pooled features are those of one patch, the image."""
        match values:
            case {"tokens": False, "image_size": int(side)}:
                return {"patch_size": side, **values}
        return values

    @model_validator(mode="after")
    def check_sizes(self) -> Self:
        fields = type(self).model_fields
        if set_here := [name for name in UNUSED if getattr(self, name) != fields[name].default]:
            raise ValueError(f"{set_here[0]} is a key of other encoders: give {self.class_path} its arguments in init_args")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.frames % self.tubelet_size:
            raise ValueError(f"frames {self.frames} is not a multiple of tubelet_size {self.tubelet_size}")
        return self

    @property
    def size(self) -> Size:
        """Return the width; the network counts as one block with one head."""
        return Size(self.embed_dim, 1, 1, 4.0)

    def describe_layers(self) -> str:
        """Return the class and its arguments."""
        return describe_custom(self.class_path, self.init_args)
