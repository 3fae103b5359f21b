"""Encoders on top of one another, as they are kept, probed and exported."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.config.stack import StackConfig
from jepa_pipeline.models.coarse import coarse_encoder
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.positions import Grid
from jepa_pipeline.models.tokens import as_clip


class Stack(nn.Module):
    """Each encoder sees what the one below represents of the whole image or clip. One level is read, or all.

    Of all levels, features stand beside one another, and tokens are those of the first level, each with the tokens of the cells
    in which it lies.
    """

    def __init__(self, config: StackConfig, encoders: Sequence[Encoder] | None = None) -> None:
        """encoders: of the levels; new ones unless given."""
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleList(new_encoders(config) if encoders is None else encoders)

    def reading(self, level: int | Literal["all"]) -> "Stack":
        """The same networks, of which another level is read.

        Raises:
            ValueError: there is no such level.
        """
        config = StackConfig.model_validate({**self.config.model_dump(), "level": level})
        return Stack(config, [*self.encoders])  # pyright: ignore[reportArgumentType]

    @property
    def read(self) -> list[int]:
        """The levels that are read, counted from 0."""
        return [*range(len(self.encoders))] if self.config.level == "all" else [self.config.level - 1]

    @property
    def width(self) -> int:
        """Of the pooled features."""
        return sum(self.encoders[number].width for number in self.read)  # pyright: ignore[reportCallIssue, reportArgumentType]

    @property
    def depth(self) -> int:
        """Number of blocks of the level that is read; of all, of the one with the fewest."""
        return min(self.encoders[number].depth for number in self.read)  # pyright: ignore[reportCallIssue, reportArgumentType]

    def forward(self, pixels: Float[Tensor, "B C *T H W"]) -> Float[Tensor, "B N D"]:
        """Tokens of what is read."""
        return self.beside([blocks[-1] for blocks in self.levels(pixels, 1)], pixels)

    def levels(self, pixels: Float[Tensor, "B C *T H W"], last: int) -> list[list[Float[Tensor, "B _ _"]]]:
        """Of every level up to the highest that is read, the tokens after each of its last blocks, or after all if it has fewer."""
        found, seen = [], pixels
        for encoder in self.encoders[: self.read[-1] + 1]:
            assert isinstance(encoder, Encoder)
            found.append(encoder.last(seen, min(last, encoder.depth)))
            seen = as_clip(found[-1][-1], encoder.grid_of(seen))
        return found

    def beside(self, tokens: Sequence[Float[Tensor, "B _ _"]], pixels: Float[Tensor, "B C *T H W"]) -> Float[Tensor, "B N D"]:
        """Tokens of every level as those of what is read."""
        if len(self.read) == 1:
            return tokens[self.read[0]]
        grids = self.grids(pixels)
        return torch.cat([spread(level, grid, grids[0]) for level, grid in zip(tokens, grids, strict=True)], -1)

    def grids(self, pixels: Float[Tensor, "B C *T H W"]) -> list[Grid]:
        """Time steps, rows and columns of every level's tokens, of an image or clip."""
        grids, seen = [], pixels
        for encoder in self.encoders:
            assert isinstance(encoder, Encoder)
            grids.append(encoder.grid_of(seen))
            seen = seen.new_empty(1, 1, *grids[-1])
        return grids

    def pooled(self, pixels: Float[Tensor, "B C *T H W"]) -> Float[Tensor, "B D"]:
        """One vector per image or clip: the mean of all tokens of each level that is read."""
        found = self.levels(pixels, 1)
        return torch.cat([found[number][-1].mean(1) for number in self.read], 1)

    @torch.no_grad()
    def intermediates(self, pixels: Float[Tensor, "B C *T H W"], last: int) -> list[Float[Tensor, "B N D"]]:
        """Tokens after each of the last blocks of what is read, every one through the final norm, in order of depth.

        Raises:
            ValueError: there are not that many blocks.
        """
        if not 1 <= last <= self.depth:
            raise ValueError(f"the last {last} blocks of levels of {self.depth}")
        found = self.levels(pixels, last)
        if len(self.read) == 1:
            return found[self.read[0]]
        return [self.beside([blocks[number] for blocks in found], pixels) for number in range(-last, 0)]

    def pooled_and_intermediates(
        self, pixels: Float[Tensor, "B C *T H W"], last: int
    ) -> tuple[Float[Tensor, "B D"], list[Float[Tensor, "B N D"]]]:
        """What pooled and what intermediates give, in one pass."""
        blocks = self.intermediates(pixels, last)
        return blocks[-1].mean(1), blocks


def new_encoders(config: StackConfig) -> list[Encoder]:
    """Untrained, one a level."""
    above = zip(config.above, config.levels[:-1], strict=True)
    return [Encoder(config.first), *(coarse_encoder(coarse, below) for coarse, below in above)]


def spread(tokens: Float[Tensor, "B _ D"], grid: Grid, finer: Grid) -> Float[Tensor, "B _ D"]:
    """Every token of a grid at all places of a finer one that lie in its cell."""
    clip = as_clip(tokens, grid)
    for axis, (few, many) in enumerate(zip(grid, finer, strict=True), start=2):
        clip = clip.repeat_interleave(max(1, many // few), axis) if many > few else clip
    return clip.flatten(2).transpose(1, 2)
