"""A stack of encoders, in the form in which it is saved, probed and exported."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.config.grid import Grid
from jepa_pipeline.config.level import Level
from jepa_pipeline.config.stack import StackConfig
from jepa_pipeline.models.coarse import build_coarse_encoder
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.models.tokens import tokens_to_clip


class Stack(BaseEncoder):
    """Encoders on top of each other: each level encodes the tokens of the level below. `config.level` is read, or all levels.

    If all levels are read, pooled features are concatenated, and there is a token for each token of the first level, which
    is concatenated with the tokens of the other levels that cover its position.
    """

    config: StackConfig

    def __init__(self, config: StackConfig, encoders: Sequence[Encoder] | None = None) -> None:
        """Build the stack.

        Args:
            config: the sizes of all levels, and the level that is read.
            encoders: one per level, whose weights are shared; None: untrained ones.
        """
        super().__init__()
        self.config = config  # pyright: ignore[reportIncompatibleVariableOverride]
        self.encoders = nn.ModuleList(new_encoders(config) if encoders is None else encoders)
        read = [level for number, level in enumerate(self.levels) if self.reads(number)]
        self.width = sum(level.width for level in read)
        self.depth = min(level.depth for level in read)

    @property
    def levels(self) -> list[Encoder]:
        """Return the encoders from the first level up."""
        return [*self.encoders]  # pyright: ignore[reportReturnType]

    def reads(self, number: int) -> bool:
        """Return whether the level with this index, counted from 0, is read."""
        return self.config.level in ("all", number + 1)

    def forward(self, pixels: Float[Tensor, "B C *T H W"]) -> Float[Tensor, "B N D"]:
        """Return the tokens of the level that is read, or of all levels."""
        return self.concat_levels([blocks[-1] for blocks in self.level_intermediates(pixels, 1)], pixels)

    def level_intermediates(self, pixels: Float[Tensor, "B C *T H W"], last: int) -> list[list[Float[Tensor, "B _ _"]]]:
        """Return the intermediates of each level up to the highest that is read; see BaseEncoder."""
        top = len(self.levels) if self.config.level == "all" else self.config.level
        outputs, clip = [], pixels
        for encoder in self.levels[:top]:
            outputs.append(encoder.intermediates(clip, min(last, encoder.depth)))
            clip = tokens_to_clip(outputs[-1][-1], encoder.token_grid(clip))
        return outputs

    def concat_levels(
        self, tokens: Sequence[Float[Tensor, "B _ _"]], pixels: Float[Tensor, "B C *T H W"]
    ) -> Float[Tensor, "B N D"]:
        """Return the tokens of what is read; see BaseEncoder."""
        if self.config.level != "all":
            return tokens[self.config.level - 1]
        grids = [*self.token_grids(pixels)]
        return torch.cat([upsample(level, grid, grids[0]) for level, grid in zip(tokens, grids, strict=True)], -1)

    def token_grids(self, pixels: Float[Tensor, "B C *T H W"]) -> Iterator[Grid]:
        """Yield time steps, rows and columns of every level's tokens for an image or clip."""
        clip = pixels
        for encoder in self.levels:
            grid = encoder.token_grid(clip)
            yield grid
            clip = pixels.new_empty(1, 1, *grid)  # only its shape is used

    def pooled(self, pixels: Float[Tensor, "B C *T H W"]) -> Float[Tensor, "B D"]:
        """Return the mean of all tokens of each level that is read, concatenated."""
        return self.pooled_and_intermediates(pixels, 1)[0]

    def intermediates(self, pixels: Float[Tensor, "B C *T H W"], last: int) -> list[Float[Tensor, "B N D"]]:
        """Return the tokens after each of the last blocks of what is read; see BaseEncoder."""
        return self.pooled_and_intermediates(pixels, last)[1]

    def pooled_and_intermediates(
        self, pixels: Float[Tensor, "B C *T H W"], last: int
    ) -> tuple[Float[Tensor, "B D"], list[Float[Tensor, "B _ _"]]]:
        """Return what `pooled` and `intermediates` return, from one forward pass."""
        if not 1 <= last <= self.depth:
            raise ValueError(f"the last {last} blocks of levels of {self.depth}")
        levels = self.level_intermediates(pixels, last)
        # Not the mean of the concatenated tokens, which would sum the repeated tokens of coarse levels in another order.
        pooled = torch.cat([blocks[-1].mean(1) for number, blocks in enumerate(levels) if self.reads(number)], 1)
        if self.config.level != "all":
            return pooled, levels[self.config.level - 1]
        return pooled, [self.concat_levels([blocks[number] for blocks in levels], pixels) for number in range(-last, 0)]

    def read_level(self, level: Level) -> "Stack":
        """Return a stack of the same networks that reads another level.

        Raises:
            ValueError: there is no such level.
        """
        return Stack(StackConfig.model_validate({**self.config.model_dump(), "level": level}), self.levels)

    def truncate(self, level: Level) -> BaseEncoder:
        """Return the levels up to one; the first level by itself is a plain encoder. See BaseEncoder."""
        if level == "all":
            return self.read_level("all")
        if level == 1:
            return self.levels[0]
        above = [coarse.model_dump() for coarse in self.config.above[: level - 1]]
        config = StackConfig.model_validate({**self.config.model_dump(), "above": above, "level": level})
        return Stack(config, self.levels[:level])

    def why_not_timm(self) -> str:
        """Return that it is a stack, and which level of it timm can load; see BaseEncoder."""
        first = "" if self.levels[0].why_not_timm() else " (its first level alone can be exported to timm: --level 1)"
        return f"is a stack of {len(self.encoders)} levels{first}"

    def describe(self) -> str:
        """Return the sizes of the levels in words; see BaseEncoder."""
        level = self.config.level
        read = "the features of all levels are concatenated" if level == "all" else f"level {level} is read"
        sizes = " + ".join(f"width {encoder.width} x {encoder.depth} blocks" for encoder in self.levels)
        return f"A stack of {len(self.encoders)} vision transformers, {sizes}, no class token: {read}"


def new_encoders(config: StackConfig) -> list[Encoder]:
    """Return an untrained encoder for each level."""
    above = zip(config.above, config.levels[:-1], strict=True)
    return [Encoder(config.first), *(build_coarse_encoder(coarse, below) for coarse, below in above)]


def upsample(tokens: Float[Tensor, "B _ D"], grid: Grid, finer: Grid) -> Float[Tensor, "B _ D"]:
    """Return each token of a grid at all positions of a finer grid that it covers."""
    clip = tokens_to_clip(tokens, grid)
    for axis, (coarse, fine) in enumerate(zip(grid, finer, strict=True), start=2):
        if fine > coarse:
            clip = clip.repeat_interleave(max(1, fine // coarse), axis)
    return clip.flatten(2).transpose(1, 2)
