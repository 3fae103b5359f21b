"""V-JEPA's mask sets for clips: which tokens are context and which are targets."""

from collections.abc import Sequence
from math import ceil, floor, log10, prod
from random import Random
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.grid import MAX_BLOCKS, TRIALS, Grid
from jepa_pipeline.config.section import PositiveShare, Section, check_range


class BlocksConfig(Section):
    """One set of V-JEPA's multi-block masks (Bardes et al. 2024, section 3.2): the target is a union of blocks of space and time.

    The context lies outside all blocks, in the first context_time of the steps; all later steps are target. A random
    subset of each is kept. A block that crosses an edge of the clip continues at the opposite edge, so that every
    position is masked equally often; the published blocks (`legacy`) lie within the clip and favor its center.
    """

    predicts_future: ClassVar[bool] = False

    name: Literal["blocks"] = Field(default="blocks", description="Kind of masks.")
    num_blocks: int = Field(
        default=6,
        ge=1,
        le=MAX_BLOCKS,
        description="Blocks per clip. Six that wrap around cover as much as the published eight that do not.",
    )
    scale: tuple[PositiveShare, PositiveShare] = Field(
        default=(0.15, 0.15), description="Range of the share of a frame that a block covers."
    )
    aspect: tuple[float, float] = Field(default=(0.75, 1.5), description="Range of a block's height over width.")
    time: tuple[PositiveShare, PositiveShare] = Field(
        default=(1.0, 1.0), description="Range of the share of the time steps that a block spans."
    )
    context_time: PositiveShare = Field(
        default=1.0, description="Share of the time steps, the first ones, that may hold context; later ones are target."
    )
    context_keep: PositiveShare = Field(
        default=0.24, description="Share of a clip's tokens kept as context; ignored under legacy and under rest: context."
    )
    target_keep: PositiveShare = Field(
        default=0.5, description="Share of a clip's tokens kept as target; ignored under legacy and under rest: target."
    )
    rest: Literal["hidden", "target", "context"] = Field(
        default="hidden",
        description="Use of the tokens that are kept neither as context nor as target: hidden, none; target, predicted too "
        "(V-JEPA 2's full_complement); context, visible too (its pred_full_complement).",
    )
    inverse: bool = Field(default=False, description="Swap context and target at the end (V-JEPA 2's inv_block).")
    legacy: bool = Field(
        default=False,
        description="The published collator, index for index: one block size per optimizer step, and every mask cut to the "
        "shortest of a device's micro-batch from the end, which drops the last frames most often.",
    )

    @model_validator(mode="after")
    def check_ranges(self) -> Self:
        for name in ("scale", "aspect", "time"):
            check_range(name, *getattr(self, name))
        return self

    @model_validator(mode="after")
    def keep_future_hidden(self) -> Self:
        if self.rest == "context" and self.context_time < 1:
            raise ValueError(
                f"rest: context would show the steps that context_time {self.context_time:g} hides: remove one of the two, or set "
                "rest to hidden or target"
            )
        return self

    def describe(self) -> str:
        """Return the masks in a few words, such as "6 blocks"."""
        return f"{self.num_blocks} blocks{', legacy' * self.legacy}"

    def block_shape(self, grid: Grid, chance: Sequence[float]) -> Grid:
        """Return time steps, rows and columns of a block, from uniform numbers for its share of time, scale and aspect.

        The aspect is uniform over the part of its range in which a block of this scale fits the frame.
        """
        steps, rows, columns = grid
        share, scale = (low + u * (high - low) for u, (low, high) in zip(chance, (self.time, self.scale), strict=False))
        area = scale * rows * columns
        flat, tall = max(self.aspect[0], area / columns**2), min(self.aspect[1], rows**2 / area)
        ratio = flat + chance[2] * (tall - flat)
        return max(1, round(steps * share)), max(1, round((area * ratio) ** 0.5)), max(1, round((area / ratio) ** 0.5))

    def legacy_block_shape(self, grid: Grid, chance: Sequence[float]) -> Grid:
        """Return the same for the published collator, which rounds down and crops a block that does not fit."""
        steps, rows, columns = grid
        ranges = (self.time, self.scale, self.aspect)
        share, scale, ratio = (low + u * (high - low) for u, (low, high) in zip(chance, ranges, strict=True))
        area = int(rows * columns * scale)
        height, width = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        return max(1, int(steps * share)), max(1, min(height, rows)), max(1, min(width, columns))

    def context_steps(self, grid: Grid) -> int:
        """Return the number of first time steps that may hold context."""
        steps = grid[0] * self.context_time
        return max(1, int(steps) if self.legacy else round(steps))

    def count_tokens(self, grid: Grid) -> tuple[int, int]:
        """Return how many context and target tokens every clip must have; 1 where any number will do."""
        context = 1 if self.legacy or self.rest == "context" else round(self.context_keep * prod(grid))
        target = 1 if self.legacy or self.rest == "target" else round(self.target_keep * prod(grid))
        return max(1, context), max(1, target)

    def check_grid(self, grid: Grid) -> None:
        """Refuse a grid on which these masks do not exist.

        Raises:
            ValueError: blocks of these shapes do not exist, or those of most clips leave too little context or cover too
                little target.
        """
        self.check_shapes(grid)
        tokens, most = prod(grid), TRIALS // 2 + 1
        size = f"the {tokens} tokens of the {grid[0]}x{grid[1]}x{grid[2]} grid"
        context, target = self.count_tokens(grid)
        free = sorted(self.sample_free_counts(grid))
        enough_context = [n for n in free if n >= context]
        enough_target = [n for n in free if n <= tokens - target]
        if len([n for n in enough_context if n <= tokens - target]) >= most:
            return
        if len(enough_context) < most:
            left = (enough_target if len(enough_target) >= most else free)[-most]
            besides = f" besides the {target} of target_keep" if target > 1 and len(enough_target) >= most else ""
            if left < 1:
                raise ValueError(f"the blocks of most clips leave none of {size} as context{besides}: use fewer or smaller blocks")
            raise ValueError(
                f"context_keep {self.context_keep:g} needs {context} of {size}, but the blocks of most clips leave {left} or "
                f"fewer{besides}: lower context_keep to {round_down(left / tokens)} or less, or use fewer or smaller blocks"
                f"{', or raise context_time' if self.context_time < 1 else ''}"
            )
        covered = tokens - enough_context[most - 1]
        besides = f" besides the {context} of context_keep" if context > 1 else ""
        raise ValueError(
            f"target_keep {self.target_keep:g} needs {target} of {size}, but the blocks of most clips cover {covered} or "
            f"fewer{besides}: lower target_keep to {round_down(covered / tokens)} or less, or use more or larger blocks"
        )

    def check_shapes(self, grid: Grid) -> None:
        """Raise ValueError if blocks are smaller than a token, or do not fit a frame with any aspect allowed."""
        _, rows, columns = grid
        low, high = self.scale
        if low * rows * columns < 1:
            raise ValueError(
                f"a block of scale {low:g} is smaller than a token of the {rows}x{columns} tokens of a frame: "
                f"raise scale to {ceil(1000 / (rows * columns)) / 1000:g} or more"
            )
        largest = min(1.0, self.aspect[1] * columns / rows, rows / (self.aspect[0] * columns))
        if high > largest and not self.legacy:
            raise ValueError(
                f"a block of scale {high:g} with an aspect of {self.aspect[0]:g} to {self.aspect[1]:g} does not fit a frame of "
                f"{rows}x{columns} tokens: lower scale to {round_down(largest)} or less, or widen aspect"
            )

    def sample_free_counts(self, grid: Grid) -> list[int]:
        """Return how many tokens of the context's time steps the blocks of each of TRIALS clips leave free.

        Sets of tokens are integers with one bit per token, which is much faster than Python sets: every recipe is
        checked before torch or numpy are imported.
        """
        random, (steps, rows, columns) = Random(0), grid
        frame = rows * columns
        shape = self.legacy_block_shape if self.legacy else self.block_shape
        future = (1 << steps * frame) - (1 << self.context_steps(grid) * frame)
        counts = []
        for _ in range(TRIALS):
            covered = future
            for _ in range(self.num_blocks):
                block = shape(grid, [random.random() for _ in range(3)])
                ends = [side - part + 1 if self.legacy else side for side, part in zip(grid, block, strict=True)]
                (time, height, width), (start, top, left) = block, map(random.randrange, ends)
                row = rotate_bits((1 << width) - 1, left, columns)
                image = rotate_bits(repeat_bits(row, height, columns), top * columns, frame)
                covered |= rotate_bits(repeat_bits(image, time, frame), start * frame, steps * frame)
            counts.append(steps * frame - covered.bit_count())
        return counts


