"""A stack of joint-embedding predictive architectures: the higher the level, the further it predicts and the less detail it has."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from jepa_pipeline.config.jepa import Distance, PredictionConfig
from jepa_pipeline.config.masks import MultiBlockConfig
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.section import Section
from jepa_pipeline.config.stack import CoarseEncoderConfig, stacked
from jepa_pipeline.config.video_masks import BlocksConfig, CausalConfig, Grid

AnyMasks = MultiBlockConfig | BlocksConfig | CausalConfig
Masks = Annotated[AnyMasks, Field(discriminator="name")]


def encoder_kind(encoder: Any) -> str:
    """Which of the two an encoder is, so that what is wrong with it is said of that one alone."""
    given = isinstance(encoder, dict) and ("stride" in encoder or "coarsening" in encoder)
    coarse = given or isinstance(encoder, CoarseEncoderConfig)
    return CoarseEncoderConfig.__name__ if coarse else EncoderConfig.__name__


LevelEncoder = Annotated[
    Annotated[EncoderConfig, Tag("EncoderConfig")] | Annotated[CoarseEncoderConfig, Tag("CoarseEncoderConfig")],
    Discriminator(encoder_kind),
]


class MaskedConfig(Section):
    """Hidden blocks from visible ones. What is hidden at a level is hidden from every level below it too."""

    name: Literal["masked"] = Field(description="What is asked.")
    masks: tuple[Masks, ...] = Field(
        min_length=1,
        description="Sets of masks on the level's own grid, each a task of its own: multiblock for images, blocks or causal "
        "for clips.",
    )

    def on(self, encoder: EncoderConfig) -> tuple[AnyMasks, ...]:
        """The masks of each task.

        Raises:
            ValueError: they do not exist on the encoder's grid.
        """
        wanted = "blocks or causal" if encoder.clips else "multiblock"
        for masks in self.masks:
            if isinstance(masks, MultiBlockConfig) == encoder.clips:
                media = "clips" if encoder.clips else "images"
                raise ValueError(f"task.masks has {masks.name} masks, but the level has a grid of {media}: choose {wanted}")
            if not isinstance(masks, CausalConfig) and masks.legacy:
                raise ValueError("task.masks has legacy masks, which are for ijepa and vjepa: set legacy to false")
            if isinstance(masks, MultiBlockConfig):
                masks.check_grid(encoder.grid)
            else:
                masks.check_grid(encoder.clip_grid)
        return self.masks


class ForwardConfig(Section):
    """The future from the past: the time steps after t from what is represented of x_0..x_t, each from the prediction before it.

    For every t at once.
    """

    name: Literal["forward"] = Field(description="What is asked.")
    horizon: int = Field(default=1, ge=1, description="Time steps of the level that are predicted.")

    def past(self, grid: Grid) -> int:
        """How many tokens, the first ones, are past in the last task that a clip answers in full."""
        return (grid[0] - self.horizon) * grid[1] * grid[2]

    def kept(self, grid: Grid) -> tuple[int, int]:
        """How many tokens are past and how many future there: all."""
        return self.past(grid), self.horizon * grid[1] * grid[2]

    def on(self, encoder: EncoderConfig) -> tuple[Self]:
        """What is past and what future.

        Raises:
            ValueError: the encoder's clips have no past before the horizon, or it looks ahead.
        """
        steps = encoder.clip_grid[0]
        if steps == 1:
            raise ValueError(
                "task: forward needs two time steps or more, but the level has one: "
                "lower stride.time or tubelet_size, or ask masked"
            )
        if self.horizon >= steps:
            raise ValueError(f"task.horizon {self.horizon} leaves no past of {steps} time steps: make it {steps - 1} or less")
        if encoder.attention != "causal":
            raise ValueError(
                "task: forward needs encoders that do not look ahead: set attention of the first level's encoder to causal"
            )
        return (self,)


class LevelConfig(PredictionConfig):
    """One joint-embedding predictive architecture of the stack."""

    encoder: LevelEncoder = Field(
        description="Of the first level, as any method's; of those above, a stride and sizes. The target has the same shape."
    )
    task: Annotated[MaskedConfig | ForwardConfig, Field(discriminator="name")] = Field(
        description="masked: hidden blocks from visible ones; forward: the future from the past."
    )
    distance: Distance = Field(
        default="l1", description="Between predicted and true representations; I-JEPA has smooth_l1, V-JEPA l1."
    )
    weight: float = Field(default=1.0, gt=0, description="Of all its losses beside the other levels'.")
    detach: bool = Field(
        default=True,
        description="Above the first level: true, it sees what the kept encoders below represent, and its gradient does not reach "
        "them; false, it sees what the trained ones below represent, and trains them too.",
    )

    @property
    def mask_sets(self) -> tuple[AnyMasks, ...]:
        """The masks of each task, of masked ones."""
        return self.task.masks if isinstance(self.task, MaskedConfig) else ()


class HJepaConfig(Section):
    """H-JEPA (LeCun 2022, section 4.6): joint-embedding predictive architectures on top of one another.

    Each sees what the one below represents, coarser in space and time, and predicts further with less detail.
    """

    name: Literal["hjepa"] = Field(description="Which method.")
    levels: tuple[LevelConfig, ...] = Field(min_length=1, description="From the pixels up.")

    @model_validator(mode="after")
    def levels_stand_on_one_another(self) -> Self:
        for number, level in enumerate(self.levels, start=1):
            coarse = isinstance(level.encoder, CoarseEncoderConfig)
            if number == 1 and coarse:
                raise ValueError("level 1: it sees patches: give its encoder image_size and patch_size, and no stride")
            if number == 1 and not level.detach:
                raise ValueError("level 1: detach is false, but there is no level below it: leave it out")
            if number > 1 and not coarse:
                raise ValueError(
                    f"level {number}: it sees the level below: give its encoder a stride, such as {{time: 2, space: 2}}"
                )
        for number, (level, encoder) in enumerate(zip(self.levels, self.encoders, strict=True), start=1):
            try:
                level.predictor.check_positions(encoder)
                level.task.on(encoder)
            except ValueError as error:
                raise ValueError(f"level {number}: {error}") from None
        return self

    @property
    def encoder(self) -> EncoderConfig:
        """The first level's, which sees the pixels."""
        first = self.levels[0].encoder
        assert isinstance(first, EncoderConfig)
        return first

    @property
    def above(self) -> tuple[CoarseEncoderConfig, ...]:
        """The encoders of the other levels."""
        return tuple(level.encoder for level in self.levels if isinstance(level.encoder, CoarseEncoderConfig))

    @property
    def encoders(self) -> tuple[EncoderConfig, ...]:
        """Every level's as a vision transformer of the grid below it."""
        return stacked(self.encoder, self.above)

    @property
    def tasks(self) -> tuple[tuple[AnyMasks | ForwardConfig, ...], ...]:
        """Of every level, the masks of each task that is asked."""
        return tuple(level.task.on(encoder) for level, encoder in zip(self.levels, self.encoders, strict=True))

    @property
    def mask_sets(self) -> tuple[AnyMasks | ForwardConfig, ...]:
        """The same of all levels, from the first up."""
        return tuple(masks for tasks in self.tasks for masks in tasks)

    def check_part(self, samples: int) -> None:
        """Any number of images at a time."""

    def check_views(self, sizes: list[int]) -> None:
        """Refuse views of another size than the first level's encoder, or several of an image."""
        if set(sizes) != {self.encoder.image_size} or (not self.encoder.clips and len(sizes) > 1):
            raise ValueError(
                f"views.crops makes views of {sizes} pixels, but hjepa takes {self.encoder.image_size}, and of an image one: "
                "give kinds of crops without image_size, for images one of count 1"
            )
