"""I-JEPA's multi-block masks, sampled per image, with the same number of tokens in every image."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from jepa_pipeline.batch import Masks
from jepa_pipeline.config.masks import MultiBlockConfig

MAX_TRIES = 100


class MultiBlock:
    """Target blocks, and a context block without them (Assran et al. 2023, section 3), for a whole batch at once.

    It differs from the published collator where that is biased (published_multiblock.py). Each image samples its own block
    shapes and positions, and blocks reach every position of the grid. All images have the same number of context and target
    tokens in every batch: a *random* subset of a larger block is kept. Masked tokens that are no targets stay masked. If a
    context block has too few free tokens, free tokens outside it are added.
    """

    def __init__(self, config: MultiBlockConfig, grid: tuple[int, int]) -> None:
        self.grid = grid
        self.num_targets = config.num_targets
        self.target_shapes = np.array(config.target_shapes(grid))
        self.context_shapes = np.array(config.context_shapes(grid))
        self.context_tokens = config.context_tokens(grid)
        self.target_tokens = int(self.target_shapes.prod(1).min())

    def __call__(self, generators: Sequence[np.random.Generator], batch_number: int) -> Masks:
        """Return the masks of a batch.

        Args:
            generators: one per image; its masks depend on nothing else.
            batch_number: unused; the published collator seeds its block sizes with it.
        """
        # all random numbers at once, each image's from its own generator: no Python loop over blocks
        target_numbers, tokens = 3 * self.num_targets, self.grid[0] * self.grid[1]
        largest = int(self.target_shapes.prod(1).max())
        uniform = sample_uniform(generators, target_numbers + 3 + tokens + self.num_targets * largest)
        target, block, free, order = np.split(uniform, np.cumsum([target_numbers, 3, tokens]), axis=1)
        corners, shapes = self.sample_targets(target, generators)
        context = self.choose_context(block, free, np.any(block_masks(corners, shapes, self.grid), axis=1))
        order = order.reshape(len(generators), self.num_targets, largest)
        targets = self.choose_targets(corners, shapes, order)
        return Masks(torch.from_numpy(context), torch.from_numpy(targets))

    def sample_targets(
        self, uniform: Float[np.ndarray, "B R"], generators: Sequence[np.random.Generator]
    ) -> tuple[Int[np.ndarray, "B G 2"], Int[np.ndarray, "B G 2"]]:
        """Return the corners and shapes of the target blocks, sampled again where they leave too few tokens for the context.

        After the last try all blocks of an image get the position of its first one, which always leaves enough.
        """
        corners, shapes = sample_blocks(uniform, self.target_shapes, self.grid)
        for _ in range(MAX_TRIES):
            (crowded,) = np.nonzero(self.count_free_tokens(corners, shapes) < self.context_tokens)
            if not len(crowded):
                return corners, shapes
            resampled = sample_uniform([generators[row] for row in crowded.tolist()], 3 * self.num_targets)
            corners[crowded], shapes[crowded] = sample_blocks(resampled, self.target_shapes, self.grid)
        crowded = self.count_free_tokens(corners, shapes) < self.context_tokens
        corners[crowded], shapes[crowded] = corners[crowded, :1], shapes[crowded, :1]
        return corners, shapes

    def count_free_tokens(self, corners: Int[np.ndarray, "B G 2"], shapes: Int[np.ndarray, "B G 2"]) -> Int[np.ndarray, " B"]:
        return np.sum(~block_masks(corners, shapes, self.grid).any(1), axis=1)

    def choose_context(
        self, block: Float[np.ndarray, "B 3"], uniform: Float[np.ndarray, "B N"], covered: Bool[np.ndarray, "B N"]
    ) -> Int[np.ndarray, "B K"]:
        """Return a random subset of the context block's free tokens, in order; other free tokens only if those are too few."""
        corners, shapes = sample_blocks(block, self.context_shapes, self.grid)
        # uniform is in [0, 1): every free token of the block comes before those outside it, and masked tokens come last
        preference = uniform + 1.0 * ~block_masks(corners, shapes, self.grid)[:, 0] + 2.0 * covered
        return np.sort(np.argpartition(preference, self.context_tokens - 1, axis=1)[:, : self.context_tokens], axis=1)

    def choose_targets(
        self, corners: Int[np.ndarray, "B G 2"], shapes: Int[np.ndarray, "B G 2"], uniform: Float[np.ndarray, "B G A"]
    ) -> Int[np.ndarray, "B G M"]:
        """Return a random subset of each block's tokens, in order."""
        index = np.arange(uniform.shape[-1])
        outside = index >= shapes.prod(-1, keepdims=True)
        index = np.sort(np.argsort(uniform + outside, axis=-1)[..., : self.target_tokens], axis=-1)
        rows, columns = np.divmod(index, shapes[..., 1:])
        return (corners[..., :1] + rows) * self.grid[1] + corners[..., 1:] + columns


def sample_uniform(generators: Sequence[np.random.Generator], count: int) -> Float[np.ndarray, "B R"]:
    """Return uniform random numbers in [0, 1), each row from its own generator."""
    numbers = np.empty((len(generators), count))
    for row, generator in zip(numbers, generators, strict=True):
        generator.random(out=row)
    return numbers


def sample_blocks(
    uniform: Float[np.ndarray, "B R"], shapes: Int[np.ndarray, "O 2"], grid: tuple[int, int]
) -> tuple[Int[np.ndarray, "B G 2"], Int[np.ndarray, "B G 2"]]:
    """Return the corners (row, column) and shapes of blocks: a shape chosen from `shapes`, at a position chosen on the grid."""
    uniform = uniform.reshape(len(uniform), -1, 3)
    chosen = shapes[(uniform[..., 0] * len(shapes)).astype(np.int64)]
    corners = uniform[..., 1:] * (np.array(grid) - chosen + 1)
    return corners.astype(np.int64), chosen


def block_masks(
    corners: Int[np.ndarray, "B G 2"], shapes: Int[np.ndarray, "B G 2"], grid: tuple[int, int]
) -> Bool[np.ndarray, "B G N"]:
    """Return a mask of the grid's tokens that lie in each block."""
    rows, columns = (
        (corners[..., axis, None] <= np.arange(side)) & (np.arange(side) < (corners + shapes)[..., axis, None])
        for axis, side in enumerate(grid)
    )
    return (rows[..., :, None] & columns[..., None, :]).reshape(*corners.shape[:2], -1)
