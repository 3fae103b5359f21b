"""Encoders stacked on top of each other."""

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from jepa_pipeline.config.level import Level
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.section import InitDepthScaling, InitStd, Section


class StrideConfig(Section):
    """Number of tokens of the level below, along each axis, per token of this level."""

    time: int = Field(default=1, ge=1, description="Time steps of the level below.")
    space: int = Field(default=1, ge=1, description="Rows, and columns, of the level below.")


class CoarseEncoderConfig(Section):
    """A vision transformer on the downsampled tokens of the level below: a level of a stack above the first."""

    stride: StrideConfig = Field(description="Tokens of the level below per token of this level.")
    coarsening: Literal["pool", "conv"] = Field(
        default="pool",
        description="How tokens are downsampled: pool, a linear map of their mean; conv, a linear map of all of them "
        "(a strided convolution).",
    )
    embed_dim: int = Field(ge=4, description="Width of a token.")
    depth: int = Field(ge=1, description="Number of transformer blocks.")
    num_heads: int = Field(ge=1, description="Attention heads per block.")
    mlp_ratio: float = Field(default=4.0, gt=0, description="Hidden width of the MLP over embed_dim.")
    init_std: InitStd = None
    init_depth_scaling: InitDepthScaling = False
    window: int | None = Field(
        default=None,
        ge=1,
        description="Time steps that a token attends to under causal attention, its own included; null: all.",
    )

    def resolve(self, below: EncoderConfig) -> EncoderConfig:
        """Return this level as a vision transformer on the grid of the level below.

        Its patches and tubelets are the strides. Positions and attention are those of the level below, except that a
        level with one time step has full attention, because there is no future to hide.

        Raises:
            ValueError: the strides do not divide that grid, or the sizes do not fit the positions.
        """
        steps, rows, columns = below.clip_grid
        grid, stride = f"{steps}x{rows}x{columns}", self.stride
        if steps % stride.time:
            raise ValueError(f"encoder.stride.time {stride.time} does not divide the {steps} time steps of the {grid} grid below")
        if rows % stride.space:
            raise ValueError(f"encoder.stride.space {stride.space} does not divide the {rows} rows of the {grid} grid below")
        if self.window is not None and below.attention != "causal":
            raise ValueError(
                f"encoder.window {self.window} requires causal attention: set attention of the first level's encoder to causal, "
                "or remove window"
            )
        try:
            return EncoderConfig(
                image_size=rows,
                patch_size=stride.space,
                frames=steps,
                tubelet_size=stride.time,
                positions=below.positions,
                embed_dim=self.embed_dim,
                depth=self.depth,
                num_heads=self.num_heads,
                mlp_ratio=self.mlp_ratio,
                init_std=self.init_std,
                init_depth_scaling=self.init_depth_scaling,
                attention=below.attention if steps > 1 else "full",
                window=self.window if steps > 1 else None,
            )
        except ValidationError as error:
            raise ValueError(f"encoder: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def resolve_levels(first: EncoderConfig, above: Sequence[CoarseEncoderConfig]) -> tuple[EncoderConfig, ...]:
    """Return all levels of a stack, each as a vision transformer on the grid of the level below.

    Raises:
        ValueError: a level does not fit the one below.
    """
    levels = [first]
    for number, coarse in enumerate(above, start=2):
        try:
            levels.append(coarse.resolve(levels[-1]))
        except ValueError as error:
            raise ValueError(f"level {number}: {error}") from None
    return tuple(levels)


class StackConfig(EncoderConfig):
    """A stack of encoders: the sizes of the first level, and the levels above it."""

    is_stack: ClassVar[bool] = True

    above: tuple[CoarseEncoderConfig, ...] = Field(description="The levels above the first.")
    level: int | Literal["all"] = Field(
        default="all", description="Level whose features are returned, counted from 1; all: those of every level, concatenated."
    )

    @model_validator(mode="after")
    def check_level(self) -> Self:
        if self.level != "all" and not 1 <= self.level <= len(self.levels):
            raise ValueError(f"level {self.level} of a stack of {len(self.levels)}: levels are counted from 1")
        return self

    @property
    def first(self) -> EncoderConfig:
        """Return the first level as an encoder of its own."""
        return EncoderConfig.model_validate(self.model_dump(exclude={"above", "level"}))

    @property
    def levels(self) -> tuple[EncoderConfig, ...]:
        """Return every level as a vision transformer on the grid of the level below."""
        return resolve_levels(self.first, self.above)

    def up_to_level(self, level: Level | None) -> EncoderConfig:
        """Return the stack without the levels above `level`; the first level alone is a single encoder."""
        if level is None:
            return self
        if level == 1:
            return self.first
        above = self.above if level == "all" else self.above[: level - 1]
        return StackConfig.model_validate({**self.model_dump(), "above": [coarse.model_dump() for coarse in above], "level": level})

    def describe_layers(self) -> str:
        """Return the sizes of every level."""
        time = [f"{coarse.stride.time}x" if self.modality.has_time else "" for coarse in self.above]
        above = (
            f" + {coarse.embed_dim} x {coarse.depth} (stride {frames}{coarse.stride.space}x{coarse.stride.space})"
            for coarse, frames in zip(self.above, time, strict=True)
        )
        return super().describe_layers() + "".join(above)
