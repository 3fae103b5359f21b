"""The question a video JEPA is asked: which tokens of a clip are hidden, which are seen."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.section import Section

PositiveShare = Annotated[float, Field(gt=0.0, le=1.0)]
Grid = tuple[int, int, int]
"""Time steps, rows and columns of tokens."""


class BlocksConfig(Section):
    """One set of V-JEPA's multi-block masks (Bardes et al. 2024, section 3.2): the target is the union of blocks of space and time."""

    name: Literal["blocks"] = Field(default="blocks", description="Which masks.")
    num_blocks: int = Field(default=8, ge=1, description="Blocks per clip.")
    scale: tuple[PositiveShare, PositiveShare] = Field(default=(0.15, 0.15), description="Share of a frame that a block covers.")
    aspect: tuple[float, float] = Field(default=(0.75, 1.5), description="Height over width of a block.")
    time: tuple[PositiveShare, PositiveShare] = Field(
        default=(1.0, 1.0), description="Share of the time steps that a block goes through."
    )
    context_time: PositiveShare = Field(
        default=1.0, description="Share of the time steps, the first ones, in which the context may lie."
    )
    context_keep: PositiveShare = Field(
        default=0.25, description="Share of the clip's tokens the encoder sees of every clip; ignored under legacy."
    )
    target_keep: PositiveShare = Field(
        default=0.5, description="Share of the clip's tokens that are predicted of every clip; ignored under legacy."
    )
    rest: Literal["hidden", "target", "context"] = Field(
        default="hidden",
        description="What tokens are that are neither among those kept as context nor among those kept as target: hidden from both, "
        "predicted too (V-JEPA 2's full_complement), or seen too (its pred_full_complement).",
    )
    inverse: bool = Field(default=False, description="Context and target change roles (V-JEPA 2's inv_block).")
    legacy: bool = Field(
        default=False,
        description="The published collator index for index: one block size a batch, and lengths cut to the batch's shortest from the "
        "tail, which starves the last frames.",
    )

    @model_validator(mode="after")
    def ranges_ascend(self) -> Self:
        for name in ("scale", "aspect", "time"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} is [{low}, {high}]: a range is [low, high] with 0 < low <= high")
        return self

    def check_grid(self, grid: Grid) -> None:
        """Refuse a grid on which these masks do not exist."""


class CausalConfig(Section):
    """The future from the past: the first time steps are the context, the others the target."""

    name: Literal["causal"] = Field(description="Which masks.")
    context_time: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(default=0.5, description="Share of the time steps that are past.")
    context_keep: PositiveShare = Field(default=1.0, description="Share of the past's tokens the encoder sees, drawn at random.")
    target_keep: PositiveShare = Field(default=1.0, description="Share of the future's tokens that are predicted, drawn at random.")

    def check_grid(self, grid: Grid) -> None:
        """Refuse a grid on which these masks do not exist."""


VideoMasksConfig = Annotated[BlocksConfig | CausalConfig, Field(discriminator="name")]
SHORT_RANGE = BlocksConfig()
LONG_RANGE = BlocksConfig(num_blocks=2, scale=(0.7, 0.7), context_keep=0.1, target_keep=0.7)
