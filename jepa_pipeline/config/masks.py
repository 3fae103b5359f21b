"""The task a JEPA is asked: which patches are hidden, which are seen."""

from itertools import product
from random import Random
from statistics import median
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.section import Section

PositiveShare = Annotated[float, Field(gt=0.0, le=1.0)]


class MultiBlockConfig(Section):
    """I-JEPA's multi-block masks (Assran et al. 2023, section 3): several target blocks, and a context without them."""

    name: Literal["multiblock"] = Field(default="multiblock", description="Which masks.")
    num_targets: int = Field(default=4, ge=1, description="Target blocks per image.")
    target_scale: tuple[PositiveShare, PositiveShare] = Field(
        default=(0.15, 0.2), description="Share of the grid a target block covers."
    )
    target_aspect: tuple[float, float] = Field(default=(0.75, 1.5), description="Height over width of a target block.")
    context_scale: tuple[PositiveShare, PositiveShare] = Field(
        default=(0.85, 1.0), description="Share of the grid the context block covers before the targets are cut out of it."
    )
    context_keep: PositiveShare = Field(
        default=0.3, description="Share of the grid's patches the encoder sees of every image; ignored under legacy."
    )
    legacy: bool = Field(
        default=False, description="The published collator index for index: biased bounds, and lengths cut to the batch's shortest."
    )
    legacy_min_keep: int = Field(
        default=10, ge=0, description="Patches every legacy mask must exceed; other values than 10 fit small grids."
    )

    @model_validator(mode="after")
    def ranges_ascend(self) -> Self:
        for name in ("target_scale", "target_aspect", "context_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} is [{low}, {high}]: a range is [low, high] with 0 < low <= high")
        return self

    def target_shapes(self, grid: tuple[int, int]) -> list[tuple[int, int]]:
        """Every (height, width) in patches that lies within target_scale and target_aspect on this grid."""
        rows, columns = grid
        (small, large), (flat, tall) = self.target_scale, self.target_aspect
        return [
            (height, width)
            for height in range(1, rows + 1)
            for width in range(1, columns + 1)
            if small * rows * columns <= height * width <= large * rows * columns and flat <= height / width <= tall
        ]

    def context_shapes(self, grid: tuple[int, int]) -> list[tuple[int, int]]:
        """Every (height, width) of the grid's own aspect, to within a patch, that lies within context_scale."""
        rows, columns = grid
        small, large = self.context_scale
        sides = {(height, round(height * columns / rows)) for height in range(1, rows + 1)}
        return sorted((h, w) for h, w in sides if small * rows * columns <= h * w <= large * rows * columns)

    def context_tokens(self, grid: tuple[int, int]) -> int:
        """How many patches of every image the encoder sees."""
        return max(1, round(self.context_keep * grid[0] * grid[1]))

    def check_grid(self, grid: tuple[int, int]) -> None:
        """Refuse a grid on which these masks do not exist.

        Raises:
            ValueError: no block shape lies in a range, or the target blocks seldom leave as large a context as asked.
        """
        tokens = grid[0] * grid[1]
        size = f"the {grid[0]}x{grid[1]} grid"
        if self.legacy:
            sizes = [legacy_block_size(u / 100, grid, self.target_scale, self.target_aspect) for u in range(101)]
            smallest = min(height * width for height, width in sizes)
            if smallest <= self.legacy_min_keep:
                raise ValueError(
                    f"legacy masks need target blocks of more than legacy_min_keep {self.legacy_min_keep} patches, but on {size} "
                    f"they have as few as {smallest}: set legacy_min_keep to {smallest - 1} or less"
                )
            return
        shapes = self.target_shapes(grid)
        if tokens < 2:
            raise ValueError(
                f"{size} cannot be both hidden and seen: make patches smaller (of a level above the first, lower stride.space)"
            )
        if not shapes:
            raise ValueError(
                f"no target block of {size} covers {self.target_scale[0]:g} to {self.target_scale[1]:g} of it with an aspect of "
                f"{self.target_aspect[0]:g} to {self.target_aspect[1]:g}: widen target_scale or target_aspect"
            )
        if not self.context_shapes(grid):
            raise ValueError(
                f"no context block of {size} covers {self.context_scale[0]:g} to {self.context_scale[1]:g} of it: "
                "widen context_scale"
            )
        room = median(self.sample_room(grid, shapes))
        if self.context_tokens(grid) > room:
            raise ValueError(
                f"context_keep {self.context_keep:g} asks for {self.context_tokens(grid)} of the {tokens} patches of {size}, "
                f"but the target blocks of every second image leave {room:.0f} or fewer, and drawing them anew would pile them up: "
                f"lower context_keep to {int(100 * room / tokens) / 100:.2f} or less, or have fewer or smaller target blocks"
            )

    def sample_room(self, grid: tuple[int, int], shapes: list[tuple[int, int]]) -> list[int]:
        """How many patches a few hundred draws of the target blocks leave."""
        draw, rooms = Random(0), []
        for _ in range(301):
            hidden: set[tuple[int, int]] = set()
            for height, width in draw.choices(shapes, k=self.num_targets):
                top, left = draw.randint(0, grid[0] - height), draw.randint(0, grid[1] - width)
                hidden.update(product(range(top, top + height), range(left, left + width)))
            rooms.append(grid[0] * grid[1] - len(hidden))
        return rooms


def legacy_block_size(u: float, grid: tuple[int, int], scale: tuple[float, float], aspect: tuple[float, float]) -> tuple[int, int]:
    """Height and width of a block of the published collator: one uniform number drives both its area and its aspect."""
    tokens = int(grid[0] * grid[1] * (scale[0] + u * (scale[1] - scale[0])))
    ratio = aspect[0] + u * (aspect[1] - aspect[0])
    height, width = round((tokens * ratio) ** 0.5), round((tokens / ratio) ** 0.5)
    return min(height, grid[0] - 1), min(width, grid[1] - 1)
