"""The task a video JEPA is asked: which tokens of a clip are hidden, which are seen."""

from collections.abc import Sequence
from math import ceil, floor, log10, prod
from random import Random
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.section import Section

PositiveShare = Annotated[float, Field(gt=0.0, le=1.0)]
Grid = tuple[int, int, int]
"""Time steps, rows and columns of tokens."""
TRIAL_CLIPS = 301
"""Whose blocks are drawn to see what they leave and cover."""


class BlocksConfig(Section):
    """One set of V-JEPA's multi-block masks (Bardes et al. 2024, section 3.2): the target is the union of blocks of space and time.

    Context is what lies in no block, in the first context_time of the steps. All later steps belong to the target as the blocks
    do, so that the future is never seen and always asked for. Of both, a random share is kept.
    """

    name: Literal["blocks"] = Field(default="blocks", description="Which masks.")
    num_blocks: int = Field(
        default=6, ge=1, description="Blocks per clip. Six that wrap cover as much of it as the published eight within it."
    )
    scale: tuple[PositiveShare, PositiveShare] = Field(default=(0.15, 0.15), description="Share of a frame that a block covers.")
    aspect: tuple[float, float] = Field(default=(0.75, 1.5), description="Height over width of a block.")
    time: tuple[PositiveShare, PositiveShare] = Field(
        default=(1.0, 1.0), description="Share of the time steps that a block goes through."
    )
    edges: Literal["wrap", "within"] = Field(
        default="wrap",
        description="wrap: a block that leaves a clip on one side comes in again on the opposite one, so that every place and time "
        "is used alike; within: blocks lie whole inside, which asks most for the middle and shows most of the corners.",
    )
    context_time: PositiveShare = Field(
        default=1.0, description="Share of the time steps, the first ones, in which the context may lie; the later ones are target."
    )
    context_keep: PositiveShare = Field(
        default=0.24,
        description="Share of the clip's tokens that are kept as context of every clip; ignored under legacy and rest: context.",
    )
    target_keep: PositiveShare = Field(
        default=0.5,
        description="Share of the clip's tokens that are kept as target of every clip; ignored under legacy and rest: target.",
    )
    rest: Literal["hidden", "target", "context"] = Field(
        default="hidden",
        description="What tokens are that are kept neither as context nor as target: hidden from both, "
        "predicted too (V-JEPA 2's full_complement), or seen too (its pred_full_complement).",
    )
    inverse: bool = Field(
        default=False, description="At the end, context and target change roles (V-JEPA 2's inv_block): the blocks are seen."
    )
    legacy: bool = Field(
        default=False,
        description="The published collator index for index: one block size a batch, and lengths cut to the batch's shortest from "
        "the tail, which starves the last frames.",
    )

    @model_validator(mode="after")
    def ranges_ascend(self) -> Self:
        for name in ("scale", "aspect", "time"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} is [{low}, {high}]: a range is [low, high] with 0 < low <= high")
        return self

    @model_validator(mode="after")
    def the_future_stays_hidden(self) -> Self:
        if self.rest == "context" and self.context_time < 1:
            raise ValueError(
                f"rest: context would show what context_time {self.context_time:g} hides: leave out one of the two, or set "
                "rest to hidden or target"
            )
        return self

    def block_shape(self, grid: Grid, chance: Sequence[float]) -> Grid:
        """Time steps, rows and columns of a block, from uniform numbers for its share of time, its scale and its aspect.

        The aspect is uniform over those of its range with which a block of this scale fits the frame.
        """
        steps, rows, columns = grid
        share, scale = (low + u * (high - low) for u, (low, high) in zip(chance, (self.time, self.scale), strict=False))
        area = scale * rows * columns
        flat, tall = max(self.aspect[0], area / columns**2), min(self.aspect[1], rows**2 / area)
        ratio = flat + chance[2] * (tall - flat)
        return max(1, round(steps * share)), max(1, round((area * ratio) ** 0.5)), max(1, round((area / ratio) ** 0.5))

    def starts(self, grid: Grid, shape: Grid) -> Grid:
        """At how many time steps, rows and columns a block of a shape may begin."""
        if self.edges == "wrap" and not self.legacy:
            return grid
        steps, rows, columns = (side - part + 1 for side, part in zip(grid, shape, strict=True))
        return steps, rows, columns

    def legacy_block_shape(self, grid: Grid, chance: Sequence[float]) -> Grid:
        """The same of the published collator, which rounds down and cuts a block that does not fit."""
        steps, rows, columns = grid
        ranges = (self.time, self.scale, self.aspect)
        share, scale, ratio = (low + u * (high - low) for u, (low, high) in zip(chance, ranges, strict=True))
        area = int(rows * columns * scale)
        height, width = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        return max(1, int(steps * share)), max(1, min(height, rows)), max(1, min(width, columns))

    def context_steps(self, grid: Grid) -> int:
        """In how many of the first time steps the context may lie."""
        steps = grid[0] * self.context_time
        return max(1, int(steps) if self.legacy else round(steps))

    def kept(self, grid: Grid) -> tuple[int, int]:
        """How many context and how many target tokens the blocks of every clip must provide; 1 where any number will do."""
        context = 1 if self.legacy or self.rest == "context" else round(self.context_keep * prod(grid))
        target = 1 if self.legacy or self.rest == "target" else round(self.target_keep * prod(grid))
        return max(1, context), max(1, target)

    def check_grid(self, grid: Grid) -> None:
        """Refuse a grid on which these masks do not exist.

        Raises:
            ValueError: blocks of these shapes do not, or most clips' leave a smaller context or cover a smaller target than asked.
        """
        self.check_shapes(grid)
        tokens, most = prod(grid), TRIAL_CLIPS // 2 + 1
        size = f"the {tokens} tokens of the {grid[0]}x{grid[1]}x{grid[2]} grid"
        context, target = self.kept(grid)
        free = sorted(self.sample_free(grid))
        seen, asked = [n for n in free if n >= context], [n for n in free if n <= tokens - target]
        if len([n for n in seen if n <= tokens - target]) >= most:
            return
        if len(seen) < most:
            left = (asked if len(asked) >= most else free)[-most]
            beside = f" beside the {target} of target_keep" if target > 1 and len(asked) >= most else ""
            if left < 1:
                raise ValueError(f"the blocks of most clips leave none of {size} as context{beside}: have fewer or smaller blocks")
            raise ValueError(
                f"context_keep {self.context_keep:g} asks for {context} of {size}, but the blocks of most clips leave {left} or "
                f"fewer{beside}: lower context_keep to {rounded_down(left / tokens)} or less, or have fewer or smaller blocks"
                f"{', or raise context_time' if self.context_time < 1 else ''}"
            )
        covered = tokens - seen[most - 1]
        beside = f" beside the {context} of context_keep" if context > 1 else ""
        raise ValueError(
            f"target_keep {self.target_keep:g} asks for {target} of {size}, but the blocks of most clips cover {covered} or "
            f"fewer{beside}: lower target_keep to {rounded_down(covered / tokens)} or less, or have more or larger blocks"
        )

    def check_shapes(self, grid: Grid) -> None:
        """Refuse blocks of less than a token, and blocks that fit a frame with no aspect that is allowed."""
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
                f"{rows}x{columns} tokens: lower scale to {rounded_down(largest)} or less, or widen aspect"
            )

    def sample_free(self, grid: Grid) -> list[int]:
        """How many tokens the blocks of some clips leave free in the time steps of the context.

        A set of tokens is an integer here, one bit a token, and repeated(1, n, stride) the start of n runs.
        """
        random, (steps, rows, columns) = Random(0), grid
        frame = rows * columns
        shape = self.legacy_block_shape if self.legacy else self.block_shape
        future = (1 << steps * frame) - (1 << self.context_steps(grid) * frame)
        free = []
        for _ in range(TRIAL_CLIPS):
            asked = future
            for _ in range(self.num_blocks):
                time, height, width = shape(grid, [random.random() for _ in range(3)])
                start, top, left = map(random.randrange, self.starts(grid, (time, height, width)))
                row = rolled((1 << width) - 1, left, columns)
                asked |= rolled(
                    repeated(rolled(repeated(row, height, columns), top * columns, frame), time, frame),
                    start * frame,
                    steps * frame,
                )
            free.append(steps * frame - asked.bit_count())
        return free


