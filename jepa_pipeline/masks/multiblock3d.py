"""V-JEPA's multi-block masks in space and time, sampled per clip, with the same number of tokens in every clip."""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from jepa_pipeline.batch import Masks
from jepa_pipeline.config.video_masks import BlocksConfig, Grid
from jepa_pipeline.masks.multiblock import sample_uniform

MAX_TRIES = 100


class MultiBlock3d:
    """Target blocks in space and time, and the rest as context (Bardes et al. 2024, section 3.2), for a whole batch at once.

    It differs from the published collator where that is biased (published_multiblock3d.py). Each clip samples its own block
    shapes and positions, and blocks wrap around the borders of the clip, so that every position is a target equally often. All
    clips have the same number of context and target tokens in every batch: a *random* subset of a larger set is kept, so that
    no time step and no position is used less than others. The target is the union of the blocks: G is 1.
    """

    def __init__(self, config: BlocksConfig, grid: Grid) -> None:
        self.config, self.grid = config, grid
        self.context_tokens, self.target_tokens = config.count_tokens(grid)
        self.future = np.arange(prod(grid)) >= config.context_steps(grid) * grid[1] * grid[2]

    def __call__(self, generators: Sequence[np.random.Generator], batch_number: int) -> Masks:
        """Return the masks of a batch.

        Args:
            generators: one per clip; its masks depend on nothing else.
            batch_number: unused; the published collator seeds its block sizes with it.
        """
        numbers = 6 * self.config.num_blocks
        uniform = sample_uniform(generators, numbers + prod(self.grid))
        context, target = self.choose(self.sample_blocks(uniform[:, :numbers], generators), uniform[:, numbers:])
        return Masks(torch.from_numpy(mask_to_indices(context)), torch.from_numpy(mask_to_indices(target)[:, None]))

    def sample_blocks(
        self, uniform: Float[np.ndarray, "B R"], generators: Sequence[np.random.Generator]
    ) -> Bool[np.ndarray, "B N"]:
        """Return a mask of the tokens in blocks, sampled again where they, or the tokens outside them, are too few."""
        covered = self.cover(uniform)
        for _ in range(MAX_TRIES):
            (invalid,) = np.nonzero(self.invalid(covered))
            if not len(invalid):
                break
            covered[invalid] = self.cover(sample_uniform([generators[row] for row in invalid.tolist()], uniform.shape[1]))
        return covered

    def invalid(self, covered: Bool[np.ndarray, "B N"]) -> Bool[np.ndarray, " B"]:
        count = covered.sum(1)
        return (count < self.target_tokens) | (covered.shape[1] - count < self.context_tokens)

    def cover(self, uniform: Float[np.ndarray, "B R"]) -> Bool[np.ndarray, "B N"]:
        """Return a mask of the tokens in a block or in the future, from six random numbers per block: shape and position."""
        shape_uniform, position_uniform = np.split(uniform.reshape(len(uniform), -1, 6), 2, axis=-1)
        shapes = block_shapes(self.config, self.grid, shape_uniform)
        starts = (position_uniform * np.array(self.grid)).astype(np.int64)
        time, rows, columns = (
            (np.arange(side) - starts[..., axis, None]) % side < shapes[..., axis, None] for axis, side in enumerate(self.grid)
        )
        blocks = time[..., :, None, None] & (rows[..., :, None] & columns[..., None, :])[:, :, None]
        return blocks.any(1).reshape(len(uniform), -1) | self.future

    def choose(
        self, covered: Bool[np.ndarray, "B N"], uniform: Float[np.ndarray, "B N"]
    ) -> tuple[Bool[np.ndarray, "B N"], Bool[np.ndarray, "B N"]]:
        """Return masks of the context and the target: a random subset of the tokens outside and of those inside the blocks.

        If all tries failed, tokens move from one side to the other; tokens of the future never become context.
        """
        context = smallest(uniform + covered + self.future, self.context_tokens)
        target = smallest(np.where(context, 2.0, uniform + ~covered), self.target_tokens)
        if self.config.rest == "target":
            target = ~context
        elif self.config.rest == "context":
            context = ~target
        return (target, context) if self.config.inverse else (context, target)


def block_shapes(config: BlocksConfig, grid: Grid, uniform: Float[np.ndarray, "B G 3"]) -> Int[np.ndarray, "B G 3"]:
    """Return the shapes (time, rows, columns) of blocks from random numbers: `config.block_shape` for a whole batch."""
    steps, rows, columns = grid
    (brief, lasting), (small, large), (flat, tall) = config.time, config.scale, config.aspect
    share, area = brief + uniform[..., 0] * (lasting - brief), (small + uniform[..., 1] * (large - small)) * rows * columns
    lowest_ratio, highest_ratio = np.maximum(flat, area / columns**2), np.minimum(tall, rows**2 / area)
    ratio = lowest_ratio + uniform[..., 2] * (highest_ratio - lowest_ratio)
    shapes = np.stack([steps * share, (area * ratio) ** 0.5, (area / ratio) ** 0.5], axis=-1)
    return np.maximum(1, shapes.round()).astype(np.int64)


def smallest(values: Float[np.ndarray, "B N"], count: int) -> Bool[np.ndarray, "B N"]:
    """Return a mask of the `count` lowest values of every row."""
    chosen = np.zeros(values.shape, bool)
    np.put_along_axis(chosen, np.argpartition(values, count - 1, axis=1)[:, :count], True, axis=1)
    return chosen


def mask_to_indices(chosen: Bool[np.ndarray, "B N"]) -> Int[np.ndarray, "B K"]:
    """Return the indices that a mask selects, equally many in every row."""
    return np.nonzero(chosen)[1].reshape(len(chosen), -1)
