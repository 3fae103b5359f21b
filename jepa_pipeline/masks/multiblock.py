"""I-JEPA's multi-block masks, one draw per image and every length fixed."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from jepa_pipeline.batch import Masks
from jepa_pipeline.config.masks import MultiBlockConfig

TRIES = 100


class MultiBlock:
    """Target blocks, and a context block without them (Assran et al. 2023, section 3), for a whole batch at once.

    It differs from the published collator where that is biased. Every image draws the shapes and places of its own blocks,
    and every place of the grid can be reached. All images have the same number of context and of target tokens, whatever the
    batch: of a larger set a *random* subset is kept. Hidden tokens that are not asked for stay hidden. Where a context block
    holds too few free tokens, free tokens outside it are added.
    """

    def __init__(self, config: MultiBlockConfig, grid: tuple[int, int]) -> None:
        self.grid = grid
        self.num_targets = config.num_targets
        self.target_shapes = np.array(config.target_shapes(grid))
        self.context_shapes = np.array(config.context_shapes(grid))
        self.context_tokens = config.context_tokens(grid)
        self.target_tokens = int(self.target_shapes.prod(1).min())

    def __call__(self, generators: Sequence[np.random.Generator], batch_number: int) -> Masks:
        """Masks of a batch.

        Args:
            generators: one per image; nothing else decides its masks.
            batch_number: unused here; the published collator seeds its block sizes with it.
        """
        places, tokens = 3 * self.num_targets, self.grid[0] * self.grid[1]
        largest = int(self.target_shapes.prod(1).max())
        chance = draw(generators, places + 3 + tokens + self.num_targets * largest)
        places, block, free, order = np.split(chance, np.cumsum([places, 3, tokens]), axis=1)
        corners, shapes = self.place_targets(places, generators)
        context = self.choose_context(block, free, np.any(inside(corners, shapes, self.grid), axis=1))
        order = order.reshape(len(generators), self.num_targets, largest)
        targets = self.choose_targets(corners, shapes, order)
        return Masks(torch.from_numpy(context), torch.from_numpy(targets))

    def place_targets(
        self, chance: Float[np.ndarray, "B R"], generators: Sequence[np.random.Generator]
    ) -> tuple[Int[np.ndarray, "B G 2"], Int[np.ndarray, "B G 2"]]:
        """Corners and shapes of the target blocks; drawn again where they leave too little for the context.

        An image that is unlucky every time gets its blocks all in one place, which always leaves enough.
        """
        corners, shapes = place(chance, self.target_shapes, self.grid)
        for _ in range(TRIES):
            (crowded,) = np.nonzero(self.free_tokens(corners, shapes) < self.context_tokens)
            if not len(crowded):
                return corners, shapes
            again = draw([generators[row] for row in crowded.tolist()], 3 * self.num_targets)
            corners[crowded], shapes[crowded] = place(again, self.target_shapes, self.grid)
        crowded = self.free_tokens(corners, shapes) < self.context_tokens
        corners[crowded], shapes[crowded] = corners[crowded, :1], shapes[crowded, :1]
        return corners, shapes

    def free_tokens(self, corners: Int[np.ndarray, "B G 2"], shapes: Int[np.ndarray, "B G 2"]) -> Int[np.ndarray, " B"]:
        return np.sum(~inside(corners, shapes, self.grid).any(1), axis=1)

    def choose_context(
        self, block: Float[np.ndarray, "B 3"], chance: Float[np.ndarray, "B N"], hidden: Bool[np.ndarray, "B N"]
    ) -> Int[np.ndarray, "B K"]:
        """A random subset of the context block's free tokens, in order; others only where those are too few."""
        corners, shapes = place(block, self.context_shapes, self.grid)
        preference = chance + 1.0 * ~inside(corners, shapes, self.grid)[:, 0] + 2.0 * hidden
        return np.sort(np.argpartition(preference, self.context_tokens - 1, axis=1)[:, : self.context_tokens], axis=1)

    def choose_targets(
        self, corners: Int[np.ndarray, "B G 2"], shapes: Int[np.ndarray, "B G 2"], chance: Float[np.ndarray, "B G A"]
    ) -> Int[np.ndarray, "B G M"]:
        """A random subset of each block's tokens, in order."""
        places = np.arange(chance.shape[-1])
        outside = places >= shapes.prod(-1, keepdims=True)
        places = np.sort(np.argsort(chance + outside, axis=-1)[..., : self.target_tokens], axis=-1)
        rows, columns = np.divmod(places, shapes[..., 1:])
        return (corners[..., :1] + rows) * self.grid[1] + corners[..., 1:] + columns


def draw(generators: Sequence[np.random.Generator], count: int) -> Float[np.ndarray, "B R"]:
    """Uniform numbers in [0, 1), each image's from its own generator."""
    numbers = np.empty((len(generators), count))
    for row, generator in zip(numbers, generators, strict=True):
        generator.random(out=row)
    return numbers


def place(
    chance: Float[np.ndarray, "B R"], shapes: Int[np.ndarray, "O 2"], grid: tuple[int, int]
) -> tuple[Int[np.ndarray, "B G 2"], Int[np.ndarray, "B G 2"]]:
    """MultiBlock3d of a shape drawn from those offered, anywhere on the grid: their corners (row, column) and shapes."""
    chance = chance.reshape(len(chance), -1, 3)
    chosen = shapes[(chance[..., 0] * len(shapes)).astype(np.int64)]
    corners = chance[..., 1:] * (np.array(grid) - chosen + 1)
    return corners.astype(np.int64), chosen


def inside(corners: Int[np.ndarray, "B G 2"], shapes: Int[np.ndarray, "B G 2"], grid: tuple[int, int]) -> Bool[np.ndarray, "B G N"]:
    """Which tokens of the grid lie in which block."""
    rows, columns = (
        (corners[..., axis, None] <= np.arange(side)) & (np.arange(side) < (corners + shapes)[..., axis, None])
        for axis, side in enumerate(grid)
    )
    return (rows[..., :, None] & columns[..., None, :]).reshape(*corners.shape[:2], -1)