def rolled(bits: int, by: int, size: int) -> int:
    """The lowest so many bits moved up; those that leave come in again from below."""
    bits <<= by
    return (bits | bits >> size) & ((1 << size) - 1)


def repeated(bits: int, times: int, stride: int) -> int:
    """So many copies of these bits, each a stride further on."""
    return bits * (((1 << times * stride) - 1) // ((1 << stride) - 1))


def rounded_down(share: float) -> str:
    """To three digits."""
    step = 10.0 ** (floor(log10(share)) - 2)
    return f"{floor(share / step) * step:.3g}"


class CausalConfig(Section):
    """The future from the past: the first time steps are the context, the others the target."""

    name: Literal["causal"] = Field(description="Which masks.")
    context_time: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.5, description="Share of the time steps that are past; at least one step is, and at least one is not."
    )
    context_keep: PositiveShare = Field(default=1.0, description="Share of the past's tokens the encoder sees, drawn at random.")
    target_keep: PositiveShare = Field(default=1.0, description="Share of the future's tokens that are predicted, drawn at random.")

    def past(self, grid: Grid) -> int:
        """How many tokens, the first ones, are past."""
        return min(max(1, round(self.context_time * grid[0])), grid[0] - 1) * grid[1] * grid[2]

    def kept(self, grid: Grid) -> tuple[int, int]:
        """How many tokens are context and how many target, of every clip."""
        past = self.past(grid)
        return max(1, round(self.context_keep * past)), max(1, round(self.target_keep * (prod(grid) - past)))

    def check_grid(self, grid: Grid) -> None:
        """Refuse clips without a future.

        Raises:
            ValueError: they have one time step.
        """
        if grid[0] < 2:
            raise ValueError(
                f"causal masks need two time steps or more, but clips have {grid[0]}: raise encoder.frames, or lower "
                "tubelet_size (of a level above the first, stride.time)"
            )


VideoMasksConfig = Annotated[BlocksConfig | CausalConfig, Field(discriminator="name")]
SHORT_RANGE = BlocksConfig()
LONG_RANGE = BlocksConfig(num_blocks=2, scale=(0.56, 0.56), context_keep=0.1, target_keep=0.65)
"""They cover 62 and 80 percent of a clip, as the published 8 blocks of 0.15 and 2 of 0.7 do, which lie within it."""
