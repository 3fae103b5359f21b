"""Encoders on top of one another."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.section import Section


class StrideConfig(Section):
    """How many tokens, along each axis, one token of the level above stands for."""

    time: int = Field(default=1, ge=1, description="Time steps of the level below.")
    space: int = Field(default=1, ge=1, description="Rows, and columns, of the level below.")


class CoarseEncoderConfig(Section):
    """A vision transformer on the tokens of another one, made fewer: a level of a stack above the first."""

    stride: StrideConfig = Field(description="Tokens of the level below for one of this level.")
    coarsening: Literal["pool", "conv"] = Field(
        default="pool",
        description="How they become one: pool, their mean and then a linear map; conv, a linear map of all of them (a strided "
        "convolution).",
    )
    embed_dim: int = Field(ge=4, description="Width of a token.")
    depth: int = Field(ge=1, description="Number of transformer blocks.")
    num_heads: int = Field(ge=1, description="Attention heads per block.")
    mlp_ratio: float = Field(default=4.0, gt=0, description="Hidden width of the MLP over embed_dim.")
    init_std: float | None = Field(
        default=None, gt=0, description="Deviation of the first weights (published: 0.02); null takes Xavier's rule."
    )

    window: int | None = Field(
        default=None,
        ge=1,
        description="Where attention is causal, how many time steps a token sees in each block, its own included; null: all.",
    )

    def on(self, below: EncoderConfig) -> EncoderConfig:
        """The same as a vision transformer of the grid below, whose patches and tubelets are the strides; positions and attention
        are as below. Above a single time step there is nothing that attention could look ahead to, so that it is full.

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
                f"encoder.window {self.window} is one of causal attention: set attention of the first level's encoder to causal, "
                "or leave window out"
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
                attention=below.attention if steps > 1 else "full",
                window=self.window if steps > 1 else None,
            )
        except ValidationError as error:
            raise ValueError(f"encoder: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def stacked(first: EncoderConfig, above: Sequence[CoarseEncoderConfig]) -> tuple[EncoderConfig, ...]:
    """The encoders of all levels, each as a vision transformer of the grid below it.

    Raises:
        ValueError: a level does not fit the one below.
    """
    levels = [first]
    for number, coarse in enumerate(above, start=2):
        try:
            levels.append(coarse.on(levels[-1]))
        except ValueError as error:
            raise ValueError(f"level {number}: {error}") from None
    return tuple(levels)


class StackConfig(EncoderConfig):
    """Encoders on top of one another: the first level's own sizes, and those of the levels above it."""

    above: tuple[CoarseEncoderConfig, ...] = Field(description="The levels from the second on.")
    level: int | Literal["all"] = Field(
        default="all", description="Which level is read, counted from 1; all: every one, their features beside one another."
    )

    @model_validator(mode="after")
    def the_level_is_there(self) -> Self:
        if self.level != "all" and not 1 <= self.level <= len(self.levels):
            raise ValueError(f"level {self.level} of a stack of {len(self.levels)}: levels are counted from 1")
        return self

    @property
    def first(self) -> EncoderConfig:
        """The first level by itself."""
        return EncoderConfig.model_validate(self.model_dump(exclude={"above", "level"}))

    @property
    def levels(self) -> tuple[EncoderConfig, ...]:
        """Every level as a vision transformer of the grid below it."""
        return stacked(self.first, self.above)
