"""The masks of the published V-JEPA and V-JEPA 2 collators, index for index, with their biases.

The biases: all clips of an optimizer step have the same block sizes; and all masks of a micro-batch are truncated to the shortest
one, at the end of the clip, so that the last time steps are hardly ever context and seldom target.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from jepa_pipeline.batch import Masks
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.video_masks import BlocksConfig, Grid

MAX_TRIES = 1000


class PublishedMultiBlock3d:
    """Blocks as published: sizes seeded by the step, positions by a generator of the micro-batch's first clip."""

    def __init__(self, config: BlocksConfig, grid: Grid) -> None:
        self.config, self.grid = config, grid
        self.context_steps = config.context_steps(grid)

    def __call__(self, generators: Sequence[np.random.Generator], batch_number: int) -> Masks:
        positions = torch.Generator().manual_seed(int(generators[0].integers(2**63)))
        return self.collate(len(generators), torch.Generator().manual_seed(batch_number), positions)

    def collate(self, batch: int, sizes: torch.Generator, positions: torch.Generator) -> Masks:
        """Run the published algorithm on its two generators, in its order of random numbers."""
        shape = self.config.legacy_block_shape(self.grid, [float(torch.rand(1, generator=sizes)) for _ in range(3)])
        free = torch.stack([self.sample(shape, positions) for _ in range(batch)])
        context, target = truncate_to_shortest(free), truncate_to_shortest(~free)
        if self.config.rest == "target":
            target = complement(context, prod(self.grid))
        elif self.config.rest == "context":
            context = complement(target, prod(self.grid))
        return Masks(target, context[:, None]) if self.config.inverse else Masks(context, target[:, None])

    def sample(self, shape: Grid, positions: torch.Generator) -> Bool[Tensor, " N"]:
        """Return a mask of the context steps' tokens outside a clip's blocks, sampled again while there are none."""
        (steps, rows, columns), (time, height, width) = self.grid, shape
        for _ in range(MAX_TRIES):
            free = torch.ones(self.grid, dtype=torch.bool)
            free[self.context_steps :] = False
            for _ in range(self.config.num_blocks):
                top = int(torch.randint(0, rows - height + 1, (1,), generator=positions))
                left = int(torch.randint(0, columns - width + 1, (1,), generator=positions))
                start = int(torch.randint(0, steps - time + 1, (1,), generator=positions))
                free[start : start + time, top : top + height, left : left + width] = False
            if free.any():
                return free.flatten()
        raise UserError(
            f"{self.config.num_blocks} legacy blocks of {time}x{height}x{width} tokens leave no context on the "
            f"{steps}x{rows}x{columns} grid: have fewer or smaller blocks"
        )


def truncate_to_shortest(chosen: Bool[Tensor, "B N"]) -> Int[Tensor, "B K"]:
    """Return the first selected tokens of every row, as many as the row with the fewest has."""
    return chosen.byte().argsort(dim=1, descending=True, stable=True)[:, : int(chosen.sum(1).min())]


def complement(chosen: Int[Tensor, "B K"], tokens: int) -> Int[Tensor, "B R"]:
    """Return all other tokens, in order."""
    others = torch.ones(len(chosen), tokens, dtype=torch.bool).scatter_(1, chosen, False)
    return others.nonzero()[:, 1].view(len(chosen), -1)
