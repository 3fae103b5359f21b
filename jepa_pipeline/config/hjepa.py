"""H-JEPA: a stack of JEPAs. The higher the level, the further it predicts and the less detail it represents."""

from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import Discriminator, Field, Tag, model_validator

from jepa_pipeline.config.grid import Grid
from jepa_pipeline.config.method import BaseMethodConfig, Distance
from jepa_pipeline.config.networks import EncoderConfig, PredictorConfig
from jepa_pipeline.config.prediction import PredictionConfig
from jepa_pipeline.config.stack import CoarseEncoderConfig, resolve_levels
from jepa_pipeline.config.tasks import ForwardTaskConfig, MaskedTaskConfig, MaskSet


def level_encoder_type(encoder: Any) -> str:
    """Return the class of a level's encoder, so that pydantic reports the mistakes of that class alone."""
    coarse = "stride" in encoder or "coarsening" in encoder if isinstance(encoder, dict) else hasattr(encoder, "stride")
    return (CoarseEncoderConfig if coarse else EncoderConfig).__name__


LevelEncoder = Annotated[
    Annotated[EncoderConfig, Tag("EncoderConfig")] | Annotated[CoarseEncoderConfig, Tag("CoarseEncoderConfig")],
    Discriminator(level_encoder_type),
]


class LevelConfig(PredictionConfig):
    """One JEPA of the stack."""

    encoder: LevelEncoder = Field(
        description="First level: an encoder as in any JEPA. Above: a stride and sizes. The target has the same shape."
    )
    task: Annotated[MaskedTaskConfig | ForwardTaskConfig, Field(discriminator="name")] = Field(
        description="masked: predict masked blocks from visible ones; forward: the future from the past."
    )
    distance: Distance = Field(
        default="l1", description="Distance between prediction and target; I-JEPA uses smooth_l1, V-JEPA l1."
    )
    weight: float = Field(default=1.0, gt=0, description="Weight of the level's losses in the sum over levels.")
    detach: bool = Field(
        default=True,
        description="Above the first level. true: the input is the representation of the exported encoders below, without "
        "gradient; false: that of the trained encoders below, which its gradient trains too.",
    )

    @model_validator(mode="after")
    def check_mask_token(self) -> Self:
        if self.task.name == "forward":
            for name in ("mask_token_std", "shared_mask_token"):
                if getattr(self.predictor, name) != PredictorConfig.model_fields[name].default:
                    raise ValueError(f"predictor.{name} is set, but a forward task has no mask tokens: remove it")
        return self

    @property
    def mask_sets(self) -> tuple[MaskSet, ...]:
        """Return the mask sets of the level's task."""
        return self.task.mask_sets


class HJepaConfig(BaseMethodConfig):
    """H-JEPA (LeCun 2022, section 4.6): a stack of JEPAs.

    The input of each is the representation of the one below, at a coarser resolution in space and time. It predicts
    further ahead, with less detail.
    """

    frames_key: ClassVar[str | None] = "method.levels.0.encoder.frames"

    name: Literal["hjepa"] = Field(description="Which method.")
    levels: tuple[LevelConfig, ...] = Field(min_length=1, description="The JEPAs, from the pixels up.")

    @model_validator(mode="after")
    def check_levels(self) -> Self:
        for number, level in enumerate(self.levels, start=1):
            coarse = hasattr(level.encoder, "stride")
            if number == 1 and coarse:
                raise ValueError("level 1: its input is pixels: give its encoder image_size and patch_size, and no stride")
            if number == 1 and not level.detach:
                raise ValueError("level 1: detach is false, but there is no level below: remove detach")
            if number > 1 and not coarse:
                raise ValueError(
                    f"level {number}: its input is the level below: give its encoder a stride, such as {{time: 2, space: 2}}"
                )
        for number, (level, encoder) in enumerate(zip(self.levels, self.encoders, strict=True), start=1):
            try:
                level.predictor.check_encoder(encoder)
                level.task.check_encoder(encoder)
            except ValueError as error:
                raise ValueError(f"level {number}: {error}") from None
        return self

    @property
    def encoder(self) -> EncoderConfig:
        """Return the encoder of the first level, whose input is pixels."""
        return cast(EncoderConfig, self.levels[0].encoder)

    @property
    def above(self) -> tuple[CoarseEncoderConfig, ...]:
        """Return the encoders of the levels above the first."""
        return cast(tuple[CoarseEncoderConfig, ...], tuple(level.encoder for level in self.levels[1:]))

    @property
    def encoders(self) -> tuple[EncoderConfig, ...]:
        """Return every level's encoder as a vision transformer on the grid of the level below."""
        return resolve_levels(self.encoder, self.above)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Return the token grid of every level."""
        return tuple(encoder.clip_grid for encoder in self.encoders)

    @property
    def level_masks(self) -> tuple[tuple[MaskSet, ...], ...]:
        """Return the mask sets of every level."""
        return tuple(level.mask_sets for level in self.levels)

    @property
    def distances(self) -> tuple[Distance, ...]:
        """Return the distance of every level."""
        return tuple(level.distance for level in self.levels)

    def check_views(self, sizes: list[int]) -> None:
        """Raise ValueError unless all views have the first level's size, and images have one view."""
        if set(sizes) != {self.encoder.image_size} or (not self.encoder.modality.has_time and len(sizes) > 1):
            raise ValueError(
                f"views.crops makes views of {sizes} pixels, but hjepa takes {self.encoder.image_size}, and one view per image: "
                "give kinds of crops without image_size, for images one of count 1"
            )
