"""The prediction task of a level of an H-JEPA: masked blocks, or the future."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from jepa_pipeline.config.grid import Grid
from jepa_pipeline.config.masks import MultiBlockConfig
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.section import Section
from jepa_pipeline.config.video_masks import BlocksConfig, CausalConfig

AnyMasks = MultiBlockConfig | BlocksConfig | CausalConfig


class MaskedTaskConfig(Section):
    """Predict masked blocks from visible ones. What is masked at a level is hidden from all levels below it too."""

    name: Literal["masked"] = Field(description="Kind of task.")
    masks: tuple[Annotated[AnyMasks, Field(discriminator="name")], ...] = Field(
        min_length=1,
        description="Mask sets on the level's own grid, each with a loss of its own: multiblock for images, blocks or causal "
        "for clips.",
    )

    @property
    def mask_sets(self) -> tuple[AnyMasks, ...]:
        """Return the mask sets."""
        return self.masks

    def check_encoder(self, encoder: EncoderConfig) -> None:
        """Raise ValueError if a mask set does not exist on the encoder's grid."""
        names, unit = encoder.modality.mask_names, encoder.modality.unit
        for masks in self.masks:
            if masks.name not in names:
                raise ValueError(
                    f"task.masks has {masks.name} masks, but the level has a grid of {unit}: choose {' or '.join(names)}"
                )
            if masks.legacy:
                raise ValueError("task.masks has legacy masks, which only ijepa and vjepa support: set legacy to false")
            masks.check_grid(encoder.clip_grid)


class ForwardTaskConfig(Section):
    """Predict the time steps after t from the representation of x_0..x_t, each from the prediction before it, for every t."""

    predicts_future: ClassVar[bool] = True
    legacy: ClassVar[bool] = False

    name: Literal["forward"] = Field(description="Kind of task.")
    horizon: int = Field(default=1, ge=1, description="Time steps of the level that are predicted.")

    @property
    def mask_sets(self) -> tuple[Self]:
        """Return this task, which stands for the causal mask at the last t that has a full horizon."""
        return (self,)

    def describe(self) -> str:
        """Return "forward"."""
        return self.name

    def count_past_tokens(self, grid: Grid) -> int:
        """Return how many tokens, the first ones, are past at the last t that has a full horizon."""
        return (grid[0] - self.horizon) * grid[1] * grid[2]

    def count_tokens(self, grid: Grid) -> tuple[int, int]:
        """Return how many tokens are past and how many future at that t."""
        return self.count_past_tokens(grid), self.horizon * grid[1] * grid[2]

    def check_grid(self, grid: Grid) -> None:
        """Raise ValueError if clips have no past before the horizon."""
        steps = grid[0]
        if steps == 1:
            raise ValueError(
                "task forward needs two time steps or more, but the level has one: lower stride.time or tubelet_size, or set "
                "task.name to masked"
            )
        if self.horizon >= steps:
            raise ValueError(f"task.horizon {self.horizon} leaves no past of {steps} time steps: set it to {steps - 1} or less")

    def check_encoder(self, encoder: EncoderConfig) -> None:
        """Raise ValueError if the encoder's clips are too short, or its attention sees the future."""
        self.check_grid(encoder.clip_grid)
        if encoder.attention != "causal":
            raise ValueError(
                "task forward needs encoders that do not see the future: set attention of the first level's encoder to causal"
            )


MaskSet = AnyMasks | ForwardTaskConfig
