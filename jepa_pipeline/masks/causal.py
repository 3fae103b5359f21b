"""Causal masks: predict the future from the past."""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch

from jepa_pipeline.batch import Masks
from jepa_pipeline.config.tasks import ForwardTaskConfig
from jepa_pipeline.config.video_masks import CausalConfig, Grid
from jepa_pipeline.masks.multiblock import sample_uniform
from jepa_pipeline.masks.multiblock3d import mask_to_indices, smallest


class Causal:
    """The first time steps as context and the others as one target block, or a random subset of each of fixed length."""

    def __init__(self, config: CausalConfig | ForwardTaskConfig, grid: Grid) -> None:
        self.tokens, self.past = prod(grid), config.count_past_tokens(grid)
        self.context_tokens, self.target_tokens = config.count_tokens(grid)

    def __call__(self, generators: Sequence[np.random.Generator], batch_number: int) -> Masks:
        """Return the masks of a batch.

        Args:
            generators: one per clip; its masks depend on nothing else.
            batch_number: unused.
        """
        past, future = np.split(sample_uniform(generators, self.tokens), [self.past], axis=1)
        context = mask_to_indices(smallest(past, self.context_tokens))
        target = self.past + mask_to_indices(smallest(future, self.target_tokens))
        return Masks(torch.from_numpy(context), torch.from_numpy(target[:, None]))
