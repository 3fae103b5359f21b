"""V-JEPA's masks of space and time, one draw per clip and every length fixed."""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from jepa_pipeline.batch import Masks
from jepa_pipeline.config.video_masks import BlocksConfig, Grid
from jepa_pipeline.masks.multiblock import draw

TRIES = 100


class MultiBlock3d:
    """MultiBlock3d of space and time to predict, and what they leave as context (Bardes et al. 2024, section 3.2), for a whole batch.

    It differs from the published collator where that is biased. Every clip draws the shapes and places of its own blocks, which
    go on at the opposite side where they leave a clip, so that no place is asked for more than another. All clips have the same
    number of context and of target tokens, whatever the batch: of a larger set a *random* subset is kept, so that no time step
    and no place is starved. The target is one set, the blocks' union: G is 1.
    """

    def __init__(self, config: BlocksConfig, grid: Grid) -> None:
        self.config, self.grid = config, grid
        self.context_tokens, self.target_tokens = config.count_tokens(grid)
        self.future = np.arange(prod(grid)) >= config.context_steps(grid) * grid[1] * grid[2]

    def __call__(self, generators: Sequence[np.random.Generator], batch_number: int) -> Masks:
        """Masks of a batch.

        Args:
            generators: one per clip; nothing else decides its masks.
            batch_number: unused here; the published collator seeds its block sizes with it.
        """
        numbers = 6 * self.config.num_blocks
        chance = draw(generators, numbers + prod(self.grid))
        context, target = self.choose(self.ask(chance[:, :numbers], generators), chance[:, numbers:])
        return Masks(torch.from_numpy(indices(context)), torch.from_numpy(indices(target)[:, None]))

    def ask(self, chance: Float[np.ndarray, "B R"], generators: Sequence[np.random.Generator]) -> Bool[np.ndarray, "B N"]:
        """The tokens in task; drawn again where they, or those they leave, are too few."""
        asked = self.cover(chance)
        for _ in range(TRIES):
            (unfit,) = np.nonzero(self.unfit(asked))
            if not len(unfit):
                break
            asked[unfit] = self.cover(draw([generators[row] for row in unfit.tolist()], chance.shape[1]))
        return asked

    def unfit(self, asked: Bool[np.ndarray, "B N"]) -> Bool[np.ndarray, " B"]:
        count = asked.sum(1)
        return (count < self.target_tokens) | (asked.shape[1] - count < self.context_tokens)

    def cover(self, chance: Float[np.ndarray, "B R"]) -> Bool[np.ndarray, "B N"]:
        """The tokens in a block or in the future, from six uniform numbers a block: three for its shape, three for its place."""
        shape_chance, place_chance = np.split(chance.reshape(len(chance), -1, 6), 2, axis=-1)
        shapes = block_shapes(self.config, self.grid, shape_chance)
        starts = (place_chance * np.array(self.grid)).astype(np.int64)
        time, rows, columns = (
            (np.arange(side) - starts[..., axis, None]) % side < shapes[..., axis, None] for axis, side in enumerate(self.grid)
        )
        blocks = time[..., :, None, None] & (rows[..., :, None] & columns[..., None, :])[:, :, None]
        return blocks.any(1).reshape(len(chance), -1) | self.future

    def choose(
        self, asked: Bool[np.ndarray, "B N"], chance: Float[np.ndarray, "B N"]
    ) -> tuple[Bool[np.ndarray, "B N"], Bool[np.ndarray, "B N"]]:
        """Context and target: of what is not asked and of what is, a random subset each.

        A clip that had no luck in all its tries lends tokens from one to the other; the future is never lent.
        """
        context = lowest(chance + asked + self.future, self.context_tokens)
        target = lowest(np.where(context, 2.0, chance + ~asked), self.target_tokens)
        if self.config.rest == "target":
            target = ~context
        elif self.config.rest == "context":
            context = ~target
        return (target, context) if self.config.inverse else (context, target)


def block_shapes(config: BlocksConfig, grid: Grid, chance: Float[np.ndarray, "B G 3"]) -> Int[np.ndarray, "B G 3"]:
    """config.block_shape for a whole batch."""
    steps, rows, columns = grid
    (brief, lasting), (small, large), (flat, tall) = config.time, config.scale, config.aspect
    share, area = brief + chance[..., 0] * (lasting - brief), (small + chance[..., 1] * (large - small)) * rows * columns
    lowest_ratio, highest_ratio = np.maximum(flat, area / columns**2), np.minimum(tall, rows**2 / area)
    ratio = lowest_ratio + chance[..., 2] * (highest_ratio - lowest_ratio)
    shapes = np.stack([steps * share, (area * ratio) ** 0.5, (area / ratio) ** 0.5], axis=-1)
    return np.maximum(1, shapes.round()).astype(np.int64)


def lowest(values: Float[np.ndarray, "B N"], count: int) -> Bool[np.ndarray, "B N"]:
    """Which are the so many lowest of every row."""
    chosen = np.zeros(values.shape, bool)
    np.put_along_axis(chosen, np.argpartition(values, count - 1, axis=1)[:, :count], True, axis=1)
    return chosen


def indices(chosen: Bool[np.ndarray, "B N"]) -> Int[np.ndarray, "B K"]:
    """Where equally many are chosen in every row."""
    return np.nonzero(chosen)[1].reshape(len(chosen), -1)