def rotate_bits(bits: int, by: int, size: int) -> int:
    """Return an integer of `size` bits rotated left."""
    bits <<= by
    return (bits | bits >> size) & ((1 << size) - 1)


def repeat_bits(bits: int, times: int, stride: int) -> int:
    """Return the OR of `times` copies of the bits, each `stride` bits further left; by doubling, which is fast on any grid."""
    copies = 1
    while copies < times:
        new = min(copies, times - copies)
        bits |= bits << new * stride
        copies += new
    return bits


def round_down(share: float) -> str:
    """Return a share rounded down to three digits."""
    step = 10.0 ** (floor(log10(share)) - 2)
    return f"{floor(share / step) * step:.3g}"


class CausalConfig(Section):
    """The future from the past: the first time steps are context, all others target."""

    predicts_future: ClassVar[bool] = True
    legacy: ClassVar[bool] = False

    name: Literal["causal"] = Field(description="Kind of masks.")
    context_time: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.5, description="Share of the time steps that are past: at least one step, and not all."
    )
    context_keep: PositiveShare = Field(default=1.0, description="Share of the past's tokens that are context, at random.")
    target_keep: PositiveShare = Field(default=1.0, description="Share of the future's tokens that are target, at random.")

    def describe(self) -> str:
        """Return "causal"."""
        return self.name

    def count_past_tokens(self, grid: Grid) -> int:
        """Return how many tokens, the first ones, are past."""
        return min(max(1, round(self.context_time * grid[0])), grid[0] - 1) * grid[1] * grid[2]

    def count_tokens(self, grid: Grid) -> tuple[int, int]:
        """Return how many tokens of every clip are context and how many target."""
        past = self.count_past_tokens(grid)
        return max(1, round(self.context_keep * past)), max(1, round(self.target_keep * (prod(grid) - past)))

    def check_grid(self, grid: Grid) -> None:
        """Raise ValueError for clips of one time step, which have no future."""
        if grid[0] < 2:
            raise ValueError(
                f"causal masks need two time steps or more, but clips have {grid[0]}: raise encoder.frames, or lower "
                "tubelet_size (above the first level, stride.time)"
            )


VideoMasksConfig = Annotated[BlocksConfig | CausalConfig, Field(discriminator="name")]

# They cover 62 % and 80 % of a clip, as the published 8 blocks of 0.15 and 2 of 0.7 do without wrapping around.
SHORT_RANGE = BlocksConfig()
LONG_RANGE = BlocksConfig(num_blocks=2, scale=(0.56, 0.56), context_keep=0.1, target_keep=0.65)
