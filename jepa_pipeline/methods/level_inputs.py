"""The tokens that the levels of an H-JEPA see."""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jepa_pipeline.batch import Masks
from jepa_pipeline.methods.jepa import JEPA, Tokens
from jepa_pipeline.models.coarse import grid_below, tokens_below
from jepa_pipeline.models.tokens import scatter_tokens, tokens_to_clip

Clip = Float[Tensor, "B C *T H W"]


class LevelInputs:
    """Target and context tokens of every level, with one pass of each target encoder over the batch.

    Args:
        levels: from the pixels up.
        detached: for each level, whether its gradient stops there.
        pixels: images or clips.

    Attributes:
        targets: for each level, the target tokens of the whole input.
        clips: for each level, what its target encoder sees: pixels, or the target tokens of the level below.
    """

    def __init__(self, levels: Sequence[JEPA], detached: Sequence[bool], pixels: Clip) -> None:
        self.levels, self.detached = levels, detached
        self.targets: list[Tokens] = []
        self.clips: list[Clip] = []
        self.full_contexts: dict[int, Tokens] = {}
        for level, detach in zip(levels, detached, strict=True):
            below = tokens_to_clip(self.targets[-1], grid_below(level.encoder.config)) if self.targets else pixels
            self.clips.append(below.detach() if detach else below)
            self.targets.append(level.target_encoder(self.clips[-1]))

    def contexts(self, number: int, masks: Sequence[Masks]) -> list[Tokens]:
        """Return the context tokens of a level, counted from 0, for each mask set."""
        level = self.levels[number]
        index = level.predictor.context_masks(masks)
        if index is None:
            return [self.full_context(number)]
        if number == 0:
            return level.encoder(self.clips[0], masks=index)
        return [self.masked_tokens(number, tokens, exported=False) for tokens in index]

    def full_context(self, number: int) -> Tokens:
        """Return the tokens of a level's trained encoder for the whole input."""
        if number not in self.full_contexts:
            encoder, clip = self.levels[number].encoder, self.clips[number]
            if number > 0 and not self.detached[number]:
                clip = tokens_to_clip(self.full_context(number - 1), grid_below(encoder.config))
            self.full_contexts[number] = encoder(clip)
        return self.full_contexts[number]

    def masked_tokens(self, number: int, index: Int[Tensor, "B K"], exported: bool) -> Tokens:
        """Return some tokens of a level, computed only from the patches under them.

        A token of the full pass would know the masked patches, through the attention of the levels below.

        exported: use the encoder to export instead of the trained one. Below a detached level that is the one it was fed by.
        """
        level = self.levels[number]
        encoder = level.encoder_to_export if exported else level.encoder
        if number == 0:
            return encoder(self.clips[0], masks=[index])[0]
        exported, below = exported or self.detached[number], tokens_below(index, encoder.config)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not exported):
            tokens = self.masked_tokens(number - 1, below, exported)
        grid = grid_below(encoder.config)
        return encoder(tokens_to_clip(scatter_tokens(tokens, below, prod(grid)), grid), masks=[index])[0]
