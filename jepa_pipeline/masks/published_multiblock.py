"""The masks of the published I-JEPA collator, index for index, with its biases.

The biases: all images of an optimizer step have the same block sizes, never the full grid; the last row and column are never used;
and all masks of a micro-batch are truncated to the shortest one, at the end, so that the last rows are rarely used and the context
shrinks as the micro-batch grows.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from jepa_pipeline.batch import Masks
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.masks import LEGACY_MIN_KEEP, MultiBlockConfig, legacy_block_size

FAILURES_PER_CONSTRAINT = 20
Size = tuple[int, int]


class PublishedMultiBlock:
    """Multi-block masks as published: sizes seeded by the step, positions by a generator of the micro-batch's first image."""

    def __init__(self, config: MultiBlockConfig, grid: Size) -> None:
        self.config, self.grid = config, grid

    def __call__(self, generators: Sequence[np.random.Generator], batch_number: int) -> Masks:
        positions = torch.Generator().manual_seed(int(generators[0].integers(2**63)))
        return self.collate(len(generators), torch.Generator().manual_seed(batch_number), positions)

    def collate(self, batch: int, sizes: torch.Generator, positions: torch.Generator) -> Masks:
        """Run the published algorithm on its two generators, in its order of random numbers."""
        target_uniform, context_uniform = (float(torch.rand(1, generator=sizes)) for _ in range(2))
        target = legacy_block_size(target_uniform, self.grid, self.config.target_scale, self.config.target_aspect)
        context = legacy_block_size(context_uniform, self.grid, self.config.context_scale, (1.0, 1.0))
        targets, contexts = [], []
        for _ in range(batch):
            blocks = [self.sample(target, [], positions) for _ in range(self.config.num_targets)]
            targets.append([tokens for tokens, _ in blocks])
            contexts.append(self.sample(context, [complement for _, complement in blocks], positions)[0])
        shortest = min(len(tokens) for blocks in targets for tokens in blocks)
        return Masks(
            torch.stack([tokens[: min(map(len, contexts))] for tokens in contexts]),
            torch.stack([torch.stack([tokens[:shortest] for tokens in blocks]) for blocks in targets]),
        )

    def sample(
        self, size: Size, constraints: list[Tensor], positions: torch.Generator
    ) -> tuple[Int[Tensor, " K"], Int[Tensor, "H W"]]:
        """Return the tokens of a block that meets the constraints, and its complement; 20 failures drop the last constraint."""
        (rows, columns), (height, width) = self.grid, size
        for failures in range(FAILURES_PER_CONSTRAINT * (len(constraints) + 1)):
            top = int(torch.randint(0, rows - height, (1,), generator=positions))
            left = int(torch.randint(0, columns - width, (1,), generator=positions))
            block = torch.zeros(self.grid, dtype=torch.int64)
            block[top : top + height, left : left + width] = 1
            complement = 1 - block
            for constraint in constraints[: len(constraints) - failures // FAILURES_PER_CONSTRAINT]:
                block = block * constraint
            tokens = block.flatten().nonzero().flatten()
            if len(tokens) > LEGACY_MIN_KEEP:
                return tokens, complement
        raise UserError(
            f"no legacy mask of {height}x{width} patches keeps more than {LEGACY_MIN_KEEP} on this {rows}x{columns} grid: "
            "raise target_scale or context_scale, or set legacy to false"
        )
