"""I-JEPA's mask sets for images: which patches are context and which are targets."""

from random import Random
from statistics import median
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.grid import MAX_BLOCKS, TRIALS, Grid
from jepa_pipeline.config.section import PositiveShare, Section, check_range

LEGACY_MIN_KEEP = 10
"""Patches that every legacy mask must exceed: `min_keep` in the published configurations."""


class MultiBlockConfig(Section):
    """I-JEPA's multi-block masks (Assran et al. 2023, section 3): several target blocks, and a context without them."""

    predicts_future: ClassVar[bool] = False

    name: Literal["multiblock"] = Field(default="multiblock", description="Kind of masks.")
    num_targets: int = Field(default=4, ge=1, le=MAX_BLOCKS, description="Target blocks per image.")
    target_scale: tuple[PositiveShare, PositiveShare] = Field(
        default=(0.15, 0.2), description="Range of the share of the grid that a target block covers."
    )
    target_aspect: tuple[float, float] = Field(default=(0.75, 1.5), description="Range of a target block's height over width.")
    context_scale: tuple[PositiveShare, PositiveShare] = Field(
        default=(0.85, 1.0),
        description="Range of the share of the grid that the context block covers before the targets are removed from it.",
    )
    context_keep: PositiveShare = Field(
        default=0.3, description="Share of the grid's patches that the encoder sees of every image; ignored under legacy."
    )
    legacy: bool = Field(
        default=False,
        description="The published collator, index for index: one block size per optimizer step, never the last row and "
        "column, and every mask cut to the shortest of a device's micro-batch.",
    )

    @model_validator(mode="after")
    def check_ranges(self) -> Self:
        for name in ("target_scale", "target_aspect", "context_scale"):
            check_range(name, *getattr(self, name))
        return self

    def describe(self) -> str:
        """Return the masks in a few words, such as "4 multiblock"."""
        return f"{self.num_targets} multiblock{', legacy' * self.legacy}"

    def target_shapes(self, grid: tuple[int, int]) -> list[tuple[int, int]]:
        """Return every (height, width) in patches that lies within target_scale and target_aspect on this grid."""
        rows, columns = grid
        (small, large), (flat, tall) = self.target_scale, self.target_aspect
        return [
            (height, width)
            for height in range(1, rows + 1)
            for width in range(1, columns + 1)
            if small * rows * columns <= height * width <= large * rows * columns and flat <= height / width <= tall
        ]

    def context_shapes(self, grid: tuple[int, int]) -> list[tuple[int, int]]:
        """Return every (height, width) within context_scale that has the grid's own aspect, rounded to a patch."""
        rows, columns = grid
        small, large = self.context_scale
        sides = {(height, round(height * columns / rows)) for height in range(1, rows + 1)}
        return sorted((h, w) for h, w in sides if small * rows * columns <= h * w <= large * rows * columns)

    def context_tokens(self, grid: tuple[int, int]) -> int:
        """Return how many patches of every image the encoder sees."""
        return max(1, round(self.context_keep * grid[0] * grid[1]))

    def check_grid(self, grid: Grid) -> None:
        """Refuse a grid on which these masks do not exist.

        Raises:
            ValueError: no block shape lies in a range, or the target blocks usually leave less context than context_keep.
        """
        _, rows, columns = grid
        image_grid, tokens, size = (rows, columns), rows * columns, f"the {rows}x{columns} grid"
        if self.legacy:
            sizes = [legacy_block_size(u / 100, image_grid, self.target_scale, self.target_aspect) for u in range(101)]
            smallest = min(height * width for height, width in sizes)
            if smallest <= LEGACY_MIN_KEEP:
                raise ValueError(
                    f"legacy masks need target blocks of more than {LEGACY_MIN_KEEP} patches, but on {size} some have {smallest}: "
                    "raise target_scale, or set legacy to false"
                )
            return
        shapes = self.target_shapes(image_grid)
        if tokens < 2:
            raise ValueError(
                f"{size} is too small for a context and a target: lower patch_size (above the first level, stride.space)"
            )
        if not shapes:
            raise ValueError(
                f"no target block of {size} covers {self.target_scale[0]:g} to {self.target_scale[1]:g} of it with an aspect of "
                f"{self.target_aspect[0]:g} to {self.target_aspect[1]:g}: widen target_scale or target_aspect"
            )
        if not self.context_shapes(image_grid):
            raise ValueError(
                f"no context block of {size} covers {self.context_scale[0]:g} to {self.context_scale[1]:g} of it: "
                "widen context_scale"
            )
        # If most images had to be sampled again, blocks would no longer be distributed uniformly but pile up on each other.
        free = median(self.sample_free_counts(image_grid, shapes))
        if self.context_tokens(image_grid) > free:
            raise ValueError(
                f"context_keep {self.context_keep:g} needs {self.context_tokens(image_grid)} of the {tokens} patches of {size}, "
                f"but the target blocks of every second image leave {free:.0f} or fewer: lower context_keep to "
                f"{int(100 * free / tokens) / 100:.2f} or less, or use fewer or smaller target blocks"
            )

    def sample_free_counts(self, grid: tuple[int, int], shapes: list[tuple[int, int]]) -> list[int]:
        """Return how many patches the target blocks of each of TRIALS images leave free."""
        random, counts = Random(0), []
        for _ in range(TRIALS):
            hidden = [0] * grid[0]  # a bit per patch of each row
            for height, width in random.choices(shapes, k=self.num_targets):
                top, left = random.randint(0, grid[0] - height), random.randint(0, grid[1] - width)
                block = ((1 << width) - 1) << left
                hidden[top : top + height] = [row | block for row in hidden[top : top + height]]
            counts.append(grid[0] * grid[1] - sum(row.bit_count() for row in hidden))
        return counts


def legacy_block_size(u: float, grid: tuple[int, int], scale: tuple[float, float], aspect: tuple[float, float]) -> tuple[int, int]:
    """Return height and width of a block of the published collator, in which one uniform number sets area and aspect."""
    tokens = int(grid[0] * grid[1] * (scale[0] + u * (scale[1] - scale[0])))
    ratio = aspect[0] + u * (aspect[1] - aspect[0])
    height, width = round((tokens * ratio) ** 0.5), round((tokens / ratio) ** 0.5)
    return min(height, grid[0] - 1), min(width, grid[1] - 1)
