"""The interface that all encoders share, so that callers need not know which kind they have."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.config.grid import Grid
from jepa_pipeline.config.level import Level
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.section import Section


class BaseEncoder(nn.Module):
    """An image or video encoder: a vision transformer (`Encoder`), a stack of them (`Stack`) or a timm network (`Backbone`).

    Attributes:
        config: its configuration; `config.modality`, `frames`, `image_size` and `levels` describe its input and its levels.
        card: its EncoderCard, with mean and standard deviation of its pixels, if it was loaded from a folder.
        width: width of the pooled features.
        depth: number of blocks or stages whose tokens `intermediates` returns at most.
        pooling: how the pooled features follow from the tokens, for model cards.
    """

    config: EncoderConfig | BackboneConfig
    card: Section | None = None
    width: int
    depth: int
    pooling: str = "the mean over the patches"

    def pooled(self, pixels: Float[Tensor, "B C *T H W"]) -> Float[Tensor, "B D"]:
        """Return one feature vector per image or clip: the mean of all its tokens."""
        return self(pixels).mean(1)

    def intermediates(self, pixels: Float[Tensor, "B C *T H W"], last: int) -> list[Float[Tensor, "B N D"]]:
        """Return the tokens after each of the `last` blocks or stages, normalized by the final norm, in order of depth.

        Raises:
            ValueError: the encoder has fewer blocks or stages.
        """
        raise NotImplementedError

    def pooled_and_intermediates(
        self, pixels: Float[Tensor, "B C *T H W"], last: int
    ) -> tuple[Float[Tensor, "B D"], list[Float[Tensor, "B _ _"]]]:
        """Return what `pooled` and `intermediates` return, from one forward pass."""
        blocks = self.intermediates(pixels, last)
        return blocks[-1].mean(1), blocks

    def forward_features(self, pixels: Float[Tensor, "B C *T H W"]) -> Float[Tensor, "B *_"]:
        """Return the tokens or the feature map before pooling, as timm's method of this name does."""
        return self(pixels)

    def level_intermediates(self, pixels: Float[Tensor, "B C *T H W"], last: int) -> list[list[Float[Tensor, "B _ _"]]]:
        """Return the `intermediates` of each level from the first up, or of all its blocks if a level has fewer than `last`."""
        return [self.intermediates(pixels, min(last, self.depth))]

    def concat_levels(
        self, tokens: Sequence[Float[Tensor, "B _ _"]], pixels: Float[Tensor, "B C *T H W"]
    ) -> Float[Tensor, "B N D"]:
        """Return the tokens of the level that is read, or those of all levels concatenated, from the tokens of each level."""
        return tokens[0]

    def read_level(self, level: Level) -> "BaseEncoder":
        """Return an encoder with the same weights that reads another level; a single encoder has one level, itself."""
        return self

    def truncate(self, level: Level) -> "BaseEncoder":
        """Return an encoder with the same weights that reads `level` and has no levels above it."""
        return self

    def check_image_size(self, side: int) -> None:
        """Raise UserError if the network does not accept images of `side` x `side` pixels."""

    def timm_module(self) -> nn.Module:
        """Return the module whose parameter names are timm's, under which the weights are saved."""
        return self

    def why_not_timm(self) -> str | None:
        """Return why no timm architecture and arguments describe this network, such as "is a stack of 2 levels", or None."""
        return None

    def registered_by(self) -> str | None:
        """Return the module, such as a user's script, that registers this network with timm; None: no such module is needed."""
        return None

    def timm_config(self) -> dict[str, Any]:
        """Return the architecture, its arguments and the names of its first and last layer, as in timm's config.json."""
        raise NotImplementedError

    def describe(self) -> str:
        """Return the kind and the sizes of the network as a sentence for a model card, without a full stop."""
        raise NotImplementedError


class TokenEncoder(BaseEncoder):
    """An encoder of patches, which a JEPA can train: `encoder(pixels, masks=[...])` encodes those of each mask without the others.

    Attributes:
        grid: time steps, rows and columns of its tokens.
    """

    config: EncoderConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    grid: Grid
